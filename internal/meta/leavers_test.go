package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// groupOn reads a configuration: "1 2 3-" are voters on the nodes 1 and 2, and one on 3 that leaves; "+" joins, "?" learns. Replicas have the ids of
// their nodes.
func groupOn(t *testing.T, text string) (d shard.Descriptor) {
	t.Helper()
	roles := map[string]shard.Role{"-": shard.Leaving, "+": shard.Joining, "?": shard.Learner}
	for part := range strings.FieldsSeq(text) {
		var node uint64
		if _, err := fmt.Sscan(strings.TrimRight(part, "-+?"), &node); err != nil {
			t.Fatal(err)
		}
		d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(node), Node: shard.NodeID(node), Role: roles[part[1:]]})
	}
	d.ID, d.Generation = 2, 7
	return d
}

// TestLeaversNeeded: when a range would be without a majority if node 2 died, which was removed.
func TestLeaversNeeded(t *testing.T) {
	for _, c := range []struct {
		group    string
		from, to shard.ReplicaID // of a move that is under way
		removed  string          // besides 2
		silent   string
		needed   bool
	}{
		{group: "1 2", needed: true},
		{group: "2", needed: true},
		{group: "1 2 3"},
		{group: "1 3"},
		{group: "1 2?"},
		{group: "1 2 3", silent: "3", needed: true},
		{group: "1 2 3", removed: "3", needed: true},
		{group: "1 2 3", silent: "2"},
		{group: "1 2 3 4 5", silent: "3"},
		{group: "1 2 3 4 5", silent: "3", removed: "4", needed: true},
		{group: "1 2 3 4", silent: "3", needed: true},
		// While replicas move the log may be ahead of what is known: both configurations count.
		{group: "1 2-", needed: true},
		{group: "1 2 3", from: 2},
		{group: "1 2 3", from: 3, needed: true},
		{group: "1 2 3-", from: 3, needed: true},
		{group: "1 2 3-", from: 3, removed: "3", needed: true},
		{group: "1 2 3", from: 2, removed: "3", needed: true},
		{group: "1 2", from: 2, needed: true},
		{group: "1 2 3 4?", from: 2, to: 4},
		{group: "1 2 3 4?", from: 3, to: 4},
		{group: "1 2- 3 4+", from: 2, to: 4},
		{group: "1 2- 3 4+", from: 2, to: 4, silent: "4"},
		{group: "1 2- 3 4+", from: 2, to: 4, silent: "3", needed: true},
		{group: "1", to: 2, needed: true},
		{group: "1 2?", to: 2, needed: true},
		{group: "1 3", to: 2},
	} {
		d := groupOn(t, c.group)
		n := need{alive: reach{}, moves: map[shard.RangeID]*shard.Op{}}
		for id := range shard.NodeID(5) {
			m := shard.Member{ID: id + 1}
			if id+1 == 2 || c.removed == m.ID.String() {
				m.State = shard.MemberLeaving
			}
			if c.silent != m.ID.String() {
				n.alive[m.ID] = 0
			}
			n.members = append(n.members, m)
		}
		if c.from != 0 || c.to != 0 {
			n.moves[d.ID] = &shard.Op{Kind: shard.OpMove, Range: d.ID, From: shard.Replica{ID: c.from}, To: shard.Replica{ID: c.to, Node: shard.NodeID(c.to)}}
		}
		other := groupOn(t, "1")
		other.ID = 9
		for _, n.meta = range []shard.Descriptor{other, d} {
			of := d
			if n.meta.ID == d.ID {
				of = other
			}
			var err error
			if n.groups, err = shard.NewMap(1, []shard.Descriptor{of}); err != nil {
				t.Fatal(err)
			}
			if got := n.of(2); got != c.needed {
				t.Errorf("%+v, the meta group on %v: needed: %v", c, n.meta.Replicas, got)
			}
		}
	}
}

// dispensable asks that a member be dispensable.
func dispensable(id uint64) *pb.PeerRequest {
	return &pb.PeerRequest{Members: &pb.MembersRequest{Dispensable: id}}
}

// looked lets whoever waits for a member be told what there is to tell.
func (o *opsEnv) looked() {
	o.t.Helper()
	o.m.Tick()
	o.until("all that wait have been looked at", func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		return !o.m.own.leavers.looking
	})
	o.settle()
}

