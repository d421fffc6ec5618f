package lead

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

func testLimits() Limits {
	return Limits{
		TableCount: 16384, TableBytes: 64 << 20, Attaching: 16384, Fences: 65536, FenceBytes: 64 << 20, EarlyWaiting: 16384,
		BatchCount: 1024, BatchBytes: 1 << 20, Allocs: 1, Proposals: 2, Retries: 64,
		Coordinations: 1024, CoordinationBytes: 64 << 20, Resolutions: 4096, ResolutionBytes: 64 << 20, LockTimeout: time.Second, Election: time.Second,
		Clock: func() time.Time { return time.Unix(1, 0) },
	}
}

// env drives a leader core, its machine and a store by hand: what the core asks for waits in lists
// until the test answers.
type env struct {
	st        *replicatest.MemStore
	m         *apply.Machine
	l         *Leader
	pastTerms []*Leader
	term      uint64
	index     uint64
	epoch     shard.Epoch
	rev       int64 // the oracle's current revision

	allocs     []Action
	batchTicks []*Leader // that wait for one
	currents   []Action
	confirms   []Action
	attaches   []Action
	evals      []Action
	preds      []*Prediction
	// holdPreds: predictions wait until the test carries them out.
	holdPreds bool
	others    []Action      // of transactions over ranges: a world answers them
	log       []loggedEntry // proposed, not applied
	out       strings.Builder
	names     map[*Item]string
	events    []string
	feed      worldFeed // of a range in a world
}

type loggedEntry struct {
	term uint64
	data []byte
	id   uint64
}

func newEnv(lim Limits) *env { return newEnvOf(lim, replicatest.TestDesc) }

func newEnvOf(lim Limits, desc shard.Descriptor) *env {
	st := replicatest.NewMemStore()
	st.Pos.Index, st.Pos.Term = 10, 5
	e := newEnvOn(lim, desc, st)
	e.m.Epoch = 1
	return e
}

// newEnvOn is newEnvOf a store.
func newEnvOn(lim Limits, desc shard.Descriptor, st *replicatest.MemStore) *env {
	e := &env{st: st, index: st.Pos.Index, epoch: 1, rev: 1, names: map[*Item]string{}}
	m, err := apply.LoadMachine(1, desc, e.st)
	if err != nil {
		panic(err)
	}
	e.m = m
	e.lead(lim)
	return e
}

// lead begins a new term.
func (e *env) lead(lim Limits) {
	e.depose()
	e.term = max(e.term+1, 6)
	e.l = NewLeader(lim, e.m, e.st, e.term)
}

func (e *env) depose() {
	if e.l != nil {
		e.l.Depose()
		e.collect(e.l)
		e.pastTerms = append(e.pastTerms, e.l)
		e.l = nil
	}
}

func (e *env) printf(f string, args ...any) { fmt.Fprintf(&e.out, f+"\n", args...) }

// collect takes the actions of a core.
func (e *env) collect(l *Leader) {
	for _, a := range l.TakeActions(nil) {
		switch a.Kind {
		case ActAllocate:
			e.allocs = append(e.allocs, a)
			e.printf("allocate #%d n=%d", len(e.allocs), a.Ask.Count)
		case ActBatchTick:
			e.batchTicks = append(e.batchTicks, l)
			e.printf("batch tick")
		case ActBatchLatency:
			e.printf("took %v", time.Duration(a.N))
		case ActCurrent:
			e.currents = append(e.currents, a)
			e.printf("current? #%d", len(e.currents))
		case ActConfirm:
			e.confirms = append(e.confirms, a)
			e.printf("confirm? #%d", len(e.confirms))
		case ActAttach:
			e.attaches = append(e.attaches, a)
			e.printf("attach? lease %d span %v", a.Lease, a.Span)
		case ActEvaluate:
			e.evals = append(e.evals, a)
			e.printf("evaluate %s at %d", e.names[a.Item], a.Item.At)
		case ActPropose:
			e.log = append(e.log, loggedEntry{term: l.Term, data: apply.Marshal(a.Entry), id: a.Id})
			e.printf("propose %s", entryString(a.Entry))
		case ActPredict:
			e.preds = append(e.preds, a.Prediction)
		case ActReply:
			a.Item.Reply(a.Resp, a.Err)
		case ActCall:
			a.Fn()
		default:
			e.others = append(e.others, a)
		}
	}
	for len(e.preds) > 0 && !e.holdPreds {
		e.predict(0)
	}
}

