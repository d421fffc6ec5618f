package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/backend"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// TestDepartureIsConfirmed: a node ends when the meta group does not know it, asked directly or by another node, and by nothing else; while it is leaving
// it stays.
func TestDepartureIsConfirmed(t *testing.T) {
	unreachable := errors.New("unreachable")
	self := shard.Member{ID: 4}
	leaving := shard.Member{ID: 4, State: shard.MemberLeaving}
	without := []shard.Member{{ID: 1}, {ID: 2}}
	for _, tc := range []struct {
		what    string
		refresh error
		members []shard.Member // as the meta group tells this node
		found   *pb.DiscoverResponse
		ends    bool
	}{
		{"a member", nil, append(without, self), nil, false},
		{"leaving", nil, append(without, leaving), nil, false},
		{"removed", nil, without, nil, true},
		{"nobody can tell, and what is known is old", unreachable, without, nil, false},
		{"another node says so", unreachable, append(without, self), &pb.DiscoverResponse{ClusterId: 7, Bootstrapped: true, Members: pb.FromMembers(without)}, true},
		{"another node knows it", unreachable, without, &pb.DiscoverResponse{ClusterId: 7, Bootstrapped: true, Members: pb.FromMembers(append(without, self))}, false},
		{"a node of another cluster", unreachable, append(without, self), &pb.DiscoverResponse{ClusterId: 8, Bootstrapped: true, Members: pb.FromMembers(without)}, false},
		{"a node that knows nothing", unreachable, append(without, self), &pb.DiscoverResponse{ClusterId: 7}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r := &departure{
				self: 4, cluster: 7, patience: time.Second, log: slog.New(slog.DiscardHandler),
				refresh: func(context.Context) error { return tc.refresh },
				members: func() []shard.Member { return tc.members },
				others:  func() []shard.NodeID { return []shard.NodeID{1, 2} },
				discover: func(_ context.Context, node shard.NodeID) (*pb.DiscoverResponse, error) {
					if tc.found == nil || node == 1 {
						return nil, unreachable
					}
					return tc.found, nil
				},
			}
			if err := r.run(ctx); errors.Is(err, ErrRemoved) != tc.ends || err != nil && !tc.ends {
				t.Errorf("%s: %v", tc.what, err)
			}
		})
	}
}

// TestDepartureBeforeAStop: a node that is told to stop while it is leaving stays until it is removed, or has no time left; any other one stops at once, also
// where nobody can tell.
func TestDepartureBeforeAStop(t *testing.T) {
	leaving := []shard.Member{{ID: 1}, {ID: 4, State: shard.MemberLeaving}}
	for _, tc := range []struct {
		what  string
		known []shard.Member // before it asks
		told  func(since time.Duration) []shard.Member
		takes time.Duration
	}{
		{"a member", []shard.Member{{ID: 4}}, func(time.Duration) []shard.Member { return []shard.Member{{ID: 4}} }, 0},
		{"nobody can tell", []shard.Member{{ID: 4}}, nil, time.Second / 4},
		{"removed a moment ago", []shard.Member{{ID: 4}}, func(since time.Duration) []shard.Member {
			if since >= 3*time.Second {
				return leaving[:1]
			}
			return leaving
		}, 3 * time.Second},
		{"it holds replicas for too long", leaving, func(time.Duration) []shard.Member { return leaving }, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began, members := time.Now(), tc.known
			r := &departure{
				self: 4, patience: time.Second, log: slog.New(slog.DiscardHandler),
				refresh: func(ctx context.Context) error {
					if tc.told == nil {
						<-ctx.Done()
						return ctx.Err()
					}
					members = tc.told(time.Since(began))
					return nil
				},
				members: func() []shard.Member { return members },
				others:  func() []shard.NodeID { return nil },
			}
			r.stay(ctx)
			if took := time.Since(began); took != tc.takes {
				t.Errorf("%s: it stays for %v, want %v", tc.what, took, tc.takes)
			}
		})
	}
}

// metaOf answers the meta client with the members of a version; nothing where there are none.
type metaOf struct {
	version uint64
	members []shard.Member
	asked   int
}

func (m *metaOf) CallFunc(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	m.asked++
	if m.members == nil {
		cb(nil, shard.ErrCorrupt) // for good
		return
	}
	cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{Version: m.version, ClusterId: 7, Members: pb.FromMembers(m.members),
		Ranges: pb.FromDescriptors([]shard.Descriptor{{ID: 3, Generation: 1}})}}, nil)
}

