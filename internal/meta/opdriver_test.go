package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// splitters are the leaders of all ranges, as their logs have them: a split applies at the generation that it names alone, and
// whoever asks again is told what became of it.
type splitters struct {
	mu    sync.Mutex
	truth *shard.Map
	done  map[uint64]*pb.ChangeResponse // by op
	cuts  map[uint64]int                // how often an op has changed its range
	asked []string
	// before says what becomes of a request: an error, and whether the range has done its part in spite of it. nil: all is well.
	before func(req *pb.ChangeRequest) (err error, lost bool)
	// lie is what is answered instead of the truth; nil: the truth is.
	lie func(*pb.ChangeResponse) *pb.ChangeResponse
	// held, unless nil, keeps answers back until it is closed or the request is over.
	held chan struct{}
}

// Change implements RangeOps.
func (s *splitters) Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("op %d in r%d at %q, give up: %v", req.Split.Op, req.RangeId, req.Split.At, req.GiveUp))
	if s.before != nil {
		if err, lost := s.before(req); err != nil {
			if lost {
				s.serve(req)
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

func (s *splitters) serve(req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	sp := req.Split
	if resp := s.done[sp.Op]; resp != nil {
		return resp, nil
	}
	if s.truth == nil {
		return nil, fmt.Errorf("%w: no ranges", shard.ErrUnavailable)
	}
	d, ok := s.truth.Get(shard.RangeID(req.RangeId))
	var err error
	next, resp := s.truth, &pb.ChangeResponse{Outcome: uint32(shard.ChangeGivenUp)}
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: no such range", shard.ErrInvalid)
	case !req.GiveUp && uint64(d.Generation) != sp.Generation:
		return nil, fmt.Errorf("%w: generation %d", shard.ErrInvalid, d.Generation)
	case req.GiveUp && uint64(d.Generation) == sp.Generation:
		d.Generation++
		next, err = s.truth.Apply(d)
	case !req.GiveUp:
		next, err = s.truth.Split(d.ID, sp.At, shard.RangeID(sp.Child), pb.ToReplicas(sp.Replicas))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	s.truth = next
	s.cuts[sp.Op]++
	left, _ := next.Get(d.ID)
	resp.Range = pb.FromDescriptor(left)
	if right, there := next.Get(shard.RangeID(sp.Child)); there {
		resp.Child, resp.StoodUs, resp.Outcome = pb.FromDescriptor(right), 1500, uint32(shard.ChangeDone)
	}
	s.done[sp.Op] = resp
	return resp, nil
}

// opsEnv is a leader that may split.
type opsEnv struct {
	*env
	s    *splitters
	logs *bytes.Buffer // read after Close or with everything settled
}

func newOpsEnv(t testing.TB, ranges int) *opsEnv { return newOpsEnvWith(t, ranges, func(*Config) {}) }

func newOpsEnvWith(t testing.TB, ranges int, edit func(*Config)) *opsEnv {
	var mu sync.Mutex
	o := &opsEnv{s: &splitters{done: map[uint64]*pb.ChangeResponse{}, cuts: map[uint64]int{}}, logs: &bytes.Buffer{}}
	o.env = newEnv(t, func(c *Config) {
		b := layout(ranges)
		b.ClusterId = 77
		for _, m := range b.Members {
			m.Formats = uint32(clusterversion.Newest)
		}
		c.Bootstrap = b
		c.Wall = func() time.Time { return time.UnixMilli(1_700_000_000_000) }
		c.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return o.logs.Write(p)
		}), nil))
		edit(c)
	})
	o.ranges.changer = o.s
	o.lead(6)
	o.advance(0) // raises the version
	o.settle()
	o.leased()
	o.s.truth = o.m.state.Map()
	return o
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func splitReq(key string) *pb.PeerRequest {
	return &pb.PeerRequest{BeginOp: &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte(key), Reason: "by hand"}}}
}

func opsReq(id uint64) *pb.PeerRequest { return &pb.PeerRequest{Ops: &pb.OpsRequest{Id: id}} }

// over waits until an op is over, and returns it.
func (o *opsEnv) over(id uint64) shard.Op {
	o.t.Helper()
	var op shard.Op
	o.until(fmt.Sprintf("op %d is over", id), func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		op, _ = o.m.state.Op(shard.OpID(id))
		return op.Outcome() != shard.OpUnderWay
	})
	return op
}

