package raftgroup_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"testing/cryptotest"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// stalled is a cluster in which the disk of one node can be made to stall, with a leader elsewhere.
type stalled struct {
	t     *testing.T
	c     *simtest.Cluster
	on    bool         // the disk stalls
	node  shard.NodeID // whose disk it is
	lead  shard.NodeID
	most  uint64 // the highest UnwrittenBytes of that node
	other []error
}

func newStalled(t *testing.T, node shard.NodeID, groups int, tune func(*raftgroup.Config)) *stalled {
	cryptotest.SetGlobalRandom(t, 1)
	s := &stalled{t: t, c: simtest.NewCluster(3), node: node, lead: 1}
	s.c.First = s.lead
	s.c.Config = func(c *raftgroup.Config) {
		c.CatchUpEntries, c.CatchUpBytes = 1<<20, 1<<40 // nobody needs a snapshot
		tune(c)
		if c.Node == s.node {
			c.Hold = func(w raftgroup.Work) bool { return s.on && w == raftgroup.WorkWrites }
		}
	}
	for i := range groups {
		s.c.AddGroup(raftgroup.GroupConfig{ID: shard.RangeID(i + 1), NoQuiesce: true})
	}
	if err := s.c.StartAll(); err != nil {
		t.Fatal(err)
	}
	s.c.Tick(3)
	return s
}

// propose lets every group's leader take count entries of so many bytes, one after the other.
func (s *stalled) propose(groups, count, size int) {
	s.t.Helper()
	for i := range count {
		for g := range groups {
			id := shard.RangeID(g + 1)
			h := s.c.Node(s.lead).Host
			st, _ := h.Status(id)
			if !st.IsLeader {
				s.t.Fatalf("node %d does not lead %v", s.lead, id)
			}
			data := append(fmt.Appendf(nil, "%v-%d-", id, i), bytes.Repeat([]byte("x"), size)...)
			if err := h.ProposeFunc(id, st.Term, data, func(err error) { s.other = append(s.other, err) }); err != nil {
				s.other = append(s.other, err)
			}
		}
		s.c.Settle()
		s.most = max(s.most, s.c.Node(s.node).Host.Stats().UnwrittenBytes)
		if i%16 == 0 {
			s.c.Tick(1)
		}
	}
}

// level checks that all nodes hold the same, and how much of it.
func (s *stalled) level(groups, count int) {
	s.t.Helper()
	for g := range groups {
		for _, n := range s.c.Nodes {
			if have := len(n.Data(shard.RangeID(g + 1))); have != count {
				s.t.Errorf("node %v has %d entries of group %d, want %d", n.ID, have, g+1, count)
			}
		}
	}
	for _, n := range s.c.Nodes {
		if left := n.Host.Stats().UnwrittenBytes; left != 0 {
			s.t.Errorf("node %v counts %d bytes that are not written, and has nothing to write", n.ID, left)
		}
	}
}

// A follower whose disk stalls takes in no more than it may, over all groups, while their leaders go on;
// and it has everything once the disk is back.
func TestAStalledDiskTakesInSoMuch(t *testing.T) {
	const limit, groups, count, size = 256 << 10, 4, 200, 4 << 10
	s := newStalled(t, 3, groups, func(c *raftgroup.Config) {
		if c.Node == 3 {
			c.MaxUnwrittenBytes = limit
		}
	})
	s.on = true
	s.propose(groups, count, size)
	if len(s.other) > 0 {
		t.Errorf("the leaders did not go on: %v", s.other[0])
	}
	st := s.c.Node(3).Host.Stats()
	if s.most > limit || s.most < limit/2 {
		t.Errorf("%d bytes waited for the disk, want at most %d and about as much", s.most, limit)
	}
	if st.MessagesDropped == 0 || st.BytesDropped < size {
		t.Errorf("nothing says what was dropped: %+v", st)
	}
	s.on = false
	s.c.Tick(30)
	s.level(groups, count)
}

