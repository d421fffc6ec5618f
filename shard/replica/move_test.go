package replica

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// steppingGroup is a movingGroup whose configuration is as its last change left it.
type steppingGroup struct{ *movingGroup }

func (g steppingGroup) Status(shard.RangeID) (st raftgroup.Status, ok bool) {
	g.loneGroup.mu.Lock()
	defer g.loneGroup.mu.Unlock()
	st.Conf.Index = uint64(len(g.steps))
	return st, true
}

// kinds are the changes of the configuration so far.
func (g steppingGroup) kinds() (kinds []raftgroup.ChangeKind) {
	g.loneGroup.mu.Lock()
	defer g.loneGroup.mu.Unlock()
	for _, s := range g.steps {
		kinds = append(kinds, s.Kind)
	}
	return kinds
}

func (g steppingGroup) set(fn func(*loneGroup)) {
	g.loneGroup.mu.Lock()
	defer g.loneGroup.mu.Unlock()
	fn(g.loneGroup)
}

// mover is a range on the nodes 11, 12 and 13 whose replicas 1 and 2 are here. Replica 1 leads.
type mover struct {
	*fixture
	g       steppingGroup
	rs      [2]*Replica
	cfg     Config // of replica 1
	removed [2]atomic.Int64
}

func newMover(t *testing.T) *mover {
	t.Helper()
	m := &mover{g: steppingGroup{&movingGroup{loneGroup: newLoneGroup()}}}
	t.Cleanup(m.g.stop)
	f := &fixture{g: m.g.loneGroup, o: &counter{rev: 1}, feed: &feedLog{}}
	for i := range m.rs {
		feed := f.feed
		if i > 0 {
			feed = &feedLog{}
		}
		cfg := testConfig(t.TempDir(), i, f.g, f.o, feed)
		cfg.Host, cfg.TickInterval, cfg.TxnPatience = m.g, time.Millisecond, time.Second
		cfg.Removed = func(shard.RangeID) { m.removed[i].Add(1) }
		if i == 0 {
			m.cfg = cfg
		}
		m.rs[i] = open(t, cfg)
	}
	f.r, m.fixture = m.rs[0], f
	f.g.mu.Lock()
	f.g.sms = m.rs[:]
	f.g.mu.Unlock()
	f.g.lead(t, f.r)
	return m
}

func moveRequest(in, out, gen, op uint64) *pb.ChangeRequest {
	mv := &pb.Move{Op: op, Generation: gen, Out: out}
	if in != 0 {
		mv.In = &pb.ReplicaDesc{ReplicaId: in, NodeId: 10 + in}
	}
	return &pb.ChangeRequest{RangeId: 2, Move: mv}
}

// TestAMoveIsInTheFile: what a change of the replicas has made of the range is in the file before anybody is told: the replica that has left is needed no more
// only then, for a crash takes back what is not.
func TestAMoveIsInTheFile(t *testing.T) {
	m := newMover(t)
	if resp, err := m.split(t, moveRequest(0, 3, 1, 5)); err != nil || m.r.Durable() != m.r.AppliedIndex() {
		t.Errorf("%v, %v: the file is at %d, and the replica at %d", resp, err, m.r.Durable(), m.r.AppliedIndex())
	}
}

func givingUp(req *pb.ChangeRequest) *pb.ChangeRequest {
	req.GiveUp = true
	return req
}

// wants asks the range that leads and checks its answer: what it says, and what the range is then.
func (m *mover) wants(t *testing.T, req *pb.ChangeRequest, outcome shard.ChangeOutcome, desc string) *pb.ChangeResponse {
	t.Helper()
	resp, err := m.split(t, req)
	if err != nil {
		t.Fatalf("%v: %v", req, err)
	}
	d := pb.ToDescriptor(resp.Range)
	if own := m.r.Desc(); !own.Equal(&d) {
		t.Errorf("it answers %+v, and is %+v", d, own)
	}
	if got := describe(d); got != desc || resp.Outcome != uint32(outcome) {
		t.Fatalf("%v: outcome %d (%s), %s; want %d, %s", req, resp.Outcome, resp.Waiting, got, outcome, desc)
	}
	return resp
}

