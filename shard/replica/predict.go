package replica

import (
	"bytes"
	"errors"
	"math"
	"slices"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
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
	base  Reader
	at    int64
	known int64 // a revision that is allocated from now on is above it
	tab   *table
	own   []effect // of the transaction under prediction, so far
	// missing are leases that its puts may name and that meta does not know.
	missing []int64
	buf     []*item
}

func (v *tableView) get(key []byte) (mvcc.KeyValue, bool, error) {
	kv, ok, err := v.base.Get(key, v.at)
	if isCompacted(err) {
		kv, ok, err = v.base.Get(key, math.MaxInt64)
	}
	return v.overlay(key, kv, ok, err)
}

func (v *tableView) head(key []byte) (mvcc.KeyValue, bool, error) {
	kv, ok, err := v.baseHead(key)
	return v.overlay(key, kv, ok, err)
}

func (v *tableView) baseHead(key []byte) (mvcc.KeyValue, bool, error) {
	kv, ok, err := v.base.Head(key, v.at)
	if isCompacted(err) {
		return v.base.Head(key, math.MaxInt64)
	}
	return kv, ok, err
}

// overlay carries what is in the table over what was read from the base.
func (v *tableView) overlay(key []byte, kv mvcc.KeyValue, ok bool, err error) (mvcc.KeyValue, bool, error) {
	if err != nil {
		return kv, ok, err
	}
	v.buf = v.tab.onKey(key, v.buf)
	for _, it := range v.buf {
		if !it.writes() {
			continue
		}
		rev := v.revisionOf(it)
		if p := it.op.GetPut(); p != nil && len(it.effects) == 0 {
			kv, ok = putOver(kv, ok, p.Key, p.Value, p.Lease, rev), true
			continue
		}
		kv, ok = fold(kv, ok, key, it.effects, rev)
	}
	kv, ok = fold(kv, ok, key, v.own, unknownRevision+v.known)
	return kv, ok, nil
}

// revisionOf is what a later request knows of its revision.
func (v *tableView) revisionOf(it *item) int64 {
	switch {
	case it.rev != 0:
		return it.rev
	case it.phase == phaseAsked:
		return unknownRevision + it.above
	default:
		return unknownRevision + v.known
	}
}

func putOver(kv mvcc.KeyValue, ok bool, key, value []byte, lease, rev int64) mvcc.KeyValue {
	next := mvcc.KeyValue{Key: key, Value: value, Lease: lease, ModRevision: rev, CreateRevision: rev, Version: 1}
	if ok {
		next.CreateRevision = kv.CreateRevision
		next.Version = kv.Version + 1
	}
	return next
}

