package raftgroup_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// fuzzCluster is a settled cluster of three nodes with a leader and a few entries.
func fuzzCluster(t testing.TB) *simtest.Cluster {
	c := simtest.NewCluster(3)
	c.First = 1
	c.AddGroup(raftgroup.GroupConfig{ID: 2})
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if c.Tick(1); leads(c) != 0 {
			break
		}
	}
	lead := leads(c)
	st, _ := c.Node(lead).Host.Status(2)
	for _, v := range []string{"a", "b", "c"} {
		if err := c.Node(lead).Host.Propose(2, st.Term, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	c.Settle()
	return c
}

func leads(c *simtest.Cluster) shard.NodeID {
	id, _ := c.Leader(2)
	return id
}

// FuzzHandleFrame: a frame with anything in it, from a node that may send one, panics nowhere. It may
// stop the group that it is for, with a message, and no other; the nodes that it was not sent to hold
// what they held.
func FuzzHandleFrame(f *testing.F) {
	add := func(fr *pb.RaftFrame) {
		b, err := fr.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		for to := uint8(1); to <= 3; to++ {
			f.Add(to, b)
		}
		f.Add(uint8(3), b[:len(b)/2])
	}
	message := func(m *raftpb.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		add(&pb.RaftFrame{Messages: []*pb.GroupMessage{{Group: 2, Message: b}}})
	}
	for typ := range raftpb.MessageType_name {
		for _, to := range []uint64{1, 3} {
			message(&raftpb.Message{
				Type: raftpb.MessageType(typ).Enum(), From: new(uint64(2)), To: &to, Term: new(uint64(6)), LogTerm: new(uint64(6)),
				Index: new(uint64(12)), Commit: new(uint64(1 << 40)), Reject: new(typ%2 == 0),
				Entries: []*raftpb.Entry{{Index: new(uint64(13)), Term: new(uint64(6)), Data: []byte("x")}},
			})
		}
	}
	message(&raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(3)), Term: new(uint64(9)),
		Index: new(uint64(11)), LogTerm: new(uint64(6)), Commit: new(uint64(99)), Entries: []*raftpb.Entry{
			{Index: new(uint64(12)), Term: new(uint64(9)), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte{1}},
			{Index: new(uint64(14)), Term: new(uint64(3)), Type: raftpb.EntryConfChange.Enum()}, {}}})
	add(&pb.RaftFrame{Boot: 1, Alive: true, Heartbeats: []*pb.Heartbeat{
		{Group: 2, From: 2, To: 3, Term: 6, Commit: 1 << 50}, {Group: 2, From: 2, To: 3, Term: 6, Commit: 12, Quiesce: true},
		{Group: 2, From: 2, To: 1, Term: 6, Response: true, Quiesce: true}, {Group: 77}}})
	add(&pb.RaftFrame{Rounds: []*pb.ProofRound{{Seq: 1, Proofs: []*pb.Proof{{Group: 2, Term: 6, To: 3, LeaseMs: 1 << 60}}}, {Response: true}}})
	f.Fuzz(func(t *testing.T, to uint8, b []byte) {
		fr := &pb.RaftFrame{}
		node := shard.NodeID(to%3 + 1)
		if fr.UnmarshalVT(b) != nil || node == 2 {
			return
		}
		c := fuzzCluster(t)
		c.Node(node).Host.HandleFrame(2, fr)
		c.Settle()
		c.Tick(3)
		for _, n := range c.Nodes {
			if n.Fatal != nil {
				t.Fatalf("node %d cannot go on: %v", n.ID, n.Fatal)
			}
			if n.ID != node && !strings.HasPrefix(strings.Join(n.Data(2), ""), "abc") {
				t.Fatalf("node %d holds %q", n.ID, n.Data(2))
			}
		}
	})
}

// FuzzHandleSnapshot: a stream that claims to be a snapshot is refused or leads to a replica that
// goes on; a header that is not meant for the replica is refused.
func FuzzHandleSnapshot(f *testing.F) {
	state := []byte(`{"Index":40,"Term":6,"Entries":[]}`)
	var good bytes.Buffer
	good.Write([]byte{0, 0, 0, byte(len(state))})
	good.Write(state)
	cs, err := proto.Marshal(&raftpb.ConfState{Voters: []uint64{1, 2, 3}})
	if err != nil {
		f.Fatal(err)
	}
	trailer, err := (&pb.SnapshotTrailer{ConfState: cs, ConfIndex: 12}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	good.Write([]byte{0, 0, 0, 0, 0, 0, 0, byte(len(trailer))})
	good.Write(trailer)
	snap := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(2)), To: new(uint64(3)), Term: new(uint64(6))}
	msg, err := proto.Marshal(snap)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg, good.Bytes())
	f.Add(msg, good.Bytes()[:good.Len()-3])
	f.Add(msg, []byte{0xff, 0, 0, 0})
	f.Add([]byte{}, good.Bytes())
	f.Fuzz(func(t *testing.T, msg, stream []byte) {
		c := fuzzCluster(t)
		_ = c.Node(3).Host.HandleSnapshot(2, &pb.SnapshotHeader{Group: 2, Message: msg}, io.MultiReader(bytes.NewReader(stream)))
		c.Settle()
		c.Tick(3)
		if n := c.Node(3); n.Fatal != nil {
			t.Fatalf("the node cannot go on: %v", n.Fatal)
		}
	})
}
