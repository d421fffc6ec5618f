package lead

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica/eval"
)

// outcome of a prediction.
type outcome uint8

const (
	writesNothing outcome = iota // also: it fails
	writesSomething
	dependsOnUnknown
)

// predictor predicts a request. As a view it is the applied state, at the last revision that the core knows of,
// overlaid with the effects of every evaluated request in the table. As a sink it collects effects without results.
type predictor struct {
	base         eval.Reader
	at           int64
	maxAllocated int64 // later allocations lie above it
	tab          *table
	effects      []effect // of the transaction under prediction, so far
	// missing are leases that its puts may name and that meta does not know.
	missing []int64
	buf     []*Item
	ev      eval.Evaluator
}

var (
	_ eval.View = (*predictor)(nil)
	_ eval.Sink = (*predictor)(nil)
)

func (v *predictor) Past(rev int64) eval.View { return &eval.Overlay{Base: v.base, At: rev} }

func (v *predictor) Get(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.base.Get(key, v.at)
	if eval.IsCompacted(err) {
		kv, ok, err = v.base.Get(key, math.MaxInt64)
	}
	return v.overTable(key, kv, ok, err)
}

func (v *predictor) Head(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.baseHead(key)
	return v.overTable(key, kv, ok, err)
}

func (v *predictor) baseHead(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.base.Head(key, v.at)
	if eval.IsCompacted(err) {
		return v.base.Head(key, math.MaxInt64)
	}
	return kv, ok, err
}

// overTable applies the effects in the table to what was read from the base.
func (v *predictor) overTable(key []byte, kv shard.KeyValue, ok bool, err error) (shard.KeyValue, bool, error) {
	if err != nil {
		return kv, ok, err
	}
	v.buf = v.tab.onKey(key, v.buf)
	for _, it := range v.buf {
		if !it.writes() {
			continue
		}
		rev := v.revisionOf(it)
		if p := it.Op.GetPut(); p != nil && len(it.effects) == 0 {
			kv, ok = applyPut(kv, ok, p.Key, p.Value, p.Lease, rev), true
			continue
		}
		kv, ok = applyEffects(kv, ok, key, it.effects, rev)
	}
	kv, ok = applyEffects(kv, ok, key, v.effects, eval.UnknownRevision+v.maxAllocated)
	return kv, ok, nil
}

// revisionOf is what a later request knows of its revision.
func (v *predictor) revisionOf(it *Item) int64 {
	switch {
	case it.rev != 0:
		return it.rev
	case it.phase == phaseAllocating:
		return eval.UnknownRevision + it.above
	default:
		return eval.UnknownRevision + v.maxAllocated
	}
}

func applyPut(kv shard.KeyValue, ok bool, key, value []byte, lease, rev int64) shard.KeyValue {
	next := shard.KeyValue{Key: key, Value: value, Lease: lease, ModRevision: rev, CreateRevision: rev, Version: 1}
	if ok {
		next.CreateRevision = kv.CreateRevision
		next.Version = kv.Version + 1
	}
	return next
}

// applyEffects applies the effects on one key.
func applyEffects(kv shard.KeyValue, ok bool, key []byte, effects []effect, rev int64) (shard.KeyValue, bool) {
	for i := range effects {
		e := &effects[i]
		switch {
		case e.key == nil:
			if e.span.Contains(key) {
				kv, ok = shard.KeyValue{}, false
			}
		case !bytes.Equal(e.key, key):
		case e.delete:
			kv, ok = shard.KeyValue{}, false
		default:
			kv, ok = applyPut(kv, ok, e.key, e.value, e.lease, rev), true
		}
	}
	return kv, ok
}

