package peerrpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

// triangle is three meshes, of which the first has no wire to the third while cut is set.
type triangle struct {
	a   *Mesh
	cut atomic.Bool
}

func newTriangle(t *testing.T) *triangle {
	net := peertest.NewNet()
	tr := &triangle{}
	tr.cut.Store(true)
	others := func(shard.NodeID) []shard.NodeID { return []shard.NodeID{1, 2, 3} }
	d := net.Dialer(t, 1)
	tr.a = New(Config{Node: 1, SilenceTick: 10 * time.Millisecond, Relays: others, Dial: func(n shard.NodeID) (grpc.ClientConnInterface, error) {
		if n == 3 && tr.cut.Load() {
			return nil, errors.New("no wire")
		}
		return d.For(peer.ClassCalls)(n)
	}})
	t.Cleanup(func() { _ = tr.a.Close() })
	b := start(t, net, 2, Config{Handler: echo, Relays: others})
	net.Serve(t, 2, nil, b, nil)
	c := start(t, net, 3, Config{Relays: others, Handler: func(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		if _, bounded := ctx.Deadline(); !bounded || req.RelayTo != 0 {
			t.Errorf("node %v: %v", from, req)
		}
		reply(&pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: 1000 + int64(req.Oracle.Count)}})
	}})
	net.Serve(t, 3, nil, c, nil)
	return tr
}

func TestDetour(t *testing.T) {
	tr := newTriangle(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := tr.a.Call(ctx, 3, ask(1)); !errors.Is(err, shard.ErrUnavailable) {
		t.Fatalf("the first call finds out: %v", err)
	}
	for i := range uint32(100) {
		resp, err := tr.a.Call(ctx, 3, ask(i))
		if err != nil || resp.Oracle.Revision != 1000+int64(i) {
			t.Fatalf("call %d: %v, %v", i, resp, err)
		}
	}
	if n := tr.a.Stats().CallsDetoured; n != 100 {
		t.Errorf("%d detours", n)
	}
	tr.cut.Store(false) // the wire is back, and somebody notices
	peertest.Eventually(t, "the direct way is taken", func() bool {
		before := tr.a.Stats().CallsDetoured
		if _, err := tr.a.Call(ctx, 3, ask(1)); err != nil {
			t.Fatal(err)
		}
		return tr.a.Stats().CallsDetoured == before
	})
}

// TestDetourByAnother: the first node that could pass calls on is cut off from their target as well, and says so or says nothing; another one is not.
func TestDetourByAnother(t *testing.T) {
	for name, says := range map[string]bool{"says so": true, "says nothing": false} {
		t.Run(name, func(t *testing.T) {
			net := peertest.NewNet()
			others := func(shard.NodeID) []shard.NodeID { return []shard.NodeID{1, 2, 3, 4} }
			// cut is a node whose way to the third ends nowhere, or where nobody says anything.
			cut := func(self shard.NodeID, says bool) *Mesh {
				d := net.Dialer(t, self)
				m := New(Config{Node: self, SilenceTick: 10 * time.Millisecond, Relays: others, Handler: echo, Dial: func(n shard.NodeID) (grpc.ClientConnInterface, error) {
					switch {
					case n == 3 && says:
						return nil, errors.New("no wire")
					case n == 3:
						n = 5
					}
					return d.For(peer.ClassCalls)(n)
				}})
				t.Cleanup(func() { _ = m.Close() })
				return m
			}
			silent := func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) {}
			net.Serve(t, 5, nil, start(t, net, 5, Config{Handler: silent}), nil)
			a := cut(1, true)
			net.Serve(t, 2, nil, cut(2, says), nil)
			c := start(t, net, 3, Config{Handler: echo, Relays: others})
			net.Serve(t, 3, nil, c, nil)
			net.Serve(t, 4, nil, start(t, net, 4, Config{Handler: echo, Relays: others}), nil)
			peertest.Eventually(t, "a call gets through", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := a.Call(ctx, 3, ask(1))
				return err == nil
			})
		})
	}
}

// TestNoSecondDetour: a node that passes a call on must reach its target itself, and where nobody
// passes calls on they are refused.
func TestNoSecondDetour(t *testing.T) {
	net := peertest.NewNet()
	b := start(t, net, 2, Config{Handler: echo, Relays: func(shard.NodeID) []shard.NodeID { return []shard.NodeID{1, 4} }})
	net.Serve(t, 2, nil, b, nil)
	net.Serve(t, 4, nil, start(t, net, 4, Config{Handler: echo}), nil)
	a := start(t, net, 1, Config{Relays: func(shard.NodeID) []shard.NodeID { return []shard.NodeID{2} }})
	net.Set(3, "127.0.0.1:1") // nobody listens
	for range 3 {
		if _, err := a.Call(t.Context(), 3, ask(1)); !errors.Is(err, shard.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if n := b.Stats().CallsRelayed; n != 2 {
		t.Errorf("passed on %d times", n)
	}
	if n := b.Stats().CallsDetoured; n != 0 {
		t.Errorf("%d second detours", n)
	}
	req := ask(1)
	req.RelayTo = 3
	if _, err := a.Call(t.Context(), 4, req); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a node without relays: %v", err)
	}
}
