package meta

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"pontoon/internal/clusterversion"
	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// newMovesEnv is the leader of a meta group on the nodes 1 to 3, in a cluster of four.
func newMovesEnv(t testing.TB, removed *atomic.Int64) *opsEnv {
	return newOpsEnvWith(t, 2, func(c *Config) {
		withFour(c, 2)
		c.Removed = func() { removed.Add(1) }
	})
}

// withFour lays so many ranges out, each on three of four nodes.
func withFour(c *Config, ranges int) {
	members := append(append([]shard.Member(nil), testMembers...), shard.Member{ID: 4, Name: "four"})
	b := placement.Bootstrap(placement.Layout{Members: members, SplitKeys: shard.SplitKeys(ranges), ReplicationFactor: 3})
	b.ClusterId = 77
	for _, m := range b.Members {
		m.Formats = uint32(clusterversion.Newest)
	}
	c.Bootstrap, c.Desc, c.Replica = b, pb.ToDescriptor(b.Meta), 0
}

func moveReq(from, to uint64) *pb.PeerRequest {
	return &pb.PeerRequest{BeginOp: &pb.BeginOpRequest{Move: &pb.MoveOp{RangeId: uint64(shard.MetaID), From: from, To: to, Reason: "by hand"}}}
}

// group renders the meta group as the state has it.
func (o *opsEnv) group() string {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	d := o.m.state.Meta()
	var b strings.Builder
	fmt.Fprintf(&b, "generation %d:", d.Generation)
	for _, r := range d.Replicas {
		fmt.Fprintf(&b, " %d on %v (%v)", r.ID, r.Node, r.Role)
	}
	return b.String()
}

func (o *opsEnv) wantGroup(want string) {
	o.t.Helper()
	if got := o.group(); got != want {
		o.t.Errorf("the group is at %s, want %s", got, want)
	}
}

// TestMetaMove: a replica of the group itself is moved by the same kind of op as a range's, one change of the configuration after the other, each of
// which tells every node by a new version of the map; a restart finds it in the state.
func TestMetaMove(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	o.h.behind = "is 5000 entries behind"
	version := o.m.state.Map().Version()
	op := o.must(moveReq(2, 4)).Ops.Ops[0]
	if op.RangeId != 1 || op.From.ReplicaId != 2 || op.To.NodeId != 4 || op.To.ReplicaId < 4 {
		t.Fatalf("begun: %v", op)
	}
	id := op.To.ReplicaId
	if why := o.waiting(op.Id); !strings.Contains(why, "the new replica on node 4 is 5000 entries behind") {
		t.Errorf("waits because %q", why)
	}
	o.wantGroup(fmt.Sprintf("generation 2: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter) %d on 4 (learner)", id))
	if _, err := o.call(moveReq(3, 4)); !errors.Is(err, shard.ErrOpInWay) {
		t.Errorf("another one: %v", err)
	}
	o.h.mu.Lock()
	o.h.behind = ""
	o.h.mu.Unlock()
	o.advance(opWaitPause)
	if got := o.over(op.Id); got.Outcome() != shard.OpDone {
		t.Errorf("over: %+v", got)
	}
	want := fmt.Sprintf("generation 4: 1 on 1 (voter) 3 on 3 (voter) %d on 4 (voter)", id)
	o.wantGroup(want)
	if v := o.m.state.Map().Version(); v != version+3 {
		t.Errorf("the map is at version %d, after %d", v, version)
	}
	o.m.Tick() // which writes the file: others are found by it, and nobody is told before
	resp := o.must(&pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{KnownVersion: version, Differences: true}}).Descriptors
	if d := pb.ToDescriptor(resp.Meta); d.Generation != 4 || len(resp.Ranges) != 0 {
		t.Errorf("nodes are told of %v and %d ranges", d, len(resp.Ranges))
	}
	if n := removed.Load(); n != 0 {
		t.Errorf("removed %d times", n)
	}
	if index, _ := o.m.Applied(); o.m.Durable() != index {
		t.Errorf("the file is at %d of %d", o.m.Durable(), index)
	}
	o.m.Close()
	o.open()
	o.wantGroup(want)
}

