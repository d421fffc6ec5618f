// Package peertest runs peer services on loopback listeners, for tests only. It owns the
// listeners, the servers and a dialer per node; what is served is the test's own.
package peertest

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/peer"
	"pontoon/shard"
)

// ClusterID is the cluster of every node unless a test says otherwise.
const ClusterID = 0xc1

// Net is a set of nodes that know one another's addresses.
type Net struct {
	mu struct {
		sync.Mutex
		addrs map[shard.NodeID]string
	}
}

// NewNet returns an empty set.
func NewNet() *Net {
	n := new(Net)
	n.mu.addrs = make(map[shard.NodeID]string)
	return n
}

// Resolve returns a node's address, as peer.DialerConfig wants it.
func (n *Net) Resolve(node shard.NodeID) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, ok := n.mu.addrs[node]
	return addr, ok
}

// Set states the address of a node.
func (n *Net) Set(node shard.NodeID, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.addrs[node] = addr
}

// Dialer returns a dialer of a node, closed with the test.
func (n *Net) Dialer(t testing.TB, node shard.NodeID) *peer.Dialer {
	return n.DialerAs(t, peer.Identity{ClusterID: ClusterID, Node: node})
}

// DialerAs is Dialer with any identity.
func (n *Net) DialerAs(t testing.TB, id peer.Identity) *peer.Dialer {
	d := peer.NewDialer(peer.DialerConfig{Identity: id, Resolve: n.Resolve})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close dialer: %v", err)
		}
	})
	return d
}

// Server is a running peer server.
type Server struct {
	Addr string
	gs   *grpc.Server
	done chan struct{}
}

// Serve starts the peer server of a node: on its old address if it has one. It is stopped
// with the test, or before by Stop.
func (n *Net) Serve(t testing.TB, node shard.NodeID, raft peer.RaftService, calls peer.CallService, gossip peer.GossipService) *Server {
	t.Helper()
	addr, ok := n.Resolve(node)
	if !ok {
		addr = "127.0.0.1:0"
	}
	lis := listen(t, addr)
	s := &Server{Addr: lis.Addr().String(), gs: grpc.NewServer(peer.ServerOptions()...), done: make(chan struct{})}
	n.Set(node, s.Addr)
	peer.NewServer(peer.Identity{ClusterID: ClusterID, Node: node}, nil, raft, calls, gossip).Register(s.gs)
	go func() {
		defer close(s.done)
		if err := s.gs.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve node %v: %v", node, err)
		}
	}()
	t.Cleanup(s.Stop)
	return s
}

// Stop breaks all connections and frees the address.
func (s *Server) Stop() {
	s.gs.Stop()
	<-s.done
}

// listen waits for an address that was freed just now.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var lis net.Listener
	Eventually(t, "listen on "+addr, func() bool {
		var err error
		lis, err = net.Listen("tcp", addr)
		return err == nil
	})
	return lis
}

// Eventually waits until cond holds, for ten seconds at most.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not come true: %s", what)
		}
	}
}
