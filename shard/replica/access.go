package replica

import (
	"fmt"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// access is one span that a request reads or may write. A single key is kept as the key alone:
// that is the hot path, and it is found by hash.
type access struct {
	key   []byte // set: this key only
	span  shard.Span
	write bool
}

func (a *access) overlaps(b *access) bool {
	switch {
	case a.key != nil && b.key != nil:
		return string(a.key) == string(b.key)
	case a.key != nil:
		return b.span.Contains(a.key)
	case b.key != nil:
		return a.span.Contains(b.key)
	default:
		return a.span.Overlaps(b.span)
	}
}

func (a *access) overlapsSpan(s shard.Span) bool {
	if a.key != nil {
		return s.Contains(a.key)
	}
	return a.span.Overlaps(s)
}

// within reports whether the whole access lies in s.
func (a *access) within(s shard.Span) bool {
	if a.key != nil {
		return s.Contains(a.key)
	}
	return s.ContainsSpan(a.span)
}

// footprint is everything that an operation may touch, whatever its compares say.
type footprint struct {
	acc    []access
	leases []int64 // that its puts name
	// expires is the lease that it ends, 0 for everything but an expiry.
	expires int64
	// older is the highest past revision that a range of it names.
	older int64
}

// add appends one access; a key that is there already is only upgraded to a write. Long lists are
// not searched: a duplicate costs nothing but time.
func (f *footprint) add(key, end []byte, write bool) {
	if len(end) != 0 {
		span := shard.FromEtcd(key, end)
		if !span.Empty() {
			f.acc = append(f.acc, access{span: span, write: write})
		}
		return
	}
	if key == nil {
		key = []byte{}
	}
	for i := range f.acc[:min(len(f.acc), 8)] {
		if a := &f.acc[i]; a.key != nil && string(a.key) == string(key) {
			a.write = a.write || write
			return
		}
	}
	f.acc = append(f.acc, access{key: key, write: write})
}

// collect adds what op may touch, both branches of every transaction included.
func (f *footprint) collect(op *pb.Op) {
	switch {
	case op.GetPut() != nil:
		f.add(op.Put.Key, nil, true)
		if l := op.Put.Lease; l != 0 {
			f.addLease(l)
		}
	case op.GetDelete() != nil:
		f.add(op.Delete.Key, op.Delete.RangeEnd, true)
	case op.GetExpireLease() != 0:
		f.expires = op.ExpireLease
	case op.GetRange() != nil:
		f.add(op.Range.Key, op.Range.RangeEnd, false)
		f.older = max(f.older, op.Range.Revision)
	case op.GetTxn() != nil:
		for _, c := range op.Txn.Compare {
			f.add(c.Key, c.RangeEnd, false)
		}
		for _, o := range op.Txn.Success {
			f.collect(o)
		}
		for _, o := range op.Txn.Failure {
			f.collect(o)
		}
	}
}

// addSpans adds what a transaction locks.
func (f *footprint) addSpans(spans []*pb.Span, write bool) {
	for _, p := range spans {
		span := pb.ToSpan(p)
		if span.IsPoint() {
			f.acc = append(f.acc, access{key: span.Start, write: write})
		} else if !span.Empty() {
			f.acc = append(f.acc, access{span: span, write: write})
		}
	}
}

func (f *footprint) addLease(l int64) {
	for _, x := range f.leases {
		if x == l {
			return
		}
	}
	f.leases = append(f.leases, l)
}

// checkKeys refuses an operation that may write the empty key. One that is too long to be stored is
// refused only where it is put: it is not there, and can be looked for and deleted.
func (f *footprint) checkKeys() error {
	for i := range f.acc {
		if a := &f.acc[i]; a.write && a.key != nil && len(a.key) == 0 {
			return fmt.Errorf("%w: a write without a key", shard.ErrInvalid)
		}
	}
	return nil
}

// checkStorable refuses a key that the store cannot hold.
func checkStorable(key []byte) error {
	if len(key) <= mvcc.MaxKeyBytes {
		return nil
	}
	return fmt.Errorf("%w: a key of %d bytes; at most %d are stored", shard.ErrInvalid, len(key), mvcc.MaxKeyBytes)
}

// opDepthMax bounds how deep the operations of one request may nest, so that a malformed entry
// cannot exhaust the stack. A request is bounded by its number of operations, 128 unless configured
// otherwise, and a message cannot be decoded that nests 10 000 deep, which is two for every transaction.
const opDepthMax = 4096

// checkForm refuses an op that is, or that has in it, an operation of several kinds at once, and one
// that nests deeper than opDepthMax. An expiry stands alone.
func checkForm(op *pb.Op) error {
	if wellFormed(op, opDepthMax) {
		return nil
	}
	return fmt.Errorf("%w: an operation of several kinds at once, or transactions nested deeper than %d", shard.ErrInvalid, opDepthMax)
}

func wellFormed(op *pb.Op, depth int) bool {
	kinds := 0
	for _, set := range [...]bool{op.GetRange() != nil, op.GetPut() != nil, op.GetDelete() != nil, op.GetTxn() != nil, op.GetExpireLease() != 0} {
		if set {
			kinds++
		}
	}
	if kinds > 1 || op.GetExpireLease() != 0 && depth != opDepthMax {
		return false
	}
	t := op.GetTxn()
	if t == nil {
		return true
	}
	if depth == 0 {
		return false
	}
	for _, ops := range [2][]*pb.Op{t.Success, t.Failure} {
		for _, o := range ops {
			if !wellFormed(o, depth-1) {
				return false
			}
		}
	}
	return true
}