// leaversEnv is the leader of a cluster of three.
func leaversEnv(t *testing.T) *opsEnv {
	return newOpsEnvWith(t, 2, func(c *Config) {
		c.Reach = func() map[shard.NodeID]time.Duration {
			return map[shard.NodeID]time.Duration{2: time.Hour, 3: time.Hour}
		}
	})
}

// shrink takes a node's replicas out of the map.
func (o *opsEnv) shrink(node shard.NodeID) {
	o.t.Helper()
	o.m.mu.Lock()
	defer o.m.mu.unlock()
	for d := range o.m.state.Map().All() {
		d.Generation++
		var left []shard.Replica
		for _, r := range d.Replicas {
			if r.Node != node {
				left = append(left, r)
			}
		}
		d.Replicas = left
		if err := o.m.state.ApplyRanges(d); err != nil {
			o.t.Fatal(err)
		}
	}
}

// TestLeavers: a removal is over once no group needs the member: one of three at once, and the next when all groups are on the last member, and the
// file of the meta group says so.
func TestLeavers(t *testing.T) {
	o := leaversEnv(t)
	if a := o.ask(dispensable(3)); true {
		o.settle()
		wantErr(t, "one that was not removed", a.err, shard.ErrInvalid)
	}
	o.must(change(shard.MemberRemove, 3))
	o.must(dispensable(3))
	o.must(change(shard.MemberRemove, 2))
	a := o.ask(dispensable(2))
	waits := func(when string) {
		t.Helper()
		o.looked()
		if a.done() {
			t.Fatalf("%s it is answered that nobody needs the member: %v", when, a.err)
		}
	}
	waits("while all are on three")
	o.must(change(shard.MemberRemove, 2)) // who has not been answered asks again
	o.shrink(3)
	waits("while all are on two")
	o.shrink(2)
	waits("while the meta group is on three")
	for _, node := range []uint64{3, 2} {
		o.m.planner.due = o.now().Add(time.Hour)
		op := o.must(moveReq(node, 0)).Ops.Ops[0]
		if got := o.over(op.Id); got.Outcome() != shard.OpDone {
			t.Fatalf("%+v", got)
		}
		if pause := o.m.planner.due.Sub(o.now()); pause > planSoon {
			t.Errorf("the next one leaves after %v", pause)
		}
		if node == 3 {
			waits("while the meta group is on two")
		}
	}
	filed := make(chan shard.Generation, 1)
	o.m.Handle(t.Context(), 2, dispensable(2), func(*pb.PeerResponse) {
		st, err := loadSnapshot(o.dir)
		if err != nil {
			t.Error(err)
		}
		filed <- st.Meta().Generation
	})
	o.until("it has been looked at", func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		return !o.m.own.leavers.looking
	})
	o.settle()
	if len(filed) == 0 { // it waits for the tick that writes the file
		o.looked()
		o.looked()
	}
	if got, want := <-filed, o.m.state.Meta().Generation; got != want {
		t.Errorf("it is answered with the file at generation %d, and the group is at %d", got, want)
	}
	o.until("the first is answered, too", func() bool { o.m.Tick(); return a.done() })
	if a.err != nil {
		t.Error(a.err)
	}
	o.until("it is forgotten", func() bool { o.m.Tick(); o.settle(); return len(o.m.state.Members()) == 1 })
	o.must(dispensable(2))
	_, err := o.call(change(shard.MemberRemove, 2))
	wantErr(t, "once it is forgotten", err, shard.ErrMemberNotFound)
}

// TestLeaversEnd: those who wait are bounded, and end with the leadership, or with their own patience.
func TestLeaversEnd(t *testing.T) {
	o := leaversEnv(t)
	o.must(change(shard.MemberRemove, 3))
	o.must(change(shard.MemberRemove, 2))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, leaverCallsMax)
	for range leaverCallsMax {
		o.m.Handle(ctx, 2, dispensable(2), func(r *pb.PeerResponse) { gone <- pb.ErrorFromPB(r.Error) })
	}
	o.looked()
	_, err := o.call(dispensable(2))
	wantErr(t, "one too many", err, shard.ErrTooManyRequests)
	cancel()
	o.looked()
	for range leaverCallsMax {
		wantErr(t, "who has given up", <-gone, shard.ErrTimeout)
	}
	a := o.ask(dispensable(2))
	o.looked()
	o.depose(7, 3)
	o.settle()
	if !a.done() || !errors.As(a.err, new(*shard.NotLeaderError)) {
		t.Errorf("another leader is to be asked: %v", a.err)
	}
}
