package lead

import (
	"cmp"
	"slices"

	"pontoon/internal/pb"
	"pontoon/shard/replica/eval"
)

// A request is evaluated before it gets a revision, in the order of the table. Most of that is nothing (a
// put changes what it changes), or a look at few keys whose newest versions are in memory: 0.1 to 0.4 µs a
// key, under the driver's mutex and on the goroutine that brought the request, which receives for a whole
// peer. Everything else, which may go on for long or wait for a disk, is a Prediction: compares and deletes
// of spans, many keys, keys whose versions are in the file alone, and the keys of a lease that ends. The
// request keeps its place meanwhile: those behind it that overlap it wait until it is evaluated, as they
// wait for any that is not; nobody else does.

// Base is the store as a leader core reads it.
type Base interface {
	eval.Reader
	// InMemory reports whether what the key was at rev can be read without the file. It may say no too
	// often.
	InMemory(key []byte, rev int64) bool
}

// evaluations decides what becomes of each request in the table: it will write, or it is answered at a
// fenced revision, or it waits. Its events are that those ahead have been evaluated or have left, that a
// lock has gone, Predicted, Current and Evaluated.
type evaluations struct {
	l           *Leader
	earlyItems  []*Item // before the own term
	earlyBytes  int
	view        tableView
	lockWait    []*Item
	openCurrent *round
	currents    map[uint64]*round
}

func newEvaluations(l *Leader) evaluations {
	es := evaluations{l: l, currents: make(map[uint64]*round)}
	es.view = tableView{base: l.base, tab: l.tab, at: max(l.m.Last, l.base.CompactRevision())}
	return es
}

// pointsMax bounds the keys that are looked up under the mutex for one request.
const pointsMax = 16

// light reports whether op can be predicted at once.
func (es *evaluations) light(op *pb.Op) bool {
	left := pointsMax
	return es.lightOp(op, &left)
}

func (es *evaluations) lightOp(op *pb.Op, left *int) bool {
	switch {
	case op.GetPut() != nil:
		return !op.Put.IgnoreValue && !op.Put.IgnoreLease || es.lightKey(op.Put.Key, nil, left)
	case op.GetDelete() != nil:
		return es.lightKey(op.Delete.Key, op.Delete.RangeEnd, left)
	case op.GetTxn() != nil:
		for _, c := range op.Txn.Compare {
			if !es.lightKey(c.Key, c.RangeEnd, left) {
				return false
			}
		}
		for _, ops := range [2][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
			for _, o := range ops {
				if !es.lightOp(o, left) {
					return false
				}
			}
		}
	}
	return true
}

func (es *evaluations) lightKey(key, end []byte, left *int) bool {
	*left--
	return *left >= 0 && len(end) == 0 && es.l.base.InMemory(key, es.view.at)
}

// Prediction is the evaluation of one request apart from the core: on a copy of what the table held in front
// of it, and the store at the revision to which that belongs.
type Prediction struct {
	it        *Item
	op        *pb.Op
	view      tableView
	compacted int64

	// Of an expiry: its lease, and its keys once those are known. Without them Run finds them, with them
	// Run finds those that still carry the lease.
	lease int64
	keys  [][]byte

	out     outcome
	effects []effect
	err     error
	stale   bool // the store has been compacted beyond the view meanwhile
}

// apartState is what a request has that is evaluated apart.
type apartState struct {
	predicting *Prediction // under way
	foreseen   *Prediction // carried out, and not used yet
	keys       [][]byte    // an expiry: those that it takes, in order; nil: not known yet
}

// foresight takes the outcome of a prediction that has been carried out; nil: there is none.
func (it *Item) foresight() *Prediction {
	if it.apart == nil {
		return nil
	}
	p := it.apart.foreseen
	it.apart.foreseen = nil
	return p
}

// forgetPrediction drops what is being predicted of a request that begins again, or has ended.
func (it *Item) forgetPrediction() {
	if it.apart != nil {
		it.apart.predicting, it.apart.foreseen = nil, nil
	}
}

// nothingAhead is the table of predictions that have nothing in front of them. It is only read.
var nothingAhead = &table{}

// predictApart asks for a prediction. The request is evaluated again with its outcome.
func (es *evaluations) predictApart(it *Item) {
	if it.apart == nil {
		it.apart = &apartState{}
	}
	p := &Prediction{it: it, op: it.Op, lease: it.Op.GetExpireLease(), keys: it.apart.keys,
		compacted: max(es.l.Proposals.compact, es.l.base.CompactRevision())}
	p.view = tableView{at: es.view.at, known: es.l.known, missing: slices.Clone(it.Missing), tab: nothingAhead}
	if p.lease == 0 { // those in front of an expiry have applied
		p.view.tab = es.copyAhead(it)
	}
	it.apart.predicting = p
	es.l.Emit(Action{Kind: ActPredict, Prediction: p})
}

// copyAhead copies the writers in front of it that overlap it, in their order, as they stand now.
func (es *evaluations) copyAhead(it *Item) *table {
	var ahead []*Item
	es.l.tab.conflicts(it, func(x *Item) {
		if x.writes() && x.seq < it.seq {
			ahead = append(ahead, x)
		}
	})
	if len(ahead) == 0 {
		return nothingAhead
	}
	to := newTable()
	slices.SortFunc(ahead, func(a, b *Item) int { return cmp.Compare(a.seq, b.seq) })
	ahead = slices.Compact(ahead)
	es.view.known = es.l.known
	for _, x := range ahead {
		c := &Item{Op: x.Op, phase: phaseProposed, rev: es.view.revisionOf(x), effects: x.effects}
		c.Fp.Acc = x.Fp.Acc
		to.enter(c)
	}
	return to
}

// Run carries out the prediction. It reads base and nothing that the core changes, so it needs no mutex.
func (p *Prediction) Run(base eval.Reader) {
	p.view.base = base
	switch {
	case p.lease == 0:
		p.out, p.effects, p.err = p.view.predict(p.op, p.compacted)
	case p.keys == nil:
		p.keys, p.err = base.LeaseKeys(p.lease, 0)
	default:
		p.err = p.findLeased()
	}
	p.stale = p.lease == 0 && base.CompactRevision() > p.view.at
}

// findLeased finds the keys that still carry the lease.
func (p *Prediction) findLeased() error {
	for _, key := range p.keys {
		kv, ok, err := p.view.baseHead(key)
		if err != nil {
			return err
		}
		if ok && kv.Lease == p.lease {
			p.effects = append(p.effects, effect{key: key, delete: true})
		}
	}
	return nil
}

// Fail is instead of Run, where there is no store to read any more.
func (p *Prediction) Fail(err error) { p.err = err }

// Predicted is told that a prediction has been carried out.
func (es *evaluations) Predicted(p *Prediction) {
	it := p.it
	if es.l.dead || it.apart == nil || it.apart.predicting != p {
		return
	}
	it.apart.predicting = nil
	if !p.stale {
		it.apart.foreseen = p
	}
	es.l.runq = append(es.l.runq, it)
	es.l.Run()
}