func describe(d shard.Descriptor) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", d.Generation)
	for _, r := range d.Replicas {
		fmt.Fprintf(&b, " %d", r.ID)
		if r.Role != shard.Voter {
			fmt.Fprintf(&b, "(%v)", r.Role)
		}
	}
	return b.String()
}

func (m *mover) wantKinds(t *testing.T, want ...raftgroup.ChangeKind) {
	t.Helper()
	if got := m.g.kinds(); !slices.Equal(got, want) {
		t.Fatalf("changes of the configuration: %v, want %v", got, want)
	}
}

// next lets the other replica lead.
func (m *mover) next(t *testing.T) {
	t.Helper()
	m.r.LeaderChanged(raftgroup.Leadership{Term: m.g.term + 1, Leader: 2})
	m.g.set(func(g *loneGroup) { g.term++ })
	m.r = m.rs[1]
	m.g.lead(t, m.r)
}

// TestAMove: one replica comes and one leaves, step by step, while writes go on. A learner that lacks much gets no vote. Each step says what the range
// is then; the feed has an item of each generation; asked again it tells the outcome, after a restart too.
func TestAMove(t *testing.T) {
	m := newMover(t)
	req := func() *pb.ChangeRequest { return moveRequest(4, 3, 1, 7) }
	m.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	m.wants(t, req(), shard.ChangeStepped, "2: 1 2 3 4(learner)")
	m.g.set(func(g *loneGroup) { g.behind = "is 5000 entries behind" })
	for range 2 {
		if resp := m.wants(t, req(), shard.ChangeWaits, "2: 1 2 3 4(learner)"); resp.Waiting != "the new replica on node e is 5000 entries behind" {
			t.Errorf("it waits because %q", resp.Waiting)
		}
	}
	m.wantKinds(t, raftgroup.AddLearner)
	m.mustWrite(t, replicatest.Put("a", "2"), "3 put@3 prev 1@2")
	m.g.set(func(g *loneGroup) { g.behind = "" })
	m.wants(t, req(), shard.ChangeStepped, "3: 1 2 3(leaving) 4(joining)")
	m.mustWrite(t, replicatest.Put("a", "3"), "4 put@4 prev 2@3")
	m.wants(t, req(), shard.ChangeDone, "4: 1 2 4")
	m.wantKinds(t, raftgroup.AddLearner, raftgroup.EnterJoint, raftgroup.LeaveJoint)
	m.wants(t, req(), shard.ChangeDone, "4: 1 2 4")
	m.wants(t, givingUp(req()), shard.ChangeDone, "4: 1 2 4")
	m.wants(t, moveRequest(5, 1, 1, 8), shard.ChangeGivenUp, "4: 1 2 4") // that was decided for the range as it was
	for i, s := range m.g.steps {
		if s.From != uint64(i) {
			t.Errorf("change %d starts from the configuration at %d", i, s.From)
		}
	}
	var gens []shard.Generation
	m.feed.mu.Lock()
	for _, it := range m.feed.items {
		gens = append(gens, it.Generation)
	}
	m.feed.mu.Unlock()
	if gens = slices.Compact(gens); !slices.Equal(gens, []shard.Generation{1, 2, 3, 4}) {
		t.Errorf("generations in the feed: %v", gens)
	}
	if err := m.rs[0].Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, m.cfg)
	if d := again.Desc(); describe(d) != "4: 1 2 4" {
		t.Errorf("after a restart it is %+v", d)
	}
	if got := outcomeOf(again.mu.m.Shape, req()); got.GetOutcome() != uint32(shard.ChangeDone) || m.removed[0].Load()+m.removed[1].Load() != 0 {
		t.Errorf("after a restart it says %v", got)
	}
}