// TestMetaMoveIsInTheFile: where the group's replicas are is told only once a crash cannot take it back: who has left deletes itself by it, and its vote with it.
func TestMetaMoveIsInTheFile(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	op := o.must(moveReq(2, 0)).Ops.Ops[0]
	if got := o.over(op.Id); got.Outcome() != shard.OpDone {
		t.Errorf("over: %+v", got)
	}
	answers := make(chan *pb.PeerResponse, 1)
	o.m.Handle(t.Context(), 2, &pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{}}, func(r *pb.PeerResponse) { answers <- r })
	o.settle()
	if len(answers) == 0 { // it waits for the tick that writes the file
		o.m.Tick()
		o.settle()
	}
	told := pb.ToDescriptor((<-answers).Descriptors.Meta)
	st, err := loadSnapshot(o.dir) // what a crash leaves
	if err != nil {
		t.Fatal(err)
	}
	if d := st.Meta(); told.Generation < 2 || d.Generation < told.Generation {
		t.Errorf("told is generation %d, and the file is at %d", told.Generation, d.Generation)
	}
}

// TestMetaMoveOfLeader: a leader that is to leave hands over first, with the exact revision in the log, and leaves the last step to the next one.
// Once it has applied that, it answers nothing, whatever Raft says, and its host takes it away.
func TestMetaMoveOfLeader(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	o.allocate(5)
	op := o.must(moveReq(1, 4)).Ops.Ops[0]
	id := op.To.ReplicaId
	o.until("it hands over", func() bool { o.h.mu.Lock(); defer o.h.mu.Unlock(); return o.h.handed > 0 })
	o.wantGroup(fmt.Sprintf("generation 3: 1 on 1 (leaving) 2 on 2 (voter) 3 on 3 (voter) %d on 4 (joining)", id))
	if limit, _ := o.m.state.OracleLimit(); limit != 6 {
		t.Errorf("it hands over with the limit at %d: what is above 6 is a gap", limit)
	}
	o.depose(7, 2)
	o.apply(raftgroup.Entry{Term: 7})
	shape := o.m.state.Moving()
	next, err := shape.Next(&pb.Move{Op: op.Id, Generation: op.Generation, In: op.To, Out: 1}, false)
	if err != nil || next.Step != moves.Done {
		t.Fatalf("next is %+v, %v", next, err)
	}
	context, err := next.Context(&pb.Move{Op: op.Id}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	o.apply(raftgroup.Entry{Term: 7, Context: context})
	if n := removed.Load(); n != 1 {
		t.Errorf("its host hears %d times that it is removed", n)
	}
	o.h.mu.Lock()
	o.h.term = 8
	o.h.mu.Unlock()
	o.m.LeaderChanged(raftgroup.Leadership{Term: 8, Leader: 1, IsLeader: true}) // which must not be, and must do no harm
	o.m.OwnTermApplied(8)
	o.leased()
	o.settle()
	if now, ok := o.m.ServeLeased(0, shard.Ask{Count: 1}, false); ok {
		t.Errorf("a removed replica hands out revision %d", now.Revision)
	}
	a := o.ask(oracleReq(1))
	o.settle()
	var nl *shard.NotLeaderError
	if !errors.As(a.err, &nl) || len(nl.Known) != 1 || nl.Known[0].Generation != 4 {
		t.Errorf("asked for a revision it answers %v, %+v", a.err, nl)
	}
}

// TestMetaMoveGivenUp: a learner that never gets there is taken out again, and the group is as it was.
func TestMetaMoveGivenUp(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	o.h.behind = "is not heard of"
	op := o.must(moveReq(3, 4)).Ops.Ops[0]
	o.waiting(op.Id)
	o.leased()
	o.until("it waits", func() bool { return strings.Contains(o.group(), "learner") })
	o.advance(opWaitAtMost)
	got := o.over(op.Id)
	if got.Outcome() != shard.OpGivenUp || !strings.Contains(got.Failure, "the new replica on node 4 is not heard of") {
		t.Errorf("over: %+v", got)
	}
	o.wantGroup("generation 3: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter)")
}

// TestMetaMoveGrows: a group gets and loses single replicas, five at most; it is no range that could be cut, and it is not left without
// replicas.
func TestMetaMoveGrows(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	run := func(from, to uint64) {
		t.Helper()
		op := o.must(moveReq(from, to)).Ops.Ops[0]
		if got := o.over(op.Id); got.Outcome() != shard.OpDone {
			t.Errorf("over: %+v", got)
		}
		o.leased()
	}
	run(0, 4)
	if g := o.group(); !strings.HasPrefix(g, "generation 4: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter)") || !strings.HasSuffix(g, "on 4 (voter)") {
		t.Errorf("grown: %s", g)
	}
	run(4, 0)
	run(3, 0)
	run(2, 0)
	o.wantGroup("generation 10: 1 on 1 (voter)")
	if _, err := o.call(moveReq(1, 0)); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "is its only one") {
		t.Errorf("the last one: %v", err)
	}
	if _, err := o.call(moveReq(3, 2)); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "has no replica on node 3") {
		t.Errorf("from where there is none: %v", err)
	}
}