// TestReception: who is no member is let in when the meta group knows it, and refused for good when it does not; nobody is refused for what this
// node does not know.
func TestReception(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &metaOf{}
		dir := peer.NewDirectory(1, []shard.Member{{ID: 1}, {ID: 2}})
		client := metaclient.New(metaclient.Config{Self: 1, Calls: m, Meta: metaclient.AnyMember([]shard.Member{{ID: 1}}), Members: dir.SetMembers})
		defer client.Close()
		r := &reception{identity: peer.Identity{ClusterID: 7, Node: 1}, directory: dir, cluster: backend.NewCluster(client, dir), patience: time.Second,
			strangers: map[shard.NodeID]*stranger{}}
		admit := func(when string, node shard.NodeID, want error) {
			t.Helper()
			err := r.Admit(node)
			synctest.Wait()
			if !errors.Is(err, want) {
				t.Errorf("%s: %v is admitted with %v, want %v", when, node, err, want)
			}
		}
		admit("before anybody was asked", 9, nil)
		if d, err := r.Discover(t.Context(), &pb.DiscoverRequest{}); err != nil || d.Bootstrapped || d.ClusterId != 7 || d.NodeId != 1 {
			t.Errorf("before anybody was asked: %v, %v", d, err)
		}
		if d, err := r.Discover(t.Context(), &pb.DiscoverRequest{Confirm: true}); err == nil {
			t.Errorf("confirmed by nobody: %v", d)
		}
		m.version, m.members = 1, []shard.Member{{ID: 1}, {ID: 2}, {ID: 5, State: shard.MemberLeaving}}
		if err := client.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		admit("a member", 2, nil)
		admit("one that is leaving", 5, nil)
		m.version, m.members = 2, []shard.Member{{ID: 1}, {ID: 2}, {ID: 4}} // 4 was added, and 5 has left
		admit("one that was added a moment ago", 4, peer.ErrNotKnownYet)
		admit("the same", 4, nil)
		admit("one that has left", 5, peer.ErrNotKnownYet)
		admit("the same", 5, peer.ErrRemoved)
		asked := m.asked
		admit("and again", 5, peer.ErrRemoved)
		if m.asked != asked {
			t.Error("for one that has left the meta group is asked again and again")
		}
		m.members = nil
		admit("nobody can tell", 6, peer.ErrNotKnownYet)
		admit("nobody can tell", 6, peer.ErrNotKnownYet)
		d, err := r.Discover(t.Context(), &pb.DiscoverRequest{})
		if err != nil || !d.Bootstrapped || len(d.Members) != 3 {
			t.Errorf("%v, %v", d, err)
		}
		for id := range shard.NodeID(3 * strangersMax) {
			_ = r.Admit(100 + id)
		}
		synctest.Wait()
		if len(r.strangers) > strangersMax {
			t.Errorf("%d strangers are remembered", len(r.strangers))
		}
	})
}

// TestDiscoverIsAskedToConfirm: a node that asks whether it was removed has the meta group asked.
func TestDiscoverIsAskedToConfirm(t *testing.T) {
	asked := make(chan bool, 1)
	addr := servePeer(t, &askedDoor{asked: asked})
	dir := peer.NewDirectory(1, []shard.Member{{ID: 1}, {ID: 2, PeerURLs: []string{"http://" + addr}}})
	client := metaclient.New(metaclient.Config{Self: 1, Calls: &metaOf{}, Meta: metaclient.AnyMember([]shard.Member{{ID: 2}})})
	defer client.Close()
	h := &Host{log: slog.New(slog.DiscardHandler), cluster: backend.NewCluster(client, dir), net: network{directory: dir}}
	if _, err := h.newDeparture().discover(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if !<-asked {
		t.Error("the node was asked for what it knows itself")
	}
}

// askedDoor notes how it is asked.
type askedDoor struct{ asked chan bool }

func (d *askedDoor) Admit(shard.NodeID) error { return nil }

func (d *askedDoor) Discover(_ context.Context, req *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	d.asked <- req.Confirm
	return &pb.DiscoverResponse{}, nil
}

// servePeer serves a peer port with nothing but a door.
func servePeer(t *testing.T, door peer.Door) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer(peer.ServerOptions()...)
	peer.NewServer(peer.Identity{ClusterID: 7, Node: 2}, door, nil, nil, nil).Register(gs)
	go func() { _ = gs.Serve(l) }()
	t.Cleanup(gs.Stop)
	return l.Addr().String()
}