// TestAMoveIsGivenUp at each step: before the first it is made impossible, a learner leaves again, and what has a vote stays.
func TestAMoveIsGivenUp(t *testing.T) {
	req := func() *pb.ChangeRequest { return moveRequest(4, 3, 1, 7) }
	for steps, want := range []struct {
		outcome shard.ChangeOutcome
		desc    string
		kinds   []raftgroup.ChangeKind
	}{
		{shard.ChangeGivenUp, "2: 1 2 3", nil},
		{shard.ChangeGivenUp, "3: 1 2 3", []raftgroup.ChangeKind{raftgroup.AddLearner, raftgroup.RemoveLearner}},
		{shard.ChangeDone, "4: 1 2 4", []raftgroup.ChangeKind{raftgroup.AddLearner, raftgroup.EnterJoint, raftgroup.LeaveJoint}},
	} {
		m := newMover(t)
		for range steps {
			if _, err := m.split(t, req()); err != nil {
				t.Fatal(err)
			}
		}
		m.wants(t, givingUp(req()), want.outcome, want.desc)
		m.wants(t, givingUp(req()), want.outcome, want.desc)
		m.wants(t, req(), want.outcome, want.desc)
		m.wantKinds(t, want.kinds...)
	}
}

// TestAMoveOutlivesItsLeader: whoever leads goes on from where the range is, forward or back.
func TestAMoveOutlivesItsLeader(t *testing.T) {
	req := func() *pb.ChangeRequest { return moveRequest(4, 3, 1, 7) }
	m := newMover(t)
	m.wants(t, req(), shard.ChangeStepped, "2: 1 2 3 4(learner)")
	m.next(t)
	var other *shard.NotLeaderError
	before := make(chan error, 1)
	m.rs[0].Change(t.Context(), req(), func(_ *pb.ChangeResponse, err error) { before <- err })
	if err := <-before; !errors.As(err, &other) {
		t.Errorf("who leads no more: %v", err)
	}
	m.wants(t, req(), shard.ChangeStepped, "3: 1 2 3(leaving) 4(joining)")
	m.wants(t, req(), shard.ChangeDone, "4: 1 2 4")

	m = newMover(t)
	m.wants(t, req(), shard.ChangeStepped, "2: 1 2 3 4(learner)")
	m.next(t)
	m.wants(t, givingUp(req()), shard.ChangeGivenUp, "3: 1 2 3")
}

// TestALeaderThatLeaves hands over before the last step: it would leave with the revisions that it has allocated (hazard 66).
func TestALeaderThatLeaves(t *testing.T) {
	req := func() *pb.ChangeRequest { return moveRequest(4, 1, 1, 7) }
	m := newMover(t)
	m.wants(t, req(), shard.ChangeStepped, "2: 1 2 3 4(learner)")
	m.wants(t, req(), shard.ChangeStepped, "3: 1(leaving) 2 3 4(joining)")
	// Nobody takes over: the range waits, and serves.
	resp := m.wants(t, req(), shard.ChangeWaits, "3: 1(leaving) 2 3 4(joining)")
	if !strings.Contains(resp.Waiting, "has to hand over first") {
		t.Errorf("it waits because %q", resp.Waiting)
	}
	m.wantKinds(t, raftgroup.AddLearner, raftgroup.EnterJoint)
	m.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	// Somebody does.
	left := make(chan *pb.ChangeResponse, 1)
	m.r.Change(t.Context(), req(), func(resp *pb.ChangeResponse, err error) {
		if err != nil {
			t.Error(err)
		}
		left <- resp
	})
	waitFor(t, func() bool {
		m.g.movingGroup.mu.Lock()
		defer m.g.movingGroup.mu.Unlock()
		return m.g.done != nil
	})
	m.next(t)
	if resp := <-left; resp.GetOutcome() != uint32(shard.ChangeStepped) || resp.GetStoodUs() == 0 || resp.Range.Generation != 3 {
		t.Errorf("who has handed over: %v", resp)
	}
	m.wantKinds(t, raftgroup.AddLearner, raftgroup.EnterJoint)
	m.wants(t, req(), shard.ChangeDone, "4: 2 3 4")
	waitFor(t, func() bool { return m.removed[0].Load() == 1 })
	if m.removed[1].Load() != 0 {
		t.Error("who stays is removed")
	}
}