// fold carries the effects over one key.
func fold(kv mvcc.KeyValue, ok bool, key []byte, effects []effect, rev int64) (mvcc.KeyValue, bool) {
	for i := range effects {
		e := &effects[i]
		switch {
		case e.key == nil:
			if e.span.Contains(key) {
				kv, ok = mvcc.KeyValue{}, false
			}
		case !bytes.Equal(e.key, key):
		case e.delete:
			kv, ok = mvcc.KeyValue{}, false
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
		if p := it.op.GetPut(); p != nil && len(it.effects) == 0 {
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

func (v *tableView) scan(span shard.Span, keysOnly bool, fn func(*mvcc.KeyValue) bool) error {
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
	err := mergeScan(v.base, o, keys, v.get, hidden, func(kv *mvcc.KeyValue) bool { started = true; return fn(kv) })
	if isCompacted(err) && !started {
		o.Rev = math.MaxInt64
		return mergeScan(v.base, o, keys, v.get, hidden, fn)
	}
	return err
}

// predict says whether op will write, and its effects, given those ahead of it. A request that
// would fail writes nothing.
func (v *tableView) predict(op *pb.Op, compacted int64) (outcome, []effect, error) {
	if p := op.GetPut(); p != nil && !p.IgnoreValue && !p.IgnoreLease {
		return writesSomething, nil, v.checkLease(p) // its effect is the operation itself
	}
	v.own = nil
	path, settled, err := v.branches(op, nil)
	if err != nil {
		return writesNothing, nil, err
	}
	if !settled {
		return dependsOnUnknown, nil, nil
	}
	rest, ok, err := v.check(op, path, compacted)
	if err != nil || !ok {
		return writesNothing, nil, err
	}
	_ = rest
	if _, err := v.exec(op, path); err != nil {
		return writesNothing, nil, err
	}
	if len(v.own) == 0 {
		return writesNothing, nil, nil
	}
	return writesSomething, v.own, nil
}

// branches is evaluation.branches over predicted state; settled is false where a compare
// depends on a revision that is not known.
func (v *tableView) branches(op *pb.Op, path []bool) (out []bool, settled bool, err error) {
	if op.GetTxn() == nil {
		return path, true, nil
	}
	holds, err := comparesHold(v, op.Txn.Compare)
	if err != nil || holds == undetermined {
		return nil, false, err
	}
	path = append(path, holds == yes)
	for _, o := range branch(op.Txn, holds == yes) {
		if path, settled, err = v.branches(o, path); err != nil || !settled {
			return nil, false, err
		}
	}
	return path, true, nil
}

// check predicts whether the request passes evaluation.check.
func (v *tableView) check(op *pb.Op, path []bool, compacted int64) (rest []bool, ok bool, err error) {
	switch {
	case op.GetRange() != nil:
		return path, checkRevision(op.Range.Revision, v.known, compacted) == nil, nil
	case op.GetPut() != nil:
		p := op.Put
		if checkStorable(p.Key) != nil {
			return path, false, nil
		}
		if p.IgnoreValue || p.IgnoreLease {
			if _, found, err := v.head(p.Key); err != nil || !found {
				return path, false, err
			}
		}
		return path, true, v.checkLease(p)
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		for _, o := range branch(op.Txn, taken) {
			if path, ok, err = v.check(o, path, compacted); err != nil || !ok {
				return nil, false, err
			}
		}
	}
	return path, true, nil
}

// checkLease refuses a put with a lease that meta does not know.
func (v *tableView) checkLease(p *pb.PutOp) error {
	if p.Lease != 0 && slices.Contains(v.missing, p.Lease) {
		return shard.ErrLeaseNotFound
	}
	return nil
}

// exec collects the effects along the path. A delete of a span is predicted as a whole: only
// whether it finds a key at all is looked up, and that only while nothing else writes.
func (v *tableView) exec(op *pb.Op, path []bool) ([]bool, error) {
	switch {
	case op.GetPut() != nil:
		return path, v.execPut(op.Put)
	case op.GetDelete() != nil:
		return path, v.execDelete(op.Delete)
	case op.GetTxn() != nil:
		taken := path[0]
		path = path[1:]
		var err error
		for _, o := range branch(op.Txn, taken) {
			if path, err = v.exec(o, path); err != nil {
				return nil, err
			}
		}
	}
	return path, nil
}

func (v *tableView) execPut(p *pb.PutOp) error {
	e := effect{key: p.Key, value: p.Value, lease: p.Lease}
	if p.IgnoreValue || p.IgnoreLease {
		kv, _, err := v.get(p.Key)
		if err != nil {
			return err
		}
		if p.IgnoreValue {
			e.value = kv.Value
		}
		if p.IgnoreLease {
			e.lease = kv.Lease
		}
	}
	v.own = append(v.own, e)
	return nil
}

func (v *tableView) execDelete(d *pb.DeleteOp) error {
	if len(d.RangeEnd) == 0 {
		_, ok, err := v.head(d.Key)
		if err == nil && ok {
			v.own = append(v.own, effect{key: d.Key, delete: true})
		}
		return err
	}
	span := shard.FromEtcd(d.Key, d.RangeEnd)
	found := len(v.own) > 0
	if !found {
		err := v.scan(span, true, func(*mvcc.KeyValue) bool { found = true; return false })
		if err != nil {
			return err
		}
	}
	if found {
		v.own = append(v.own, effect{span: span, delete: true})
	}
	return nil
}

func isCompacted(err error) bool {
	if err == nil {
		return false
	}
	var c *shard.CompactedError
	return errors.As(err, &c)
}
