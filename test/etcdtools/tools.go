//go:build tools

// Package tools pins the genuine etcd programs that the end-to-end tests use. It is a module of
// its own, so that etcd's server is not among the dependencies of the product. `go install
// …@v3.7.3` is refused for these programs because of their replace directives.
package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
