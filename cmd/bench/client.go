package main

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench"
	"pontoon/shard/router/etcdshim"
)

// The clients that there are.
const (
	clientPlain = "clientv3"
	clientShim  = "shim"
)

// clientsOf are the clients for the kinds of targets. Genuine etcd is always measured through its own.
// The shim is the strict one: it fails where it would have to take the ordinary way, so that nothing
// else is measured by mistake.
func clientsOf(name string) (map[string]bench.Client, error) {
	switch name {
	case clientPlain:
		return nil, nil
	case clientShim:
		shim := bench.Client{Name: clientShim, New: func(c clientv3.Config) (*clientv3.Client, error) {
			return etcdshim.NewDirect(context.Background(), c) // c.DialTimeout bounds it
		}}
		return map[string]bench.Client{bench.TargetPontoon: shim, bench.TargetEndpoints: shim}, nil
	}
	return nil, usage("--client is %q, want %s or %s", name, clientPlain, clientShim)
}