// TestMetaMoveImpossible: a move that cannot begin is made impossible by an entry that raises the generation.
func TestMetaMoveImpossible(t *testing.T) {
	var removed atomic.Int64
	o := newMovesEnv(t, &removed)
	mv := &pb.Move{Op: 99, Generation: 1, In: &pb.ReplicaDesc{NodeId: 4, ReplicaId: 9}, Out: 2}
	type outcome struct {
		resp *pb.ChangeResponse
		err  error
	}
	got := make(chan outcome, 1)
	go func() {
		resp, err := o.m.moves.Change(t.Context(), &pb.ChangeRequest{RangeId: 1, Move: mv, GiveUp: true})
		got <- outcome{resp, err}
	}()
	var g outcome
	o.until("it is given up", func() bool {
		select {
		case g = <-got:
			return true
		default:
			return false
		}
	})
	if g.err != nil || g.resp.Outcome != uint32(shard.ChangeGivenUp) {
		t.Fatalf("%v, %v", g.resp, g.err)
	}
	o.wantGroup("generation 2: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter)")
	if resp, err := o.m.moves.Change(t.Context(), &pb.ChangeRequest{RangeId: 1, Move: mv}); err != nil || resp.Outcome != uint32(shard.ChangeGivenUp) {
		t.Errorf("asked again: %v, %v", resp, err)
	}
}

// TestMetaMoveOfLearners: a learner among the members gets a replica of the group that learns, and is promoted when that is in sync, not before; it votes as soon as
// another one does, by which the group has an odd number of voters again, also where the planner is to do nothing by itself.
func TestMetaMoveOfLearners(t *testing.T) {
	var removed atomic.Int64
	nodes := &fleet{leader: map[shard.RangeID]shard.NodeID{}, asked: map[shard.NodeID]int{}}
	o := newOpsEnvWith(t, 2, func(c *Config) {
		withFour(c, 2)
		c.Removed = func() { removed.Add(1) }
		c.Placement = Placement{Mode: placement.ModeOff, Group: true, Nodes: nodes}
	})
	nodes.truth = o.m.state.Map()
	got, err := o.changed(learner(change(shard.MemberAdd, 0, "http://five:2380")))
	if err != nil {
		t.Fatal(err)
	}
	five := got.Id
	notReady := func(what string) {
		t.Helper()
		if _, err := o.changed(change(shard.MemberPromote, five)); !errors.Is(err, shard.ErrLearnerNotReady) {
			t.Errorf("%s: %v", what, err)
		}
	}
	notReady("before it has started")
	o.must(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: five, Name: "five", ClientUrls: []string{"http://c"}, Formats: uint32(clusterversion.Newest)}})
	notReady("without a replica")
	o.h.mu.Lock()
	o.h.behind = "is 5000 entries behind"
	o.h.mu.Unlock()
	learns := fmt.Sprintf(" on %x (learner)", five)
	o.until("it learns", func() bool { o.advance(learnersPause); return strings.HasSuffix(o.group(), learns) })
	id := o.m.state.Meta().Replicas[3].ID
	o.wantGroup(fmt.Sprintf("generation 2: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter) %d%s", id, learns))
	notReady("behind")
	o.h.mu.Lock()
	o.h.behind = ""
	o.h.mu.Unlock()
	if got, err = o.changed(change(shard.MemberPromote, five)); err != nil {
		t.Fatal(err)
	}
	o.wantGroup(fmt.Sprintf("generation 2: 1 on 1 (voter) 2 on 2 (voter) 3 on 3 (voter) %d%s", id, learns)) // a fourth voter is of no use
	if got, err = o.changed(learner(change(shard.MemberAdd, 0, "http://six:2380"))); err != nil {
		t.Fatal(err)
	}
	six := got.Id
	o.must(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: six, Name: "six", ClientUrls: []string{"http://c"}, Formats: uint32(clusterversion.Newest)}})
	learns = fmt.Sprintf(" on %x (learner)", six)
	o.until("another one learns", func() bool { o.advance(learnersPause); return strings.HasSuffix(o.group(), learns) })
	if _, err = o.changed(change(shard.MemberPromote, six)); err != nil {
		t.Fatal(err)
	}
	o.until("both vote", func() bool {
		o.advance(planAgain)
		o.leased()
		return strings.HasSuffix(o.group(), fmt.Sprintf("(voter) %d on %x (voter) %d on %x (voter)", id, five, id+1, six))
	})
	if n := removed.Load(); n != 0 {
		t.Errorf("removed %d times", n)
	}
}
