package raftgroup

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// partsHost is a host that runs nothing, with a clock that a test moves.
func partsHost(t *testing.T, tune func(*Config)) (*Host, *time.Time) {
	now := time.Unix(1_000_000_000, 0)
	cfg := Config{Node: 2, Log: unusedLog{}, Sender: unusedSender{}, Now: func() time.Time { return now }}
	if tune != nil {
		tune(&cfg)
	}
	h, err := NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h, &now
}

type unusedLog struct{ Log }
type unusedSender struct{ Sender }

func message(t raftpb.MessageType, from uint64) *raftpb.Message {
	return &raftpb.Message{Type: t.Enum(), From: &from}
}

// What comes from other nodes and what is proposed has its bounds; what the host itself has to say has none; and
// what a turn takes, or the end of the group, is not counted any more.
func TestMailboxBounds(t *testing.T) {
	h, _ := partsHost(t, func(c *Config) {
		c.MaxReceivedMessages, c.MaxQueuedProposals, c.MaxUnwrittenBytes, c.MaxUncommittedBytes = 3, 2, 1000, 600
	})
	b := &mailbox{h: h}
	receive := func(entries int64) {
		b.receive(int(entries)+7, entries, func(in *inbox) { in.msgs = append(in.msgs, &raftpb.Message{}) })
	}
	for _, entries := range []int64{600, 600, 300, 0, 0} { // the second is too large, the last one too many
		receive(entries)
	}
	if got := h.intake.bytes.Load(); got != 900 {
		t.Errorf("%d bytes are counted, want 900", got)
	}
	if st := h.Stats(); st.MessagesDropped != 2 || st.BytesDropped != 607+7 {
		t.Errorf("dropped: %+v", st)
	}
	if err := b.propose(proposal{data: make([]byte, 200)}); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("a proposal without room: %v", err)
	}
	for range 10 {
		b.put(func(in *inbox) { in.msgs = append(in.msgs, &raftpb.Message{}) })
	}
	in, running := b.take()
	if !running || len(in.msgs) != 13 || h.intake.bytes.Load() != 0 {
		t.Errorf("taken: %d messages, %v, %d bytes left", len(in.msgs), running, h.intake.bytes.Load())
	}
	for i, want := range []error{nil, shard.ErrTooManyRequests, nil, shard.ErrTooManyRequests} {
		size := []int{500, 200, 100, 1}[i] // too many bytes, then too many
		if err := b.propose(proposal{data: make([]byte, size)}); !errors.Is(err, want) {
			t.Errorf("proposal %d: %v, want %v", i, err, want)
		}
	}
	left, ran := b.stop(shard.ErrStopped)
	if !ran || len(left.props) != 2 || h.intake.bytes.Load() != 0 {
		t.Errorf("stopped: %v, %d proposals left, %d bytes", ran, len(left.props), h.intake.bytes.Load())
	}
	receive(0)
	if err := b.propose(proposal{data: []byte("x")}); !errors.Is(err, shard.ErrUnavailable) || h.Stats().MessagesDropped != 2 {
		t.Errorf("after the end: %v, %+v", err, h.Stats())
	}
	if _, again := b.stop(shard.ErrStopped); again {
		t.Error("stopped twice")
	}
}

// A group that stops while a snapshot is installed gives back the room of what it kept for the writer.
func TestHeldAppendsAreGivenBack(t *testing.T) {
	h, _ := partsHost(t, nil)
	g := &group{h: h}
	g.snapshots.installing = true
	up := &Update{Entries: []*raftpb.Entry{{Data: make([]byte, 100)}}}
	g.appends.push(g, appendTask{g: g, update: up})
	if h.intake.bytes.Load() != 100 || g.appends.writing != 0 || h.writer.len() != 0 {
		t.Errorf("%d bytes, %d under way, %d at the writer", h.intake.bytes.Load(), g.appends.writing, h.writer.len())
	}
	g.appends.forget(g)
	if h.intake.bytes.Load() != 0 {
		t.Errorf("%d bytes are left", h.intake.bytes.Load())
	}
	g.appends.push(g, appendTask{g: g, update: up})
	g.snapshots.installing = false
	g.appends.release(g)
	if h.intake.bytes.Load() != 100 || g.appends.writing != 1 || h.writer.len() != 1 {
		t.Errorf("%d bytes, %d under way, %d at the writer", h.intake.bytes.Load(), g.appends.writing, h.writer.len())
	}
}

func TestConfiguration(t *testing.T) {
	places := map[shard.ReplicaID]shard.NodeID{1: 10, 2: 2, 3: 30, 4: 1, 5: 50, 9: 90}
	voters := quorum.JointConfig{{1: {}, 2: {}, 4: {}}, {1: {}, 2: {}, 3: {}}}
	cs := &raftpb.ConfState{Voters: []uint64{1, 2, 4}, VotersOutgoing: []uint64{1, 2, 3}, Learners: []uint64{5, 6}}
	c := newConfiguration(&GroupConfig{ID: 7, Replica: 2}, 2, Conf{State: cs}, voters, places)
	if want := []voter{{1, 10}, {3, 30}, {4, 1}, {5, 50}}; !reflect.DeepEqual(c.others, want) {
		t.Errorf("others: %v, want %v", c.others, want)
	}
	if want := []voter{{1, 10}, {3, 30}, {4, 1}, {2, 2}}; !reflect.DeepEqual(c.ring, want) {
		t.Errorf("ring: %v, want %v", c.ring, want)
	}
	if c.nodeOf(9) != 90 || c.nodeOf(6) != 0 || !c.on(50) || c.on(90) || c.on(2) {
		t.Error("places: a replica that is no member yet has one, and is on no node")
	}
	alive := func(nodes ...shard.NodeID) bool {
		return c.votersAlive(func(n shard.NodeID) bool {
			for _, a := range nodes {
				if a == n {
					return true
				}
			}
			return false
		})
	}
	if !alive(10, 2) || alive(10, 30) || alive(2, 1, 50) {
		t.Error("both halves of a joint configuration decide")
	}
	ranks := map[int]bool{}
	for id := range voters.IDs() {
		r := newConfiguration(&GroupConfig{ID: 7, Replica: shard.ReplicaID(id)}, 2, Conf{State: cs}, voters, places)
		ranks[r.campaignRank(0)] = true
	}
	if len(ranks) != 4 {
		t.Errorf("ranks: %v", ranks)
	}
}

