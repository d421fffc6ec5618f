package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// movers are the leaders of all ranges, as their logs have them: each takes the next step of a move when it is asked.
type movers struct {
	mu     sync.Mutex
	shapes map[shard.RangeID]moves.Shape
	used   map[shard.ReplicaID]bool // ids that have been in a group
	asked  []string
	// before says what becomes of a request: an error, and whether the range has done its part in spite of it. nil: all is well.
	before func(req *pb.ChangeRequest) (err error, lost bool)
	lie    func(*pb.ChangeResponse) *pb.ChangeResponse // what is answered instead of the truth; nil: the truth is
	behind string                                      // what learners lack
}

// set changes what the movers do, between two requests.
func (s *movers) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// requests are what was asked.
func (s *movers) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// Change implements RangeOps.
func (s *movers) Change(_ context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("op %d in r%d, give up: %v", req.Move.Op, req.RangeId, req.GiveUp))
	if s.before != nil {
		if err, lost := s.before(req); err != nil {
			if lost {
				_, _ = s.serve(req)
			}
			return nil, err
		}
	}
	resp, err := s.serve(req)
	if s.lie != nil && err == nil {
		return s.lie(proto.CloneOf(resp)), nil
	}
	return resp, err
}

func (s *movers) serve(req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	id := shard.RangeID(req.RangeId)
	now := s.shapes[id]
	if resp := now.Outcome(req.Move); resp != nil {
		return resp, nil
	}
	if req.GiveUp && now.At(req.Move) == moves.Begins {
		up, err := now.Rise(&pb.GenRise{Generation: req.Move.Generation, Op: req.Move.Op})
		if err == nil {
			s.shapes[id] = up
		}
		return up.Outcome(req.Move), err
	}
	next, err := now.Next(req.Move, req.GiveUp)
	if err != nil {
		return nil, err
	}
	if next.Step == moves.Joint && s.behind != "" {
		return now.Stepped(s.behind), nil
	}
	if next.Step == moves.Learns {
		if s.used[next.In] {
			return nil, fmt.Errorf("%w: replica %d once more", shard.ErrCorrupt, next.In)
		}
		s.used[next.In] = true
	}
	after, err := now.After(next.Context(req.Move))
	if err != nil {
		return nil, err
	}
	s.shapes[id] = after
	if resp := after.Outcome(req.Move); resp != nil {
		return resp, nil
	}
	return after.Stepped(""), nil
}

// moveEnv is a leader of a cluster of four nodes, in which each range is on three.
type moveEnv struct {
	*opsEnv
	rs *movers
}

func newMoveEnv(t testing.TB, ranges int) *moveEnv {
	o := newOpsEnvWith(t, ranges, func(c *Config) { withFour(c, ranges) })
	e := &moveEnv{o, &movers{shapes: map[shard.RangeID]moves.Shape{}, used: map[shard.ReplicaID]bool{}}}
	for d := range o.m.state.Map().All() {
		e.rs.shapes[d.ID] = moves.Shape{Desc: d}
		for _, r := range d.Replicas {
			e.rs.used[r.ID] = true
		}
	}
	o.ranges.changer = e.rs
	return e
}

// ask begins a move of a range's replica to where none is.
func (e *moveEnv) ask(id shard.RangeID, from shard.NodeID) (*pb.PeerResponse, error) {
	d, _ := e.m.state.Map().Get(id)
	for to := shard.NodeID(1); to <= 4; to++ {
		if _, there := d.ReplicaOn(to); !there {
			return e.call(&pb.PeerRequest{BeginOp: &pb.BeginOpRequest{Move: &pb.MoveOp{RangeId: uint64(id), From: uint64(from), To: uint64(to), Reason: "by hand"}}})
		}
	}
	return nil, fmt.Errorf("%v is everywhere", id)
}

func (e *moveEnv) must(id shard.RangeID, from shard.NodeID) uint64 {
	e.t.Helper()
	resp, err := e.ask(id, from)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp.Ops.Ops[0].Id
}

// same checks that the map is what the ranges are.
func (e *moveEnv) same() {
	e.t.Helper()
	e.m.mu.Lock()
	m := e.m.state.Map()
	e.m.mu.Unlock()
	e.rs.mu.Lock()
	defer e.rs.mu.Unlock()
	for d := range m.All() {
		if want := e.rs.shapes[d.ID].Desc; !d.Equal(&want) {
			e.t.Fatalf("the map has %v instead of %v", d, want)
		}
	}
}

// allOver lets time go by until every op is over.
func (e *moveEnv) allOver() {
	e.t.Helper()
	e.until("all is over", func() bool {
		e.advance(opPauseMax)
		e.leased()
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		return len(e.m.state.OpsUnderWay()) == 0
	})
}

func (e *moveEnv) inMap(id shard.RangeID) string {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	d, _ := e.m.state.Map().Get(id)
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", d.Generation)
	for _, r := range d.Replicas {
		fmt.Fprintf(&b, " %v", r.Node)
		if r.Role != shard.Voter {
			fmt.Fprintf(&b, "(%v)", r.Role)
		}
	}
	return b.String()
}