// waiting waits until an attempt has failed, lets the time come for the next, and returns what is said of it.
func (o *opsEnv) waiting(id uint64) (why string) {
	o.t.Helper()
	o.until(fmt.Sprintf("op %d waits for another attempt", id), func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		t := o.m.ops.open[shard.OpID(id)]
		return t != nil && !t.due.IsZero()
	})
	resp := o.must(opsReq(id)).Ops
	o.advance(opPauseMax)
	return resp.Waiting[0]
}

// quiet waits until no range is being asked.
func (o *opsEnv) quiet() {
	o.t.Helper()
	o.until("no range is being asked", func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		return o.m.ops.running == 0
	})
}

// same checks that the map is what the ranges are.
func (o *opsEnv) same() {
	o.t.Helper()
	o.m.mu.Lock()
	got := slices.Collect(o.m.state.Map().All())
	o.m.mu.Unlock()
	o.s.mu.Lock()
	want := slices.Collect(o.s.truth.All())
	o.s.mu.Unlock()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		o.t.Fatalf("the map has\n%v\ninstead of\n%v", got, want)
	}
}

// TestOpIsDriven: a split is decided, carried out, and in the map; it is told of, counted and logged.
func TestOpIsDriven(t *testing.T) {
	o := newOpsEnv(t, 2)
	o.s.held = make(chan struct{})
	op := o.must(splitReq("k")).Ops.Ops[0]
	if op.Id != 1 || op.RangeId != 2 || op.Child != 4 || op.EndedMs != 0 || op.BeganMs != 1_700_000_000_000 || len(op.Replicas) != 3 || op.Reason != "by hand" {
		t.Errorf("begun: %v", op)
	}
	if st := o.m.OpStats(shard.OpSplit); st.UnderWay != 1 || st.Done != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := o.call(splitReq("l")); !errors.Is(err, shard.ErrOpInWay) || !strings.Contains(err.Error(), "is being split by op 1") {
		t.Errorf("another one: %v", err)
	}
	close(o.s.held)
	got := o.over(1)
	if got.Outcome() != shard.OpDone || got.Stood != 1500*time.Microsecond || got.Ended != 1_700_000_000_000 {
		t.Errorf("over: %+v", got)
	}
	o.same()
	if st := o.m.OpStats(shard.OpSplit); st.Done != 1 || st.UnderWay != 0 || st.GivenUp != 0 || st.Stood != 1500*time.Microsecond {
		t.Errorf("%+v", st)
	}
	if list := o.must(opsReq(0)).Ops; len(list.Ops) != 1 || len(list.Waiting) != 1 || list.Waiting[0] != "" {
		t.Errorf("listed: %v", list)
	}
	if _, err := o.call(opsReq(9)); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "no op has the id 9") {
		t.Errorf("an op that there is not: %v", err)
	}
	if _, err := o.call(&pb.PeerRequest{BeginOp: &pb.BeginOpRequest{}}); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("of no kind: %v", err)
	}
	if _, err := o.call(splitReq("k")); !errors.Is(err, shard.ErrInvalid) || !strings.Contains(err.Error(), "a border already: r4 begins there") {
		t.Errorf("twice: %v", err)
	}
	for _, want := range []string{`msg="a range is to be changed" kind=split op=1 range=r2 key="\"k\"" child=r4 generation=1 why="by hand"`,
		`msg="a range was changed" kind=split op=1 range=r2 key="\"k\"" child=r4 stood=1.5ms took=0s`} {
		if n := strings.Count(o.logs.String(), want); n != 1 {
			t.Errorf("%q is logged %d times in\n%s", want, n, o.logs)
		}
	}
	if (*Meta)(nil).OpStats(shard.OpSplit) != (OpStats{}) {
		t.Error("a node without a replica has ops")
	}
}