// TestAMoveIsAlone: while the configuration is changing the range is not cut and no other op begins in it, nor does another leader's.
func TestAMoveIsAlone(t *testing.T) {
	b := &nursery{}
	m := newMover(t)
	m.r.cfg.Births, m.r.cfg.Nodes = b, readyNodes{}
	m.wants(t, moveRequest(4, 3, 1, 7), shard.ChangeStepped, "2: 1 2 3 4(learner)")
	if _, err := m.split(t, splitRequest("m", 2, 8)); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a cut with a learner: %v", err)
	}
	if _, err := m.split(t, moveRequest(5, 2, 2, 8)); err == nil {
		t.Error("a second move with a learner")
	}
	m.wants(t, moveRequest(4, 3, 1, 7), shard.ChangeStepped, "3: 1 2 3(leaving) 4(joining)")
	if _, err := m.split(t, splitRequest("m", 3, 8)); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a cut while joint: %v", err)
	}
	m.g.hold(true) // a step is on its way
	asked := make(chan error, 2)
	for range 2 { // who asks for the same waits for the same
		m.r.Change(t.Context(), moveRequest(4, 3, 1, 7), func(_ *pb.ChangeResponse, err error) { asked <- err })
	}
	waitFor(t, func() bool { return len(m.g.kinds()) == 3 })
	if _, err := m.split(t, moveRequest(5, 2, 3, 8)); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("another op meanwhile: %v", err)
	}
	m.g.hold(false)
	if err := errors.Join(<-asked, <-asked); err != nil {
		t.Error(err)
	}
	if len(b.all()) != 0 {
		t.Error("something was born")
	}
}

// TestAStepThatIsDropped: the group knows another configuration, or is busy with it. Nothing has changed, and the range may be asked again.
func TestAStepThatIsDropped(t *testing.T) {
	m := newMover(t)
	m.g.set(func(g *loneGroup) { g.pending = raftgroup.ErrChangePending })
	for range 2 {
		if _, err := m.split(t, moveRequest(4, 3, 1, 7)); !errors.Is(err, raftgroup.ErrChangePending) {
			t.Errorf("%v", err)
		}
	}
	m.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	m.g.set(func(g *loneGroup) { g.pending = nil })
	m.wants(t, moveRequest(4, 3, 1, 7), shard.ChangeStepped, "2: 1 2 3 4(learner)")
}

// TestMoveBadInput: what cannot be is refused for good, and changes nothing.
func TestMoveBadInput(t *testing.T) {
	m := newMover(t)
	here := moveRequest(4, 3, 1, 7)
	here.Move.In.NodeId = 12
	for name, req := range map[string]*pb.ChangeRequest{
		"no op": moveRequest(4, 3, 1, 0), "nobody": moveRequest(0, 0, 1, 7), "who is not there": moveRequest(4, 9, 1, 7),
		"an id twice": moveRequest(2, 3, 1, 7), "a node twice": here,
		"both": {RangeId: 2, Move: moveRequest(4, 3, 1, 7).Move, Split: splitRequest("m", 1, 7).Split},
	} {
		if _, err := m.split(t, req); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m.wantKinds(t)
	if d := m.r.Desc(); describe(d) != "1: 1 2 3" {
		t.Errorf("it is %+v", d)
	}
}

// TestAContextThatDoesNotFit: a replica that is told of a step which does not follow upon what it is must not go on.
func TestAContextThatDoesNotFit(t *testing.T) {
	after := func(edit func(*pb.Descriptor)) []byte {
		d := replicatest.TestDesc
		d.Generation = 2
		p := pb.FromDescriptor(d)
		edit(p)
		return apply.Marshal(&pb.MoveStep{After: p, Done: &pb.ChangeDone{Op: 7, Step: 1}})
	}
	for name, context := range map[string][]byte{
		"none": {}, "garbage": {0xff}, "another range": after(func(d *pb.Descriptor) { d.RangeId = 9 }),
		"another span":  after(func(d *pb.Descriptor) { d.Span = &pb.Span{Start: []byte("m")} }),
		"the same once": after(func(d *pb.Descriptor) { d.Generation = 1 }), "a jump": after(func(d *pb.Descriptor) { d.Generation = 3 }),
	} {
		r := open(t, testConfig(t.TempDir(), 1, nil, nil, &feedLog{}))
		if err := r.Apply([]raftgroup.Entry{{Index: 11, Term: 6, Context: context}}); err == nil {
			t.Errorf("%s is taken", name)
		}
		if d := r.Desc(); d.Generation != 1 || r.AppliedIndex() != 0 {
			t.Errorf("%s: it is %+v at entry %d", name, d, r.AppliedIndex())
		}
	}
}
