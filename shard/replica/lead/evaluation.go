package lead

import (
	"cmp"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard/replica/eval"
)

// A request is evaluated before it gets a revision, in the order of the table. A plain put needs no read. Few
// keys whose newest versions are in memory are read at once, under the driver's mutex and on the goroutine that
// receives for a whole peer: 0.1 to 0.4 µs a key. Everything that may take long or wait for a disk is a
// Prediction: compares and deletes of spans, many keys, keys that are only in the file, and the keys of a lease
// that ends. The request keeps its place meanwhile. Only requests behind it that overlap it wait.

// Base is the store as a leader core reads it.
type Base interface {
	eval.Reader
	// InMemory reports whether the key at rev can be read without the file. False negatives are allowed.
	InMemory(key []byte, rev int64) bool
}

// evaluations decides of each request in the table whether it will write, is answered at a fenced revision, or
// waits. Its events are Predicted, Current, Evaluated, released locks, and changes of the requests ahead.
type evaluations struct {
	l            *Leader
	earlyItems   []*Item // before the own term
	earlyBytes   int
	predictor    predictor
	lockWaiters  []*Item
	openCurrent  *sharedCall
	currentCalls map[uint64]*sharedCall
}

func newEvaluations(l *Leader) evaluations {
	es := evaluations{l: l, currentCalls: make(map[uint64]*sharedCall)}
	es.predictor = predictor{base: l.base, tab: l.tab, at: max(l.m.Last, l.base.CompactRevision())}
	return es
}

// inlineKeysMax bounds the keys that are read under the mutex for one request.
const inlineKeysMax = 16

// predictsInline reports whether op can be predicted under the mutex.
func (es *evaluations) predictsInline(op *pb.Op) bool {
	left := inlineKeysMax
	return es.inlineOp(op, &left)
}

func (es *evaluations) inlineOp(op *pb.Op, left *int) bool {
	switch {
	case op.GetPut() != nil:
		return !op.Put.IgnoreValue && !op.Put.IgnoreLease || es.inlineKey(op.Put.Key, nil, left)
	case op.GetDelete() != nil:
		return es.inlineKey(op.Delete.Key, op.Delete.RangeEnd, left)
	case op.GetTxn() != nil:
		for _, c := range op.Txn.Compare {
			if !es.inlineKey(c.Key, c.RangeEnd, left) {
				return false
			}
		}
		for _, ops := range [2][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
			for _, o := range ops {
				if !es.inlineOp(o, left) {
					return false
				}
			}
		}
	}
	return true
}

func (es *evaluations) inlineKey(key, end []byte, left *int) bool {
	*left--
	return *left >= 0 && len(end) == 0 && es.l.base.InMemory(key, es.predictor.at)
}

// Prediction is the evaluation of one request outside the core. It uses a copy of the writers ahead, and the
// store at the revision to which that belongs.
type Prediction struct {
	it        *Item
	op        *pb.Op
	predictor predictor
	compacted int64

	// Of an expiry: its lease, and its keys. Run finds the keys if they are nil, else those that still carry
	// the lease.
	lease int64
	keys  [][]byte

	out     outcome
	effects []effect
	err     error
	stale   bool // the store has been compacted beyond the predictor's revision meanwhile
}

// asyncEvaluation is the state of a request that is predicted asynchronously.
type asyncEvaluation struct {
	predicting *Prediction // in flight
	predicted  *Prediction // has run, and is not used yet
	keys       [][]byte    // of an expiry, in order; nil: not known yet
}

// takePredicted takes the prediction that has run. It is nil if there is none.
func (it *Item) takePredicted() *Prediction {
	if it.async == nil {
		return nil
	}
	p := it.async.predicted
	it.async.predicted = nil
	return p
}

// dropPrediction drops the predictions of a request that restarts or has ended.
func (it *Item) dropPrediction() {
	if it.async != nil {
		it.async.predicting, it.async.predicted = nil, nil
	}
}

// emptyTable is the table of predictions without writers ahead. It is only read.
var emptyTable = &table{}

// predictAsync starts a prediction. The request is evaluated again with its outcome.
func (es *evaluations) predictAsync(it *Item) {
	if it.async == nil {
		it.async = &asyncEvaluation{}
	}
	p := &Prediction{it: it, op: it.Op, lease: it.Op.GetExpireLease(), keys: it.async.keys,
		compacted: max(es.l.Proposals.maxCompaction, es.l.base.CompactRevision())}
	p.predictor = predictor{at: es.predictor.at, maxAllocated: es.l.maxAllocated, missing: slices.Clone(it.Missing), tab: emptyTable}
	if p.lease == 0 { // the writers ahead of an expiry have applied
		p.predictor.tab = es.copyConflicting(it)
	}
	it.async.predicting = p
	es.l.Emit(Action{Kind: ActPredict, Prediction: p})
}

// copyConflicting copies the overlapping writers ahead, in their order and with their present state.
func (es *evaluations) copyConflicting(it *Item) *table {
	var ahead []*Item
	es.l.tab.conflicts(it, func(x *Item) {
		if x.writes() && x.seq < it.seq {
			ahead = append(ahead, x)
		}
	})
	if len(ahead) == 0 {
		return emptyTable
	}
	to := newTable()
	slices.SortFunc(ahead, func(a, b *Item) int { return cmp.Compare(a.seq, b.seq) })
	ahead = slices.Compact(ahead)
	es.predictor.maxAllocated = es.l.maxAllocated
	for _, x := range ahead {
		c := &Item{Op: x.Op, phase: phaseProposed, rev: es.predictor.revisionOf(x), effects: x.effects}
		c.Fp.Acc = x.Fp.Acc
		to.enter(c)
	}
	return to
}

// Run predicts. It reads base and nothing that the core changes, so it needs no mutex.
func (p *Prediction) Run(base eval.Reader) {
	p.predictor.base = base
	switch {
	case p.lease == 0:
		p.out, p.effects, p.err = p.predictor.predict(p.op, p.compacted)
	case p.keys == nil:
		p.keys, p.err = base.LeaseKeys(p.lease, 0)
	default:
		p.err = p.findLeased()
	}
	p.stale = p.lease == 0 && base.CompactRevision() > p.predictor.at
}

// findLeased finds the keys that still carry the lease.
func (p *Prediction) findLeased() error {
	for _, key := range p.keys {
		kv, ok, err := p.predictor.baseHead(key)
		if err != nil {
			return err
		}
		if ok && kv.Lease == p.lease {
			p.effects = append(p.effects, effect{key: key, delete: true})
		}
	}
	return nil
}

// Fail replaces Run where there is no store to read any more.
func (p *Prediction) Fail(err error) { p.err = err }

// Predicted takes a prediction that has run.
func (es *evaluations) Predicted(p *Prediction) {
	it := p.it
	if es.l.deposed || it.async == nil || it.async.predicting != p {
		return
	}
	it.async.predicting = nil
	if !p.stale {
		it.async.predicted = p
	}
	es.l.runq = append(es.l.runq, it)
	es.l.Run()
}
