package etcdshim_test

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/headers"
)

// Every header names its request's own point in the order, through whatever node it was asked.
func TestHeaderRevisions(t *testing.T) {
	c := start(t, 3, nil)
	var clients []*clientv3.Client
	for _, addr := range c.addrs {
		cfg := c.config()
		cfg.Endpoints = []string{addr}
		cli, err := clientv3.New(cfg)
		clients = append(clients, opened(t, cli, err))
	}
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	headers.Run(t, clients, headers.Options{Rounds: rounds})
}