// someAsync lets three of four runs have keys that are not in memory, so that requests are predicted
// asynchronously, at some later time.
func (e *env) someAsync(rng *rand.Rand) {
	if one := rng.IntN(4); one > 0 {
		e.holdPreds = true
		e.st.Cold = func([]byte) bool { return rng.IntN(one) == 0 }
	}
}

// predict carries out prediction i, and tells the core that asked for it.
func (e *env) predict(i int) {
	p := e.preds[i]
	e.preds = slices.Delete(e.preds, i, i+1)
	p.Run(e.st)
	for _, l := range append(slices.Clone(e.pastTerms), e.l) {
		if l != nil {
			l.Evaluations.Predicted(p)
			e.collect(l)
		}
	}
}

func entryString(e *pb.Entry) string {
	head := fmt.Sprintf("term %d", e.Term)
	if e.Epoch != 0 {
		head += fmt.Sprintf(" epoch %d", e.Epoch)
	}
	switch {
	case e.Batch != nil:
		var ops []string
		for _, o := range e.Batch.Requests {
			ops = append(ops, opString(o))
		}
		return fmt.Sprintf("%s batch first %d closed %d: %s", head, e.Batch.FirstRevision, e.Closed, strings.Join(ops, "; "))
	case e.EpochRaise != nil:
		return head + " raise"
	case e.LeaseHalf != nil:
		h := e.LeaseHalf
		return fmt.Sprintf("%s attachment lease %d grant %d attached %v remove %v", head, h.Lease, h.GrantIndex, h.Attached, h.Remove)
	case e.CompactTo != nil:
		return fmt.Sprintf("%s compact %d", head, e.CompactTo.Revision)
	}
	return head + " ?"
}

func opString(o *pb.Op) string {
	switch {
	case o.GetPut() != nil:
		s := fmt.Sprintf("put %s=%s", o.Put.Key, o.Put.Value)
		if o.Put.Lease != 0 {
			s += fmt.Sprintf(" lease %d", o.Put.Lease)
		}
		return s
	case o.GetDelete() != nil:
		return fmt.Sprintf("del %s %s", o.Delete.Key, o.Delete.RangeEnd)
	case o.GetExpireLease() != 0:
		return fmt.Sprintf("expire %d", o.ExpireLease)
	case o.GetTxn() != nil:
		return "txn"
	}
	return "nothing"
}

// write enters a request; its answer is printed under its name.
func (e *env) write(name string, op *pb.Op, deadline time.Time) *Item {
	it := newItem(op, func(resp *pb.WriteResponse, err error) { e.answered(name, resp, err) })
	it.Deadline = deadline
	e.names[it] = name
	if e.l == nil {
		it.Reply(nil, &shard.NotLeaderError{})
		return it
	}
	e.l.Request(it)
	e.collect(e.l)
	return it
}

func newItem(op *pb.Op, reply func(*pb.WriteResponse, error)) *Item {
	it := &Item{Op: op, Reply: reply}
	it.Fp.Acc = it.AccBuf[:0]
	it.Fp.Collect(op)
	it.Size = op.SizeVT()
	return it
}

func (e *env) answered(name string, resp *pb.WriteResponse, err error) {
	if err != nil {
		e.printf("%s: error: %s", name, replicatest.ErrName(err))
		return
	}
	e.printf("%s: rev %d wrote %v %s", name, resp.Revision, resp.Wrote, replicatest.ResultString(resp.Result))
}