// TestOpIsGivenUp: an op that its range refuses for good is made impossible there, and only then over. That is tried as long as it
// takes, and why it takes long is told.
func TestOpIsGivenUp(t *testing.T) {
	for name, refusal := range map[string]error{"no space": shard.ErrNoSpace, "invalid": fmt.Errorf("%w: the key is outside", shard.ErrInvalid)} {
		t.Run(name, func(t *testing.T) {
			o := newOpsEnv(t, 2)
			away := 2
			o.s.before = func(req *pb.ChangeRequest) (error, bool) {
				if !req.GiveUp {
					return refusal, false
				}
				if away--; away >= 0 {
					return &shard.NotLeaderError{Range: 2}, false
				}
				return nil, false
			}
			o.must(splitReq("k"))
			for range 2 {
				if why := o.waiting(1); !strings.Contains(why, refusal.Error()) || !strings.Contains(why, "not the leader") {
					t.Errorf("it waits for %q", why)
				}
			}
			got := o.over(1)
			if got.Outcome() != shard.OpGivenUp || got.Failure != refusal.Error() {
				t.Errorf("%+v", got)
			}
			o.same()
			if d, _ := o.m.state.Map().Get(2); d.Generation != 2 {
				t.Errorf("%v", d)
			}
			if want := []string{"false", "true", "true", "true"}; len(o.s.asked) != len(want) || !strings.HasSuffix(o.s.asked[0], "false") || !strings.HasSuffix(o.s.asked[1], "true") {
				t.Errorf("asked %v", o.s.asked)
			}
			if st := o.m.OpStats(shard.OpSplit); st != (OpStats{GivenUp: 1}) {
				t.Errorf("%+v", st)
			}
			if !strings.Contains(o.logs.String(), "a change of a range was given up") {
				t.Errorf("logged:\n%s", o.logs)
			}
			o.s.before = nil
			o.must(splitReq("k")) // it may be asked for again
			if got := o.over(2); got.Outcome() != shard.OpDone {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestOpOutlivesItsRefusal: who asks to give up what has been done is told so, and the op is done.
func TestOpOutlivesItsRefusal(t *testing.T) {
	o := newOpsEnv(t, 2)
	first := true
	o.s.before = func(req *pb.ChangeRequest) (error, bool) {
		defer func() { first = false }()
		if first {
			return shard.ErrNoSpace, true
		}
		return nil, false
	}
	o.must(splitReq("k"))
	if got := o.over(1); got.Outcome() != shard.OpDone {
		t.Errorf("%+v", got)
	}
	o.same()
}

// TestOpHasPatience: a range that nobody leads is asked again and again, with pauses that grow up to a bound; it is said once in
// the log, and nothing is given up for that.
func TestOpHasPatience(t *testing.T) {
	o := newOpsEnv(t, 2)
	o.s.before = func(*pb.ChangeRequest) (error, bool) {
		return fmt.Errorf("%w: r2 has no leader", shard.ErrUnavailable), false
	}
	o.must(splitReq("k"))
	for range 12 {
		if why := o.waiting(1); !strings.Contains(why, "r2 has no leader") {
			t.Errorf("it waits for %q", why)
		}
	}
	o.until("it waits", func() bool {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		t := o.m.ops.open[1]
		return t.failed > 12 && !t.due.IsZero() && t.due.Equal(o.now().Add(opPauseMax))
	})
	for _, asked := range o.s.asked {
		if strings.HasSuffix(asked, "true") {
			t.Fatalf("given up: %v", o.s.asked)
		}
	}
	o.s.before = nil
	o.advance(opPauseMax)
	if got := o.over(1); got.Outcome() != shard.OpDone {
		t.Errorf("%+v", got)
	}
	if n := strings.Count(o.logs.String(), "does not get on yet"); n != 1 {
		t.Errorf("%d lines:\n%s", n, o.logs)
	}
}

// TestOpEndsWithTheTruthAlone: what a range cannot have become is not believed: it is asked again.
func TestOpEndsWithTheTruthAlone(t *testing.T) {
	for name, lie := range map[string]func(r *pb.ChangeResponse) *pb.ChangeResponse{
		"nothing":        func(*pb.ChangeResponse) *pb.ChangeResponse { return &pb.ChangeResponse{} },
		"the left alone": func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Child = nil; return r },
		"as it was":      func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Range.Generation, r.Child = 1, nil; return r },
		"another child":  func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Child.RangeId = 3; return r },
		"older":          func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Child.Generation = 1; return r },
		"a gap":          func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Child.Span.Start = []byte("l"); return r },
		"too much":       func(r *pb.ChangeResponse) *pb.ChangeResponse { r.Child.Span.End = nil; return r },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOpsEnv(t, 2)
			o.s.lie = lie
			o.must(splitReq("k"))
			was := o.m.state.Map()
			if why := o.waiting(1); why == "" {
				t.Error("nothing is in the way")
			}
			o.quiet()
			if o.m.state.Map() != was {
				t.Error("the map follows a lie")
			}
			o.s.mu.Lock()
			o.s.lie = nil
			o.s.mu.Unlock()
			o.waiting(1)
			if got := o.over(1); got.Outcome() != shard.OpDone {
				t.Errorf("%+v", got)
			}
			o.same()
		})
	}
}

