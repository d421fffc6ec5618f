package e2e

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
	"pontoon/test/headers"
)

// TestHeaderRevisions holds the header of every kind of call, while all kinds are made at once through
// every member, to etcd's model.
func TestHeaderRevisions(t *testing.T) {
	c := newCluster(t, harness.Options{})
	before := terms(t, c)
	var clients []*clientv3.Client
	for _, n := range c.Nodes {
		clients = append(clients, newClient(t, c, n.ClientURL))
	}
	headers.Run(t, clients, headers.Options{})
	if after := terms(t, c); after != before { // the machine stood still for so long that leaders were elected
		t.Logf("leaders changed, from terms %s to %s", before, after)
	}
}
