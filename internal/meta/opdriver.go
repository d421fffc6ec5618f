package meta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// opAttemptMax bounds one question to a range's leader, which copies the part that is cut off before it answers. It ends nothing:
	// the same is asked again.
	opAttemptMax = time.Minute
	// opPauseMax is the longest pause before it is asked again.
	opPauseMax = 5 * time.Second
	// opWaitPause is the pause before a range is asked again that waits for something, and opWaitAtMost for how long it may.
	opWaitPause  = 250 * time.Millisecond
	opWaitAtMost = 10 * time.Minute
	// failureMax bounds what is kept of why an op was given up, in bytes.
	failureMax = 1024
)

// opDriver carries out, on the leader, the ops that the log says are under way: it asks the leader of each range to do it, as often
// as needed, and logs what the range's own log has made of it. Nothing is given up for having taken long. Where
// a range refuses for good, the op is first made impossible there, and then ended. Whoever leads next goes on from
// the state alone: a range that is asked again says what became of the op.
//
// Its methods are events, called with the lock held.
type opDriver struct {
	env  opDriverEnv
	open map[shard.OpID]*opTask
	// running attempts are at most as many as there may be ops.
	running int
	ended   opCounts // since this process began
	stood   map[shard.OpKind]opTimes
	ctx     context.Context // of this leadership's attempts; nil before the first
	cancel  context.CancelFunc
}

// opDriverEnv is what the driver needs of a leader.
type opDriverEnv struct {
	ctx  context.Context
	now  func() time.Time // for pauses
	wall func() time.Time // for people
	// change asks a range's leader, until limit or the end of ctx. done is called once, later, with the lock held.
	change  func(ctx context.Context, req *pb.ChangeRequest, limit time.Duration, done func(*pb.ChangeResponse, error))
	propose func(*pb.MetaEntry, func(state.Result))
	// log writes a line once the lock is free.
	log func(warn bool, msg string, attrs ...any)
}

// opTask is one op.
type opTask struct {
	op      shard.Op
	due     time.Time // of the next attempt; zero: it runs, or its end is being logged
	failed  int       // attempts, one after the other
	last    error     // of the last of them
	refused error     // for good: the op is to be made impossible
	waits   time.Time // since when the range waits for something; zero: it does not
	stood   int64     // for how long requests have waited on the way, in microseconds, as far as this leader knows
	stalled bool      // the range has said that it came nearer, and had not
	stepped uint64    // the generation that has been logged last
}

// opCounts counts ops by what became of them.
type opCounts map[opCount]uint64

// opTimes are times of those that were done, together.
type opTimes struct{ stood, took time.Duration }

type opCount struct {
	kind    shard.OpKind
	outcome shard.Outcome
}

func newOpDriver(m *Meta) opDriver {
	return opDriver{open: make(map[shard.OpID]*opTask), ended: make(opCounts), stood: make(map[shard.OpKind]opTimes), env: opDriverEnv{
		ctx: m.ctx, now: m.cfg.Now, wall: m.cfg.Wall, propose: m.log.propose,
		change: func(ctx context.Context, req *pb.ChangeRequest, limit time.Duration, done func(*pb.ChangeResponse, error)) {
			m.wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, limit)
				ask := m.cfg.Ranges.Change
				if req.RangeId == uint64(shard.MetaID) { // that is here
					ask = m.moves.Change
				}
				resp, err := ask(ctx, req)
				cancel()
				m.mu.Lock()
				done(resp, err)
				m.mu.unlock()
			})
		},
		log: func(warn bool, msg string, attrs ...any) {
			m.mu.later(func() {
				if warn {
					m.cfg.Logger.Warn(msg, attrs...)
				} else {
					m.cfg.Logger.Info(msg, attrs...)
				}
			})
		},
	}}
}

// begun takes up an op that has just been logged.
func (d *opDriver) begun(op shard.Op) {
	d.env.log(false, "a range is to be changed", append(about(op), "generation", op.Generation, "why", op.Reason)...)
	d.inherited(op)
}

// about says what an op does, for the log.
func about(op shard.Op) []any {
	attrs := []any{"kind", op.Kind.String(), "op", op.ID, "range", op.Range}
	if op.Kind != shard.OpMove {
		return append(attrs, "key", fmt.Sprintf("%q", op.Key), "child", op.Child)
	}
	return append(attrs, "from", op.From.Node.String(), "to", op.To.Node.String())
}