func TestVoteLease(t *testing.T) {
	h, now := partsHost(t, nil)
	g := &group{h: h, cfg: GroupConfig{Lease: true}}
	l := &g.voteLease
	l.restart(g)
	if !l.active(g) || l.allows(g, message(raftpb.MsgVote, 1)) {
		t.Error("a voter that has just started votes")
	}
	transfer := message(raftpb.MsgVote, 1)
	transfer.Context = transferVote
	if !l.allows(g, transfer) {
		t.Error("a transfer is refused")
	}
	for _, m := range []*raftpb.Message{message(raftpb.MsgPreVote, 3), message(raftpb.MsgVote, 4), message(raftpb.MsgPreVote, 1)} {
		l.deferVote(m)
	}
	if l.expire(g) != nil {
		t.Error("requests are answered too early")
	}
	*now = now.Add(h.cfg.LeaseDuration)
	waited := l.expire(g)
	if len(waited) != 2 || waited[0].GetFrom() != 1 || waited[1].GetFrom() != 3 {
		t.Errorf("waited: %v, want the requests for a pre-vote of 1 and 3", waited)
	}
	if l.active(g) || l.expire(g) != nil {
		t.Error("it has not ended")
	}
	g.campaign.fresh = true
	l.restart(g)
	if l.active(g) {
		t.Error("nothing was ever granted by a group without history")
	}
}

func TestNodes(t *testing.T) {
	h, now := partsHost(t, nil)
	n := h.nodes
	n.count(map[shard.ReplicaID]shard.NodeID{1: 1, 2: 2, 3: 3}, 1)
	n.count(map[shard.ReplicaID]shard.NodeID{1: 3, 2: 2}, 1)
	if got := len(n.set.Load().list); got != 2 {
		t.Fatalf("%d nodes", got)
	}
	timeout := h.cfg.electionTimeout()
	*now = now.Add(timeout)
	if silent := n.dead(*now, timeout); len(silent) != 0 {
		t.Errorf("dead because this process slept: %v", silent)
	}
	*now = now.Add(timeout / 2)
	n.saw(3, 7, true)
	if n.takesOver(3) || !n.takesOver(1) || n.takesOver(99) {
		t.Error("who is about to leave takes over, or who lives does not")
	}
	*now = now.Add(timeout / 2)
	if silent := n.dead(*now, 0); len(silent) != 1 || silent[0] != 1 || n.alive(1) || !n.alive(3) || !n.alive(2) {
		t.Errorf("dead: %v", silent)
	}
	if returned, restarted := n.saw(1, 5, false); !returned || restarted {
		t.Error("node 1 has returned")
	}
	if returned, restarted := n.saw(3, 8, false); returned || !restarted {
		t.Error("node 3 has been started anew")
	}
	if !n.takesOver(3) {
		t.Error("who was started anew does not take over")
	}
	if !n.gone(3) || n.gone(3) || n.gone(99) {
		t.Error("that a node is gone is news once")
	}
	n.count(map[shard.ReplicaID]shard.NodeID{1: 1, 2: 2, 3: 3}, -1)
	if list := n.set.Load().list; len(list) != 1 || list[0].node != 3 {
		t.Errorf("left: %v", list)
	}
	n.post(1, 32, func(*pb.RaftFrame) { t.Error("a message for a node that shares no group") })
}

func TestNoticesAreForAcknowledgementsOnly(t *testing.T) {
	for _, c := range []struct {
		m    *raftpb.Message
		only bool
	}{
		{message(raftpb.MsgAppResp, 1), true},
		{message(raftpb.MsgStorageAppendResp, 1), true},
		{&raftpb.Message{Type: raftpb.MsgAppResp.Enum(), Reject: new(true)}, false},
		{message(raftpb.MsgHeartbeatResp, 1), false},
		{message(raftpb.MsgApp, 1), false},
	} {
		n := notices{acksOnly: true}
		n.stepped(c.m)
		n.stepped(message(raftpb.MsgAppResp, 1))
		if n.acksOnly != c.only {
			t.Errorf("%v: %v, want %v", c.m, n.acksOnly, c.only)
		}
	}
}

func TestTickList(t *testing.T) {
	var l tickList
	gs := make([]*group, 4)
	for i := range gs {
		gs[i] = &group{}
		gs[i].quiescence.tickIndex = -1
		l.add(gs[i])
		l.add(gs[i])
	}
	l.remove(gs[1])
	l.remove(gs[1])
	l.remove(gs[3])
	if all := l.all(); len(all) != 2 || all[0] != gs[0] || all[1] != gs[2] {
		t.Errorf("left: %v", all)
	}
	l.add(gs[1])
	if all := l.all(); len(all) != 3 || all[2] != gs[1] {
		t.Errorf("left: %v", all)
	}
}