// A leader sends no more of a group to a follower that acknowledges nothing than it may.
func TestALeaderSendsSoMuchAhead(t *testing.T) {
	const window, count, size = 64 << 10, 200, 4 << 10
	s := newStalled(t, 3, 1, func(c *raftgroup.Config) { c.MaxMessageBytes, c.MaxInflightBytes = 16<<10, window })
	s.on = true
	s.propose(1, count, size)
	if most := uint64(window + 2*(16<<10)); s.most > most || s.most < window/2 {
		t.Errorf("%d bytes were sent ahead, want at most %d and about as much", s.most, most)
	}
	if st := s.c.Node(3).Host.Stats(); st.MessagesDropped != 0 {
		t.Errorf("messages were dropped: %+v", st)
	}
	s.on = false
	s.c.Tick(30)
	s.level(1, count)
}

// A leader whose own disk stalls refuses what it has no room for, and nothing that it took is lost.
func TestAStalledLeaderRefuses(t *testing.T) {
	const limit, count, size = 128 << 10, 100, 4 << 10
	s := newStalled(t, 1, 1, func(c *raftgroup.Config) {
		if c.Node == 1 {
			c.MaxUnwrittenBytes = limit
		}
	})
	s.on = true
	s.propose(1, count, size)
	for _, err := range s.other {
		if !errors.Is(err, shard.ErrTooManyRequests) {
			t.Fatalf("refused with %v", err)
		}
	}
	if len(s.other) == 0 || len(s.other) == count || s.most > limit {
		t.Errorf("%d of %d were refused, with %d bytes that waited for the disk, at most %d", len(s.other), count, s.most, limit)
	}
	s.on = false
	s.c.Tick(30)
	s.level(1, count-len(s.other))
}

// What a node's own log and state machine tell Raft is not taken from the network: nothing that is held
// moves, whatever another node makes of these messages.
func TestLocalMessagesDoNotArrive(t *testing.T) {
	for typ := range raftpb.MessageType_name {
		mt := raftpb.MessageType(typ)
		if !raft.IsLocalMsg(mt) && mt != raftpb.MsgForgetLeader && mt != raftpb.MsgProp && mt != raftpb.MsgSnap {
			continue
		}
		c := fuzzCluster(t)
		follower := leads(c)%3 + 1
		lead := leads(c)
		before, _ := c.Node(follower).Host.Status(2)
		m := &raftpb.Message{
			Type: mt.Enum(), From: new(uint64(lead)), To: new(uint64(follower)), Term: new(before.Term), LogTerm: new(before.Term),
			Index: new(before.LastIndex + 7), Commit: new(before.LastIndex + 7),
			Entries: []*raftpb.Entry{{Index: new(before.LastIndex + 1), Term: new(before.Term), Data: []byte("forged")}},
			Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: new(before.LastIndex + 5), Term: new(before.Term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
			}},
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		c.Node(follower).Host.HandleFrame(lead, &pb.RaftFrame{Messages: []*pb.GroupMessage{{Group: 2, Message: b}}})
		for i := 0; c.Node(follower).Host.Step(); i++ {
			if i == 1000 {
				t.Fatalf("%v keeps the follower busy for ever", mt)
			}
		}
		after, _ := c.Node(follower).Host.Status(2)
		after.Quiescent, before.Quiescent = false, false
		if after != before {
			t.Errorf("%v: %+v, before it %+v", mt, after, before)
		}
		st, _ := c.Node(lead).Host.Status(2)
		if err := c.Node(lead).Host.Propose(2, st.Term, []byte("after")); err != nil {
			t.Fatal(err)
		}
		c.Tick(3)
		if have := c.Node(follower).Data(2); len(have) != 4 || have[3] != "after" || len(c.Node(follower).GroupErrors) > 0 {
			t.Errorf("after %v the follower holds %q, %v", mt, have, c.Node(follower).GroupErrors)
		}
	}
}
