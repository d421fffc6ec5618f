package peer_test

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/internal/peerrpc"
	"pontoon/placement/gossip"
	"pontoon/raftgroup/transport"
	"pontoon/shard"
)

func member(id shard.NodeID, peerURLs ...string) shard.Member {
	return shard.Member{ID: id, PeerURLs: peerURLs}
}

func TestDirectory(t *testing.T) {
	d := peer.NewDirectory(1, []shard.Member{member(1, "http://one:1"), member(2, "http://two"), member(3), member(4, ":::")})
	for node, want := range map[shard.NodeID]string{1: "one:1", 2: "two:2380", 3: "", 4: "", 5: ""} {
		if addr, ok := d.Resolve(node); addr != want || ok != (want != "") {
			t.Errorf("node %v is at %q, %v, want %q", node, addr, ok, want)
		}
	}
	expect := func(when string, others, relays []shard.NodeID) {
		t.Helper()
		if got := d.Others(); !slices.Equal(got, others) {
			t.Errorf("%s: the others are %v, want %v", when, got, others)
		}
		if got := d.Relays(2); !slices.Equal(got, relays) {
			t.Errorf("%s: relays are %v, want %v", when, got, relays)
		}
	}
	expect("at first", []shard.NodeID{2, 3, 4}, nil)
	for _, node := range []shard.NodeID{1, 3, 4, 9} {
		d.SetHealth(node, peer.HealthAlive)
	}
	expect("a target that seems to be dead", []shard.NodeID{2, 3, 4}, nil)
	d.SetHealth(2, peer.HealthDead)
	expect("a dead target", []shard.NodeID{2, 3, 4}, nil)
	d.SetHealth(2, peer.HealthCut)
	expect("a target that others reach", []shard.NodeID{2, 3, 4}, []shard.NodeID{3, 4})
	d.SetHealth(4, peer.HealthCut)
	expect("one that is not reached either", []shard.NodeID{2, 3, 4}, []shard.NodeID{3})

	d.SetMembers(5, []shard.Member{member(1, "http://one:1"), member(2, "http://two:2"), member(4, "http://[::1]:4"), member(9, "https://nine")})
	d.SetMembers(5, []shard.Member{member(1)}) // no newer
	d.SetMembers(4, []shard.Member{member(1)})
	d.SetMembers(6, nil) // says nothing
	expect("others", []shard.NodeID{2, 4, 9}, []shard.NodeID{9})
	for node, want := range map[shard.NodeID]string{2: "two:2", 3: "", 4: "[::1]:4", 9: "https://nine:2380"} {
		if addr, _ := d.Resolve(node); addr != want {
			t.Errorf("node %v is at %q, want %q", node, addr, want)
		}
	}
	d.SetHealth(4, peer.HealthDead)
	expect("a new member that was alive before", []shard.NodeID{2, 4, 9}, []shard.NodeID{9})
	d.SetHealth(9, peer.HealthDead)
	expect("all dead", []shard.NodeID{2, 4, 9}, nil)
	if len(d.Members()) != 4 {
		t.Errorf("members are %v", d.Members())
	}
	leaving := member(4, "http://[::1]:4")
	leaving.State = shard.MemberLeaving
	d.SetMembers(7, []shard.Member{member(1, "http://one:1"), member(2, "http://two:2"), leaving, member(9, "https://nine")})
	d.SetHealth(2, peer.HealthCut)
	d.SetHealth(4, peer.HealthAlive)
	d.SetHealth(9, peer.HealthAlive)
	expect("one that is leaving is told things, and is the last relay", []shard.NodeID{2, 4, 9}, []shard.NodeID{9, 4})
	if addr, _ := d.Resolve(4); addr != "[::1]:4" || len(d.Members()) != 3 {
		t.Errorf("one that is leaving is at %q, and members are %v", addr, d.Members())
	}
	if m, ok := d.Member(4); !ok || m.State != shard.MemberLeaving {
		t.Errorf("one that is leaving is %v, %v", m, ok)
	}
	if m, ok := d.Member(3); ok {
		t.Errorf("one that has left is %v", m)
	}
}

// frames counts the Raft frames that a node gets.
type frames chan shard.NodeID

func (f frames) HandleFrame(from shard.NodeID, _ *pb.RaftFrame) {
	select {
	case f <- from:
	default:
	}
}

func (f frames) HandleSnapshot(shard.NodeID, *pb.SnapshotHeader, io.Reader) error { return nil }
func (f frames) PeerUnreachable(shard.NodeID)                                     {}

// TestMovedMember: a member whose address changes in the directory is found at the new one by all who talk to it.
func TestMovedMember(t *testing.T) {
	at := peertest.NewNet() // where node 2 listens
	d := peer.NewDirectory(1, []shard.Member{member(1), member(2)})
	dialer := peer.NewDialer(peer.DialerConfig{Identity: peer.Identity{ClusterID: peertest.ClusterID, Node: 1}, Resolve: d.Resolve})
	defer dialer.Close()
	mesh := peerrpc.New(peerrpc.Config{Node: 1, Dial: dialer.For(peer.ClassCalls)})
	defer mesh.Close()
	raft := transport.New(transport.Config{Node: 1, Dial: dialer.For(peer.ClassRaft), DialSnapshot: dialer.For(peer.ClassBulk)})
	defer raft.Close()
	g, err := gossip.Start(gossip.Config{
		Node: 1, Seeds: d.Others, Dial: dialer.For(peer.ClassGossip), ProbeInterval: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for version := uint64(1); version <= 2; version++ {
		life := startSecond(t, at, version)
		addr, _ := at.Resolve(2)
		d.SetMembers(version, []shard.Member{member(1), member(2, "http://"+addr)})
		peertest.Eventually(t, "a call", func() bool {
			_, err := mesh.Call(t.Context(), 2, &pb.PeerRequest{NodeStatus: &pb.NodeStatusRequest{}})
			return err == nil
		})
		peertest.Eventually(t, "a frame", func() bool {
			raft.Send(2, &pb.RaftFrame{Alive: true})
			return len(life.got) > 0
		})
		peertest.Eventually(t, "gossip", func() bool { return life.gossip.Alive(1) && g.Alive(2) })
		life.stop()
		at.Set(2, "127.0.0.1:0") // the next life is elsewhere
	}
}

func answerAll(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	reply(&pb.PeerResponse{Empty: &pb.Empty{}})
}

// second is a life of node 2.
type second struct {
	got    frames
	gossip *gossip.Gossip
	stop   func()
}

func startSecond(t *testing.T, at *peertest.Net, boot uint64) *second {
	s := &second{got: make(frames, 1)}
	dialer := at.Dialer(t, 2)
	mesh := peerrpc.New(peerrpc.Config{Node: 2, Dial: dialer.For(peer.ClassCalls), Handler: answerAll})
	raft := transport.New(transport.Config{Node: 2, Dial: dialer.For(peer.ClassRaft), DialSnapshot: dialer.For(peer.ClassBulk), Handler: s.got})
	g, err := gossip.Start(gossip.Config{Node: 2, Boot: boot, Dial: dialer.For(peer.ClassGossip), ProbeInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	srv := at.Serve(t, 2, raft, mesh, g.Service())
	s.gossip = g
	s.stop = func() {
		srv.Stop()
		_, _, _ = g.Close(), mesh.Close(), raft.Close() // they only tear down
	}
	return s
}
