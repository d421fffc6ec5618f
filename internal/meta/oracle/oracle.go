package oracle

import (
	"math"

	"pontoon/internal/mutate"
)

// Steps by which the oracle raises its limit. The step is what a crash may cost in revisions
// that nobody gets, so it is small while little is asked for.
const (
	oracleStepMin int64 = 1_000
	oracleStepMax int64 = 100_000
)

// Oracle allocates revisions on the meta group's leader, up to the limit that has applied in the
// group's log. It is silent until a limit entry of its own leadership has applied, and again
// from Stop on until an entry proposed after it has applied.
//
// It does not know whether it still leads: its owner confirms that before every answer.
type Oracle struct {
	term  uint64 // 0: not leading
	last  int64  // the highest allocated, and the current revision
	limit int64  // applied; 0: silent
	step  int64

	seq     uint64 // of the newest proposal
	pending uint64 // the raise on its way; 0: none
	barrier uint64 // only a raise above it ends the silence
	stopped bool   // no raise is wanted

	lastTick int64 // last at the last Tick
}

// Proposal is a limit entry that should be proposed in the oracle's term. Seq names it in
// Applied and Dropped.
type Proposal struct {
	Seq   uint64
	Limit int64
	Exact bool
}

// Lead begins a leadership whose first entry has applied: limit is what the log holds now, and
// others may have allocated everything up to it. The oracle is silent at first.
func (o *Oracle) Lead(term uint64, limit int64) {
	if mutate.On(mutate.OracleReissue) {
		limit = max(0, limit-oracleStepMin)
	}
	*o = Oracle{term: term, last: limit, lastTick: limit, step: oracleStepMin, seq: o.seq, barrier: o.seq}
}

// Follow ends the leadership.
func (o *Oracle) Follow() { *o = Oracle{seq: o.seq, barrier: o.seq} }

// Term returns the term that the oracle leads, which is the epoch of its answers; 0 if none.
func (o *Oracle) Term() uint64 { return o.term }

// Serving reports whether the oracle may answer at all.
func (o *Oracle) Serving() bool { return o.limit > 0 }

// Current returns the current revision; false while silent.
func (o *Oracle) Current() (int64, bool) { return o.last, o.Serving() }

// Last returns the highest revision that this leadership or one before it has allocated, also while
// silent. What this leadership logs now stands behind that revision in the order of all changes, and before
// every revision that is allocated from now on.
func (o *Oracle) Last() int64 { return o.last }

// Allocate allocates n > 0 consecutive revisions and returns the first. False: it is silent, or the limit
// leaves no room, for which WantRaise(n) says what to propose.
func (o *Oracle) Allocate(n int64) (first int64, ok bool) {
	if !o.Serving() || n <= 0 || n > o.limit-o.last {
		return 0, false
	}
	first = o.last + 1
	o.last += n
	return first, true
}

// WantRaise returns the raise to propose now, given how many revisions wait for room. There is
// one at a time. It begins when half of the step is used up, well ahead of demand.
func (o *Oracle) WantRaise(waiting int64) (Proposal, bool) {
	if o.term == 0 || o.stopped || o.pending != 0 {
		return Proposal{}, false
	}
	if o.Serving() {
		if room := o.limit - o.last; room >= waiting && room > o.step/2 {
			return Proposal{}, false
		}
		o.step = min(o.step*2, oracleStepMax) // so much was used since the last raise
	}
	o.seq++
	o.pending = o.seq
	return Proposal{Seq: o.seq, Limit: o.above(waiting)}, true
}

// above is the limit that leaves room for what waits and a step more.
func (o *Oracle) above(waiting int64) int64 {
	room := max(waiting, 0) + o.step
	if o.last > math.MaxInt64-room {
		return math.MaxInt64
	}
	return max(o.last+room, o.limit)
}

// Applied tells that a proposal of this leadership has applied. One from before a Stop changes
// nothing here: the exact value stands behind it in the log.
func (o *Oracle) Applied(p Proposal) {
	if p.Seq == o.pending {
		o.pending = 0
	}
	if o.term == 0 || p.Exact || p.Seq <= o.barrier {
		return
	}
	o.limit = max(o.limit, p.Limit)
}

// Dropped tells that a proposal was certainly not logged: WantRaise may propose another.
func (o *Oracle) Dropped(p Proposal) {
	if p.Seq == o.pending {
		o.pending = 0
		o.step = max(o.step/2, oracleStepMin) // it had grown for this one
	}
}

// Tick follows the load; call it about once a second. Without demand the step falls back.
func (o *Oracle) Tick() {
	used := o.last - o.lastTick
	o.lastTick = o.last
	o.step = min(max(used, o.step/2, oracleStepMin), oracleStepMax)
}

// Stop silences the oracle and returns the exact value, to be proposed before a clean stop or a
// leader transfer so that neither leaves a gap. False if it does not lead, or has stopped before.
func (o *Oracle) Stop() (Proposal, bool) {
	if o.term == 0 || o.stopped {
		return Proposal{}, false
	}
	o.seq++
	o.stopped, o.limit, o.barrier, o.pending = true, 0, o.seq, 0
	return Proposal{Seq: o.seq, Limit: o.last, Exact: true}, true
}

// Resume ends a Stop that came to nothing, such as a transfer that failed: WantRaise proposes a
// new limit, and the oracle answers once that has applied. The caller proposes it after the
// exact value, in the same log.
func (o *Oracle) Resume() { o.stopped = false }