// touched returns the keys in span that have predicted effects, in key order, and the deleted spans.
func (v *predictor) touched(span shard.Span) (keys [][]byte, spans []shard.Span) {
	take := func(effects []effect) {
		for i := range effects {
			switch e := &effects[i]; {
			case e.key == nil:
				spans = append(spans, e.span)
			case span.Contains(e.key):
				keys = append(keys, e.key)
			}
		}
	}
	for it := v.tab.first; it != nil; it = it.next {
		if !it.indexed || !it.writes() {
			continue
		}
		if p := it.Op.GetPut(); p != nil && len(it.effects) == 0 {
			if span.Contains(p.Key) {
				keys = append(keys, p.Key)
			}
			continue
		}
		take(it.effects)
	}
	take(v.effects)
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), spans
}

func (v *predictor) Scan(span shard.Span, keysOnly bool, fn func(*shard.KeyValue) bool) error {
	if span.Empty() {
		return nil
	}
	keys, spans := v.touched(span)
	hidden := func(key []byte) bool {
		for _, s := range spans {
			if s.Contains(key) {
				return true
			}
		}
		return false
	}
	o := mvcc.ScanOptions{Span: span, Rev: v.at, KeysOnly: keysOnly}
	started := false
	err := eval.MergeScan(v.base, o, keys, v.Get, hidden, func(kv *shard.KeyValue) bool { started = true; return fn(kv) })
	if eval.IsCompacted(err) && !started {
		o.Rev = math.MaxInt64
		return eval.MergeScan(v.base, o, keys, v.Get, hidden, fn)
	}
	return err
}

// predict returns whether op will write, and its effects, behind the requests ahead. A request that fails
// writes nothing.
func (v *predictor) predict(op *pb.Op, compacted int64) (outcome, []effect, error) {
	v.effects = nil
	v.ev = eval.Evaluator{View: v, Sink: v, Current: v.maxAllocated, Compacted: compacted}
	if p := op.GetPut(); p != nil && !p.IgnoreValue && !p.IgnoreLease {
		if _, err := v.ev.Check(op, nil); err != nil {
			return writesNothing, nil, predictionError(err)
		}
		return writesSomething, nil, nil // its effect is the operation itself
	}
	_, err := v.ev.Run(op)
	switch {
	case errors.Is(err, eval.ErrUndetermined):
		return dependsOnUnknown, nil, nil
	case err != nil || len(v.effects) == 0:
		return writesNothing, nil, predictionError(err)
	}
	return writesSomething, v.effects, nil
}

// predictionError returns the errors that end the request now. A request that fails because of the state, or by
// itself, is answered at a fenced revision instead.
func predictionError(err error) error {
	if errors.Is(err, shard.ErrKeyNotFound) || errors.Is(err, shard.ErrFutureRevision) || errors.Is(err, shard.ErrInvalid) || eval.IsCompacted(err) {
		return nil
	}
	return err
}

// Lease refuses a put with a lease that meta does not know.
func (v *predictor) Lease(lease int64, _ []byte, named bool) error {
	if named && slices.Contains(v.missing, lease) {
		return shard.ErrLeaseNotFound
	}
	return nil
}

func (v *predictor) Put(key, value []byte, lease int64) error {
	v.effects = append(v.effects, effect{key: key, value: value, lease: lease})
	return nil
}

func (v *predictor) Delete(key []byte) error {
	v.effects = append(v.effects, effect{key: key, delete: true})
	return nil
}

// DeleteSpan predicts the delete of a span. It only reads whether there is a key, and only while the request has
// no other effect.
func (v *predictor) DeleteSpan(span shard.Span, _ func(*shard.KeyValue)) (int64, error) {
	found := v.Wrote()
	if !found {
		err := v.Scan(span, true, func(*shard.KeyValue) bool { found = true; return false })
		if err != nil {
			return 0, err
		}
	}
	if found {
		v.effects = append(v.effects, effect{span: span, delete: true})
	}
	return 0, nil
}

// Expire is never called: evaluateExpiry finds the keys of expiries.
func (v *predictor) Expire(int64) (int64, error) {
	return 0, fmt.Errorf("%w: an expiry that is predicted key by key", shard.ErrUnimplemented)
}

func (v *predictor) Wrote() bool { return len(v.effects) > 0 }