// TestMoveIsDriven: the map follows each step, for a node takes a replica in only when the map has it there; while the range waits, the op says for what.
func TestMoveIsDriven(t *testing.T) {
	e := newMoveEnv(t, 2)
	const behind = "the new replica is 5000 entries behind"
	e.rs.set(func() { e.rs.behind = behind })
	before := e.inMap(2)
	id := e.must(2, 1)
	for range 3 {
		if why := e.waiting(id); why != behind {
			t.Errorf("it waits for %q", why)
		}
		if got := e.inMap(2); got == before || !strings.HasPrefix(got, "2: ") || !strings.Contains(got, "4(learner)") {
			t.Errorf("the map has %s, it had %s", got, before)
		}
	}
	e.rs.set(func() {
		e.rs.behind = ""
		e.rs.lie = func(r *pb.ChangeResponse) *pb.ChangeResponse { r.StoodUs = 700; return r } // at each of two steps
	})
	e.allOver() // an attempt may have begun before
	if op := e.over(id); op.Outcome() != shard.OpDone || op.From.Node != 1 || op.To.Node != 4 || op.Stood != 1400*time.Microsecond {
		t.Errorf("%+v", op)
	}
	e.same()
	if got := e.inMap(2); !strings.HasPrefix(got, "4: ") || strings.Contains(got, "(") || strings.Contains(got[2:], " 1") {
		t.Errorf("the map has %s", got)
	}
	if st := e.m.OpStats(shard.OpMove); st.Done != 1 || st.UnderWay != 0 || st.GivenUp != 0 {
		t.Errorf("%+v", st)
	}
}

// TestMoveWaitsForSoLong: a learner that does not come is given up after a while, and the range is as it was. Where it cannot go back any more
// it goes on.
func TestMoveWaitsForSoLong(t *testing.T) {
	for _, late := range []bool{false, true} {
		e := newMoveEnv(t, 2)
		e.rs.set(func() {
			e.rs.behind = "the new replica is not heard of"
			if !late {
				return
			}
			e.rs.before = func(req *pb.ChangeRequest) (error, bool) { // it has a vote already when the range is asked to give up
				if req.GiveUp && e.rs.behind != "" {
					e.rs.behind, req.GiveUp = "", false
					_, _ = e.rs.serve(req)
				}
				return nil, false
			}
		})
		id := e.must(2, 1)
		for waited := time.Duration(0); waited < opWaitAtMost; waited += opPauseMax {
			if asked := e.rs.requests(); len(asked) > 0 && strings.HasSuffix(asked[len(asked)-1], "true") {
				t.Fatalf("given up after %v", waited)
			}
			e.waiting(id) // and lets the time come for the next attempt, which the last time is to give up
		}
		op := e.over(id)
		if want := map[bool]shard.Outcome{false: shard.OpGivenUp, true: shard.OpDone}[late]; op.Outcome() != want {
			t.Errorf("late: %v: %+v", late, op)
		}
		if !late && !strings.Contains(op.Failure, "the new replica is not heard of, for 10m") {
			t.Errorf("because %q", op.Failure)
		}
		e.same()
	}
}

// TestMoveIsRefused: what the range will never do is made impossible there, and only then over.
func TestMoveIsRefused(t *testing.T) {
	e := newMoveEnv(t, 2)
	e.rs.before = func(req *pb.ChangeRequest) (error, bool) {
		if !req.GiveUp {
			return fmt.Errorf("%w: it cannot leave", shard.ErrInvalid), false
		}
		return nil, false
	}
	id := e.must(2, 1)
	if op := e.over(id); op.Outcome() != shard.OpGivenUp || !strings.Contains(op.Failure, "it cannot leave") {
		t.Errorf("%+v", op)
	}
	e.same()
	if got := e.inMap(2); !strings.HasPrefix(got, "2: ") || strings.Contains(got, "4") {
		t.Errorf("the map has %s", got)
	}
}

// TestMoveEndsWithTheTruthAlone: what a step of the move cannot have made of the range is not believed, on the way and at the end.
func TestMoveEndsWithTheTruthAlone(t *testing.T) {
	for name, lie := range map[string]func(*pb.ChangeResponse){
		"nothing":          func(r *pb.ChangeResponse) { *r = pb.ChangeResponse{} },
		"done at once":     func(r *pb.ChangeResponse) { r.Outcome = uint32(shard.ChangeDone) },
		"given up at once": func(r *pb.ChangeResponse) { r.Outcome = uint32(shard.ChangeGivenUp) },
		"another range":    func(r *pb.ChangeResponse) { r.Range.RangeId = 3 },
		"another span":     func(r *pb.ChangeResponse) { r.Range.Span.End = nil },
		"a child":          func(r *pb.ChangeResponse) { r.Child = r.Range; r.Outcome = uint32(shard.ChangeDone) },
		"one less":         func(r *pb.ChangeResponse) { r.Range.Replicas = r.Range.Replicas[1:] },
		"a stranger":       func(r *pb.ChangeResponse) { r.Range.Replicas[0].ReplicaId = 99 },
		"another node":     func(r *pb.ChangeResponse) { r.Range.Replicas[0].NodeId = 9 },
		"nobody":           func(r *pb.ChangeResponse) { r.Range.Replicas = nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newMoveEnv(t, 2)
			e.rs.set(func() { e.rs.lie = func(r *pb.ChangeResponse) *pb.ChangeResponse { lie(r); return r } })
			id := e.must(2, 1)
			was := e.inMap(2)
			for range 2 { // at the third step it would be no lie any more that it is done
				if why := e.waiting(id); why == "" {
					t.Error("nothing is in the way")
				}
			}
			e.quiet()
			if got := e.inMap(2); got != was {
				t.Errorf("the map follows a lie: %s, was %s", got, was)
			}
			e.rs.set(func() { e.rs.lie = nil })
			e.allOver()
			if op, _ := e.m.state.Op(shard.OpID(id)); op.Outcome() != shard.OpDone {
				t.Errorf("%+v", op)
			}
			e.same()
		})
	}
}

