package etcdshim_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/peer"
	"pontoon/internal/server"
	"pontoon/shard"
)

// A watchdog of Pebble's files outlives their store for up to a second; it is not ours.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

const (
	clusterID = 0xc1
	patience  = 2 * time.Minute // of a test, on a busy machine
)

// cluster is a few nodes in this process, on loopback ports.
type cluster struct {
	nodes []*server.Server
	addrs []string // client addresses
}

// start starts a cluster and waits until it serves. advert, if not nil, says what client URL a
// node advertises.
func start(t *testing.T, nodes int, advert func(i int, addr string) string) *cluster {
	t.Helper()
	var clients []server.Listener
	for range nodes {
		clients = append(clients, listen(t, "127.0.0.1:0"))
	}
	return startAt(t, clusterID, clients, advert)
}

// startAt is start with a cluster id, on sockets that are open already.
func startAt(t *testing.T, clusterID uint64, clients []server.Listener, advert func(i int, addr string) string) *cluster {
	t.Helper()
	c := &cluster{}
	var members []shard.Member
	var peers []server.Listener
	for i := range clients {
		peers = append(peers, listen(t, "127.0.0.1:0"))
		members = append(members, shard.Member{ID: shard.NodeID(0x11 + i), Name: fmt.Sprintf("n%d", i+1), PeerURLs: []string{peers[i].URL}})
		c.addrs = append(c.addrs, clients[i].Addr().String())
	}
	for i := range clients {
		url := clients[i].URL
		if advert != nil {
			url = advert(i, c.addrs[i])
		}
		s, err := server.New(server.Config{
			Host: host.Config{
				Name: members[i].Name, Identity: peer.Identity{ClusterID: clusterID, Node: members[i].ID}, Members: members,
				DataDir: t.TempDir(), Peer: peers[i : i+1], ClientURLs: []string{url}, SplitKeys: [][]byte{[]byte("g"), []byte("p")},
			},
			Front: front.Config{Client: clients[i : i+1], MaxRequestBytes: 64 << 10, MaxTxnOps: 16},
		})
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		c.nodes = append(c.nodes, s)
		t.Cleanup(func() { c.stop(t, i) })
	}
	for i, s := range c.nodes {
		select {
		case <-s.Ready():
		case err := <-s.Done():
			t.Fatalf("node %d: %v", i, err)
		case <-time.After(patience):
			t.Fatalf("node %d is not ready", i)
		}
	}
	return c
}

// stop stops a node; later calls do nothing.
func (c *cluster) stop(t *testing.T, i int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.nodes[i].Stop(ctx); err != nil {
		t.Errorf("stop node %d: %v", i, err)
	}
}

func listen(t *testing.T, addr string) server.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return server.Listener{Listener: l, URL: "http://" + l.Addr().String()}
}

// config is what both kinds of client are made with.
func (c *cluster) config() clientv3.Config {
	return clientv3.Config{Endpoints: c.addrs, DialTimeout: patience, Logger: zap.NewNop()}
}

// opened closes a client with the test.
func opened(t *testing.T, cli *clientv3.Client, err error) *clientv3.Client {
	t.Helper()
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	t.Cleanup(func() {
		if err := cli.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	return cli
}