// request is what a range is asked for.
func (t *opTask) request() *pb.ChangeRequest {
	op := &t.op
	req := &pb.ChangeRequest{RangeId: uint64(op.Range), GiveUp: t.refused != nil}
	switch op.Kind {
	case shard.OpSplit:
		req.Split = &pb.Split{At: op.Key, Child: uint64(op.Child), Replicas: pb.FromReplicas(op.Replicas), Generation: uint64(op.Generation), Op: uint64(op.ID)}
	case shard.OpMerge:
		req.Merge = &pb.Merge{Op: uint64(op.ID), Generation: uint64(op.Generation), Right: uint64(op.Child), RightGeneration: uint64(op.ChildGeneration)}
	case shard.OpMove:
		req.Move = &pb.Move{Op: uint64(op.ID), Generation: uint64(op.Generation), In: pb.FromReplica(op.To), Out: uint64(op.From.ID)}
	}
	return req
}

// inherited goes on with an op that another leader may have driven.
func (d *opDriver) inherited(op shard.Op) {
	if d.open[op.ID] == nil {
		t := &opTask{op: op}
		d.open[op.ID] = t
		d.attempt(t)
	}
}

// attempt asks the range, or says when to.
func (d *opDriver) attempt(t *opTask) {
	if d.running >= state.OpsUnderWayMax { // of an earlier leadership, and about to end
		t.due = d.env.now().Add(retryPauseMin)
		return
	}
	if d.ctx == nil {
		d.ctx, d.cancel = context.WithCancel(d.env.ctx)
	}
	d.running++
	t.due = time.Time{}
	d.env.change(d.ctx, t.request(), opAttemptMax, func(resp *pb.ChangeResponse, err error) {
		d.running--
		if d.open[t.op.ID] == t { // still this leadership's
			d.attempted(t, resp, err)
		}
	})
}

// attempted judges an answer.
func (d *opDriver) attempted(t *opTask, resp *pb.ChangeResponse, err error) {
	if err == nil && resp.GetRange() == nil {
		err = fmt.Errorf("%w: an answer without a range", shard.ErrCorrupt)
	}
	switch {
	case err == nil && resp.Outcome <= uint32(shard.ChangeGivenUp):
		d.end(t, resp)
	case err == nil:
		d.stepped(t, resp)
	case refusedForGood(err) && t.refused == nil:
		t.refused = err
		d.attempt(t)
	default:
		d.failed(t, err)
	}
}

// refusedForGood reports whether a range will refuse the op whenever it is asked. Everything else is tried again.
func refusedForGood(err error) bool {
	return errors.Is(err, shard.ErrInvalid) || errors.Is(err, shard.ErrNoSpace) || errors.Is(err, shard.ErrUnimplemented)
}

// end logs what a range has made of its op.
func (d *opDriver) end(t *opTask, resp *pb.ChangeResponse) {
	e := &pb.MetaEndOp{Id: uint64(t.op.ID), Ranges: []*pb.Descriptor{resp.Range}, EndedMs: d.env.wall().UnixMilli(), StoodUs: t.stood + resp.StoodUs}
	if resp.Child != nil {
		e.Ranges = append(e.Ranges, resp.Child)
	}
	if resp.Outcome != uint32(shard.ChangeDone) {
		e.Failure = cmp.Or(resp.Waiting, failure(t.refused))
	}
	d.env.propose(&pb.MetaEntry{EndOp: e}, func(res state.Result) {
		if res.Err != nil && d.open[t.op.ID] == t {
			d.failed(t, res.Err)
		}
	})
}

// stepped logs how far a range has come, so that the map follows, and asks it again. One that waits for too long gives up: it is
// asked to, and says what has become of it.
func (d *opDriver) stepped(t *opTask, resp *pb.ChangeResponse) {
	now := d.env.now()
	t.failed, t.last = 0, nil
	t.stood += resp.StoodUs
	pause := time.Duration(0)
	if resp.Outcome != uint32(shard.ChangeWaits) {
		t.waits = time.Time{}
		still := resp.Range.Generation <= t.stepped
		if still && t.stalled { // a leader that has handed over says so once
			pause = opWaitPause
		}
		t.stalled = still
	} else {
		pause, t.last = opWaitPause, errors.New(resp.Waiting)
		if t.waits.IsZero() {
			t.waits = now
		}
		if now.Sub(t.waits) >= opWaitAtMost && t.refused == nil {
			t.refused = fmt.Errorf("%w: %s, for %v by now", shard.ErrTimeout, resp.Waiting, now.Sub(t.waits).Round(time.Second))
			pause = 0
		}
	}
	if gen := resp.Range.Generation; gen > t.stepped && t.op.Range != shard.MetaID { // whose log has the step
		t.due = time.Time{}
		d.env.propose(&pb.MetaEntry{StepOp: &pb.MetaStepOp{Id: uint64(t.op.ID), Range: resp.Range}}, func(res state.Result) {
			switch {
			case d.open[t.op.ID] != t:
			case res.Err != nil:
				d.failed(t, res.Err)
			default:
				t.stepped = gen
				d.again(t, pause)
			}
		})
		return
	}
	d.again(t, pause)
}