// TestMoveStandsStill: a range that says again and again that it has come nearer, and has not, is asked with pauses.
func TestMoveStandsStill(t *testing.T) {
	e := newMoveEnv(t, 2)
	e.rs.lie = func(r *pb.ChangeResponse) *pb.ChangeResponse {
		r.Range.Generation, r.Outcome = 1, uint32(shard.ChangeStepped)
		r.Range.Replicas = pb.FromReplicas(e.m.state.Map().Lookup(nil).Replicas)
		return r
	}
	id := e.must(2, 1)
	for range 5 {
		e.waiting(id)
	}
	e.quiet()
	if n := len(e.rs.requests()); n > 12 {
		t.Errorf("asked %d times", n)
	}
}

// TestMovesThroughLeaderChanges: many moves at a time, whose leaders come and go in each step, and whose answers are lost, doubled or late. Each is over in the end,
// no replica id comes twice, and the map has every outcome.
func TestMovesThroughLeaderChanges(t *testing.T) {
	outcomes := map[shard.Outcome]int{}
	for seed := range uint64(6) {
		r, fates := rand.New(rand.NewPCG(seed, 4)), rand.New(rand.NewPCG(seed, 5)) // the movers have goroutines of their own
		e := newMoveEnv(t, 12)
		calm := false
		e.rs.before = func(*pb.ChangeRequest) (error, bool) { // under the lock of the movers
			e.rs.behind = ""
			if !calm && fates.IntN(4) == 0 {
				e.rs.behind = "lags"
			}
			switch n := fates.IntN(14); {
			case calm || n < 6:
				return nil, false
			case n < 9:
				return shard.ErrAmbiguous, n == 7
			case n == 9:
				return fmt.Errorf("%w: never", shard.ErrInvalid), false
			case n == 10:
				return context.DeadlineExceeded, true
			}
			return &shard.NotLeaderError{Range: 5}, false
		}
		term := uint64(6)
		for step := range 80 {
			switch q := step % 5; {
			case q < 2:
				id := shard.RangeID(2 + r.IntN(12))
				if d, ok := e.m.state.Map().Get(id); ok {
					_, _ = e.ask(id, d.Replicas[r.IntN(len(d.Replicas))].Node)
				}
			case q == 2:
				e.quiet()
				e.advance(opPauseMax)
			case q == 3 && step%4 != 0:
				e.quiet()
			default:
				if step%2 == 0 {
					e.settle()
				}
				e.depose(term+1, 2)
				term += 2
				e.lead(term)
			}
		}
		e.rs.set(func() { calm = true })
		e.allOver()
		e.same()
		for _, op := range e.m.state.Ops() {
			outcomes[op.Outcome()]++
		}
	}
	if outcomes[shard.OpDone] < 20 || outcomes[shard.OpGivenUp] < 3 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// TestAMoveToABadNode: whoever asks for a move to a node that does not answer, or whose disk is nearly full, is told so at once: the move would wait there.
func TestAMoveToABadNode(t *testing.T) {
	reached := map[shard.NodeID]time.Duration{2: 0, 3: 0, 4: 0}
	o := newOpsEnvWith(t, 2, func(c *Config) {
		withFour(c, 2)
		c.Reach = func() map[shard.NodeID]time.Duration { return maps.Clone(reached) }
	})
	disk := func(free, used int64) {
		o.m.mu.Lock()
		defer o.m.mu.unlock()
		o.m.planner.heard = &heard{told: map[shard.NodeID]*pb.NodeStatusResponse{4: {DiskFree: free, DiskUsed: used}}}
	}
	refused := func(what string, is error, says string) {
		t.Helper()
		if _, err := o.call(moveReq(2, 4)); !errors.Is(err, is) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	disk(14, 86)
	refused("a full disk", shard.ErrNoSpace, "free some of it, or name another node")
	disk(15, 85)
	delete(reached, 4)
	refused("a dead node", shard.ErrInvalid, "node 4 is out of reach: start it, or name another node")
	reached[4] = 0
	if _, err := o.call(moveReq(2, 4)); err != nil {
		t.Errorf("a node that answers and has room: %v", err)
	}
}