// applyOne applies the oldest proposed entry.
func (e *env) applyOne(term uint64) error {
	le := e.log[0]
	e.log = e.log[1:]
	if term == 0 {
		term = le.term
	}
	return e.applyEntry(apply.Entry{Term: term, Data: le.data})
}

func (e *env) applyEntry(ent apply.Entry) error {
	e.index++
	ent.Index = e.index
	d, err := e.m.Decide(ent)
	if err != nil {
		return err
	}
	evs, err := e.st.Apply(d.Change)
	if err != nil {
		return err
	}
	for _, ev := range evs {
		e.events = append(e.events, fmt.Sprintf("%s@%d", ev.KV.Key, ev.KV.ModRevision))
	}
	e.m.Commit(d)
	if d.Refused != nil {
		e.printf("refused: %v", d.Refused)
	}
	for _, l := range e.pastTerms {
		l.Applied(d)
		if ent.Term > l.Term {
			l.Proposals.FailOpenProposals(false)
		}
		e.collect(l)
	}
	if e.l != nil {
		e.l.Applied(d)
		e.collect(e.l)
	}
	return nil
}

// own applies the leader's first entry.
func (e *env) own() {
	if err := e.applyEntry(apply.Entry{Term: e.term}); err != nil {
		panic(err)
	}
	e.l.OwnTermApplied()
	e.collect(e.l)
}

// alloc answers allocation i from the oracle.
func (e *env) alloc(i int) {
	a := e.allocs[i]
	e.allocs = append(e.allocs[:i:i], e.allocs[i+1:]...)
	first := e.rev + 1
	e.rev += a.Ask.Count
	e.l.Batches.Allocated(a.Id, first, e.epoch, nil)
	e.collect(e.l)
}

// batchTick lets the core that has waited longest have its batch tick.
func (e *env) batchTick() {
	l := e.batchTicks[0]
	e.batchTicks = e.batchTicks[1:]
	l.Batches.BatchTick()
	e.collect(l)
}

func (e *env) runEval(i int) {
	a := e.evals[i]
	e.evals = append(e.evals[:i:i], e.evals[i+1:]...)
	res, would, again, err := eval.EvaluateAt(e.st, a.Item.Op, a.Item.At)
	e.l.Evaluations.Evaluated(a.Item, res, would, again, err)
	e.collect(e.l)
}

func (e *env) answerCurrent(i int, rev int64) {
	a := e.currents[i]
	e.currents = append(e.currents[:i:i], e.currents[i+1:]...)
	e.l.Evaluations.Current(a.Id, rev, e.epoch, nil)
	e.collect(e.l)
}

func (e *env) confirm(i int, ok bool) {
	a := e.confirms[i]
	e.confirms = append(e.confirms[:i:i], e.confirms[i+1:]...)
	e.l.Fences.Confirmed(a.Id, ok, e.index)
	e.collect(e.l)
}

// settle answers everything that is open, in order, until nothing is.
func (e *env) settle(t testing.TB) {
	t.Helper()
	for range 100000 {
		switch {
		case len(e.preds) > 0:
			e.predict(0)
		case len(e.allocs) > 0:
			e.alloc(0)
		case len(e.batchTicks) > 0:
			e.batchTick()
		case len(e.log) > 0:
			if err := e.applyOne(0); err != nil {
				t.Fatal(err)
			}
		case len(e.currents) > 0:
			e.answerCurrent(0, e.rev)
		case len(e.confirms) > 0:
			e.confirm(0, true)
		case len(e.evals) > 0:
			e.runEval(0)
		default:
			return
		}
	}
	t.Fatal("does not come to rest")
}

// applyEntry2 is applyEntry of an entry that may be anything. What the store refuses stops a
// replica, it does not break it.
func (e *env) applyEntry2(data []byte) error {
	if data == nil {
		data = []byte{}
	}
	err := e.applyEntry(rawEntry(data))
	if err != nil {
		e.index--
	}
	return err
}

func rawEntry(data []byte) apply.Entry { return apply.Entry{Term: 6, Data: data} }