// again asks a range once more, after a pause.
func (d *opDriver) again(t *opTask, pause time.Duration) {
	if pause == 0 {
		d.attempt(t)
		return
	}
	t.due = d.env.now().Add(pause)
}

// giveUp has an op made impossible, for want of a reason. What has come too far for that is carried out all the same.
func (d *opDriver) giveUp(id shard.OpID, why error) {
	t := d.open[id]
	if t == nil || t.refused != nil {
		return
	}
	t.refused = why
	if !t.due.IsZero() { // else the next attempt says so
		t.due = d.env.now()
	}
}

// failure is why an op was given up. Who has not seen the refusal itself, an earlier leader's, has no reason to tell.
func failure(refused error) string {
	if refused == nil {
		return "the range has made it impossible"
	}
	text := refused.Error()
	return text[:min(len(text), failureMax)]
}

// failed lets an op wait for another attempt.
func (d *opDriver) failed(t *opTask, err error) {
	t.last = err
	t.due = d.env.now().Add(min(retryPauseMin<<min(t.failed, 10), opPauseMax))
	if t.failed++; t.failed == 5 { // said once: it goes on trying
		d.env.log(true, "an op does not get on yet", "op", t.op.ID, "range", t.op.Range, "attempts", t.failed, "error", err)
	}
}

// logged tells that an op is over.
func (d *opDriver) logged(op shard.Op) {
	delete(d.open, op.ID)
	outcome := op.Outcome()
	d.ended[opCount{op.Kind, outcome}]++
	took := time.Duration(op.Ended-op.Began) * time.Millisecond
	if outcome == shard.OpDone {
		t := d.stood[op.Kind]
		d.stood[op.Kind] = opTimes{t.stood + op.Stood, t.took + took}
		d.env.log(false, "a range was changed", append(about(op), "stood", op.Stood, "took", took)...)
		return
	}
	d.env.log(true, "a change of a range was given up", append(about(op), "stood", op.Stood, "took", took, "error", op.Failure)...)
}

// tick tries again what is due.
func (d *opDriver) tick(now time.Time) {
	for _, id := range slices.Sorted(maps.Keys(d.open)) { // in an order that a simulation can repeat
		t := d.open[id]
		if t != nil && !t.due.IsZero() && !t.due.After(now) {
			d.attempt(t)
		}
	}
}

// waiting says why an op has not got on lately.
func (d *opDriver) waiting(id shard.OpID) string {
	switch t := d.open[id]; {
	case t == nil:
		return ""
	case t.last != nil && t.refused != nil:
		return fmt.Sprintf("it is being given up (%v): %v", t.refused, t.last)
	case t.last != nil:
		return t.last.Error()
	case t.refused != nil:
		return fmt.Sprintf("it is being given up: %v", t.refused)
	}
	return ""
}

// stepDown forgets the tasks. The next leader has them in its state. Attempts end with the leadership.
func (d *opDriver) stepDown() {
	clear(d.open)
	if d.ctx != nil {
		d.cancel()
		d.ctx = nil
	}
}

// OpStats are the ops that this process has driven as the meta group's leader.
type OpStats struct {
	UnderWay int // now; 0 on followers
	// Done and GivenUp count those that ended since it began.
	Done, GivenUp uint64
	// Stood is how long requests of the ranges have waited for those that were done, together, and Took how long these took from when they were decided.
	Stood, Took time.Duration
}

// OpStats returns those of one kind. On a nil Meta there are none.
func (m *Meta) OpStats(kind shard.OpKind) (st OpStats) {
	if m == nil {
		return st
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.ops.open {
		if t.op.Kind == kind {
			st.UnderWay++
		}
	}
	st.Stood, st.Took = m.ops.stood[kind].stood, m.ops.stood[kind].took
	st.Done, st.GivenUp = m.ops.ended[opCount{kind, shard.OpDone}], m.ops.ended[opCount{kind, shard.OpGivenUp}]
	return st
}