// TestOpStepsDown: with the leadership attempts end, and the next leader goes on.
func TestOpStepsDown(t *testing.T) {
	o := newOpsEnv(t, 2)
	o.s.held = make(chan struct{}) // never closed: the end of the leadership ends the wait
	o.must(splitReq("k"))
	o.depose(7, 2)
	if st := o.m.OpStats(shard.OpSplit); st.UnderWay != 0 {
		t.Errorf("a follower drives %+v", st)
	}
	o.s.mu.Lock()
	o.s.held = nil
	o.s.mu.Unlock()
	o.lead(8)
	if got := o.over(1); got.Outcome() != shard.OpDone {
		t.Errorf("%+v", got)
	}
	o.same()
}

// TestOpsThroughLeaderChanges: many ops at a time, whose leaders and ranges come and go, and whose answers are lost. Each changes
// its range once, all are over in the end, and the map has every outcome.
func TestOpsThroughLeaderChanges(t *testing.T) {
	outcomes := map[shard.Outcome]int{}
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 3))
		o := newOpsEnv(t, 24)
		calm := false
		o.s.before = func(*pb.ChangeRequest) (error, bool) {
			n := r.IntN(12) // under the lock of the splitters
			switch {
			case calm || n < 3:
				return nil, false
			case n < 6:
				return shard.ErrAmbiguous, n == 3
			case n == 6:
				return shard.ErrNoSpace, false
			case n == 7:
				return context.DeadlineExceeded, true
			}
			return &shard.NotLeaderError{Range: 5}, false
		}
		term := uint64(6)
		for step := range 60 {
			switch q := step % 5; {
			case q < 2:
				o.ask(splitReq(string([]byte{byte(step*37 + 11), byte(step)})))
			case q == 2:
				o.quiet()
				o.advance(opPauseMax)
			case q == 3 && step%4 != 0:
				o.quiet()
			default:
				if step%2 == 0 {
					o.settle()
				}
				o.depose(term+1, 2)
				term += 2
				o.lead(term)
			}
		}
		o.s.mu.Lock()
		calm = true
		o.s.mu.Unlock()
		o.until("all is over", func() bool {
			o.advance(opPauseMax)
			o.leased()
			o.m.mu.Lock()
			defer o.m.mu.Unlock()
			return len(o.m.state.OpsUnderWay()) == 0
		})
		o.same()
		for _, op := range o.m.state.Ops() {
			outcomes[op.Outcome()]++
		}
		for op, n := range o.s.cuts {
			if n != 1 {
				t.Errorf("op %d has changed its range %d times", op, n)
			}
		}
	}
	if outcomes[shard.OpDone] < 20 || outcomes[shard.OpGivenUp] < 3 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// TestOpsNeedTheVersion: as long as some member runs an older release there is no split, and it is said which.
func TestOpsNeedTheVersion(t *testing.T) {
	e := newEnv(t)
	e.lead(6)
	if _, err := e.call(splitReq("k")); !errors.Is(err, shard.ErrUnimplemented) || !strings.Contains(err.Error(), "which these do not: one, two, three") {
		t.Errorf("%v", err)
	}
	if len(e.seen) == 0 || e.seen[len(e.seen)-1].BeginOp != nil {
		t.Error("it went through the log")
	}
}

// TestBorders: a border stays that a split by hand has made, for as long as was asked for, or until that is taken back.
func TestBorders(t *testing.T) {
	o := newOpsEnv(t, 1)
	for key, sticky := range map[string]int64{"b": -1, "d": 60, "f": 0} {
		resp := o.must(&pb.PeerRequest{BeginOp: &pb.BeginOpRequest{Split: &pb.SplitOp{Key: []byte(key), StickyS: sticky}}})
		o.over(resp.Ops.Ops[0].Id)
	}
	stay := func() (out []string) {
		for _, b := range o.must(&pb.PeerRequest{Borders: &pb.BordersRequest{}}).Borders.Borders {
			out = append(out, fmt.Sprintf("%s until %d", b.Key, b.UntilMs))
		}
		return out
	}
	forever, minute := fmt.Sprintf("b until %d", shard.Forever), "d until 1700000060000"
	if got := stay(); !slices.Equal(got, []string{forever, minute}) {
		t.Errorf("%q", got)
	}
	o.m.mu.Lock()
	o.m.cfg.Wall = func() time.Time { return time.UnixMilli(1_700_000_060_000) }
	o.m.mu.Unlock()
	if got := stay(); !slices.Equal(got, []string{forever}) {
		t.Errorf("a minute later: %q", got)
	}
	unstick := &pb.PeerRequest{Unstick: &pb.UnstickRequest{Key: []byte("b")}}
	o.must(unstick)
	if got := stay(); len(got) != 0 {
		t.Errorf("taken back: %q", got)
	}
	if _, err := o.call(unstick); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("taken back again: %v", err)
	}
}
