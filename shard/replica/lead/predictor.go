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

// tableView is the applied state, as of the revision that the core has been told of, overlaid with
// the predicted effects of every evaluated request in the table.
type tableView struct {
	base  eval.Reader
	at    int64
	known int64 // a revision that is allocated from now on is above it
	tab   *table
	own   []effect // of the transaction under prediction, so far
	// missing are leases that its puts may name and that meta does not know.
	missing []int64
	buf     []*Item
	ev      eval.Evaluator
}

var (
	_ eval.View = (*tableView)(nil)
	_ eval.Sink = (*tableView)(nil)
)

func (v *tableView) Past(rev int64) eval.View { return &eval.Scratch{Base: v.base, At: rev} }

func (v *tableView) Get(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.base.Get(key, v.at)
	if eval.IsCompacted(err) {
		kv, ok, err = v.base.Get(key, math.MaxInt64)
	}
	return v.overlay(key, kv, ok, err)
}

func (v *tableView) Head(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.baseHead(key)
	return v.overlay(key, kv, ok, err)
}

func (v *tableView) baseHead(key []byte) (shard.KeyValue, bool, error) {
	kv, ok, err := v.base.Head(key, v.at)
	if eval.IsCompacted(err) {
		return v.base.Head(key, math.MaxInt64)
	}
	return kv, ok, err
}

// overlay carries what is in the table over what was read from the base.
func (v *tableView) overlay(key []byte, kv shard.KeyValue, ok bool, err error) (shard.KeyValue, bool, error) {
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
			kv, ok = putOver(kv, ok, p.Key, p.Value, p.Lease, rev), true
			continue
		}
		kv, ok = fold(kv, ok, key, it.effects, rev)
	}
	kv, ok = fold(kv, ok, key, v.own, eval.UnknownRevision+v.known)
	return kv, ok, nil
}

// revisionOf is what a later request knows of its revision.
func (v *tableView) revisionOf(it *Item) int64 {
	switch {
	case it.rev != 0:
		return it.rev
	case it.phase == phaseAsked:
		return eval.UnknownRevision + it.above
	default:
		return eval.UnknownRevision + v.known
	}
}

func putOver(kv shard.KeyValue, ok bool, key, value []byte, lease, rev int64) shard.KeyValue {
	next := shard.KeyValue{Key: key, Value: value, Lease: lease, ModRevision: rev, CreateRevision: rev, Version: 1}
	if ok {
		next.CreateRevision = kv.CreateRevision
		next.Version = kv.Version + 1
	}
	return next
}

// fold carries the effects over one key.
func fold(kv shard.KeyValue, ok bool, key []byte, effects []effect, rev int64) (shard.KeyValue, bool) {
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
			kv, ok = putOver(kv, ok, e.key, e.value, e.lease, rev), true
		}
	}
	return kv, ok
}

// touched returns the keys in span that some predicted effect names, in key order.
func (v *tableView) touched(span shard.Span) (keys [][]byte, spans []shard.Span) {
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
	take(v.own)
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), spans
}

func (v *tableView) Scan(span shard.Span, keysOnly bool, fn func(*shard.KeyValue) bool) error {
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

// predict says whether op will write, and its effects, given those ahead of it. A request that
// would fail writes nothing.
func (v *tableView) predict(op *pb.Op, compacted int64) (outcome, []effect, error) {
	v.own = nil
	v.ev = eval.Evaluator{View: v, Sink: v, Now: v.known, Compacted: compacted}
	if p := op.GetPut(); p != nil && !p.IgnoreValue && !p.IgnoreLease {
		if _, err := v.ev.Check(op, nil); err != nil {
			return writesNothing, nil, unforeseen(err)
		}
		return writesSomething, nil, nil // its effect is the operation itself
	}
	_, err := v.ev.Run(op)
	switch {
	case errors.Is(err, eval.ErrUndetermined):
		return dependsOnUnknown, nil, nil
	case err != nil || len(v.own) == 0:
		return writesNothing, nil, unforeseen(err)
	}
	return writesSomething, v.own, nil
}

// unforeseen leaves out what a request is told at a fenced revision: as predicted, it fails by what is in
// the store or by itself.
func unforeseen(err error) error {
	if errors.Is(err, shard.ErrKeyNotFound) || errors.Is(err, shard.ErrFutureRevision) || errors.Is(err, shard.ErrInvalid) || eval.IsCompacted(err) {
		return nil
	}
	return err
}

// tableView is the sink of predictions as well: effects stay as they are, without results.

// Lease refuses a put with a lease that meta does not know.
func (v *tableView) Lease(lease int64, _ []byte, named bool) error {
	if named && slices.Contains(v.missing, lease) {
		return shard.ErrLeaseNotFound
	}
	return nil
}

func (v *tableView) Put(key, value []byte, lease int64) error {
	v.own = append(v.own, effect{key: key, value: value, lease: lease})
	return nil
}

func (v *tableView) Delete(key []byte) error {
	v.own = append(v.own, effect{key: key, delete: true})
	return nil
}

// DeleteSpan predicts a delete of a span as a whole: only whether it finds a key at all is looked up, and
// that only while nothing else writes.
func (v *tableView) DeleteSpan(span shard.Span, _ func(*shard.KeyValue)) (int64, error) {
	found := v.Wrote()
	if !found {
		err := v.Scan(span, true, func(*shard.KeyValue) bool { found = true; return false })
		if err != nil {
			return 0, err
		}
	}
	if found {
		v.own = append(v.own, effect{span: span, delete: true})
	}
	return 0, nil
}

// Expire is never asked: expiries take their keys before (evaluateExpiry).
func (v *tableView) Expire(int64) (int64, error) {
	return 0, fmt.Errorf("%w: an expiry that is predicted key by key", shard.ErrUnimplemented)
}

func (v *tableView) Wrote() bool { return len(v.own) > 0 }
