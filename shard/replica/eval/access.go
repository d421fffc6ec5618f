package eval

import (
	"fmt"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Access is one span that a request reads or may write. A single key is kept as the key alone, because it is the
// hot path and is found by hash.
type Access struct {
	Key   []byte // set: this key only
	Span  shard.Span
	Write bool
}

// Overlaps reports whether two accesses share a key.
func (a *Access) Overlaps(b *Access) bool {
	switch {
	case a.Key != nil && b.Key != nil:
		return string(a.Key) == string(b.Key)
	case a.Key != nil:
		return b.Span.Contains(a.Key)
	case b.Key != nil:
		return a.Span.Contains(b.Key)
	default:
		return a.Span.Overlaps(b.Span)
	}
}

// OverlapsSpan reports whether the access touches a key of s.
func (a *Access) OverlapsSpan(s shard.Span) bool {
	if a.Key != nil {
		return s.Contains(a.Key)
	}
	return a.Span.Overlaps(s)
}

// Within reports whether the whole access lies in s.
func (a *Access) Within(s shard.Span) bool {
	if a.Key != nil {
		return s.Contains(a.Key)
	}
	return s.ContainsSpan(a.Span)
}

// Footprint is everything that an operation may touch, whatever its compares say.
type Footprint struct {
	Acc    []Access
	Leases []int64 // that its puts name
	// Expires is the lease that an expiry ends, else 0.
	Expires int64
}

// Within reports whether all of it lies in s.
func (f *Footprint) Within(s shard.Span) bool {
	for i := range f.Acc {
		if !f.Acc[i].Within(s) {
			return false
		}
	}
	return true
}

// Add appends one access. A key that is there already is upgraded to a write. Long lists are not searched, as a
// duplicate only costs time.
func (f *Footprint) Add(key, end []byte, write bool) {
	if len(end) != 0 {
		span := shard.FromEtcd(key, end)
		if !span.Empty() {
			f.Acc = append(f.Acc, Access{Span: span, Write: write})
		}
		return
	}
	if key == nil {
		key = []byte{}
	}
	for i := range f.Acc[:min(len(f.Acc), 8)] {
		if a := &f.Acc[i]; a.Key != nil && string(a.Key) == string(key) {
			a.Write = a.Write || write
			return
		}
	}
	f.Acc = append(f.Acc, Access{Key: key, Write: write})
}

// Collect adds what op may touch, both branches of every transaction included.
func (f *Footprint) Collect(op *pb.Op) {
	switch {
	case op.GetPut() != nil:
		f.Add(op.Put.Key, nil, true)
		if l := op.Put.Lease; l != 0 {
			f.AddLease(l)
		}
	case op.GetDelete() != nil:
		f.Add(op.Delete.Key, op.Delete.RangeEnd, true)
	case op.GetExpireLease() != 0:
		f.Expires = op.ExpireLease
	case op.GetRange() != nil:
		f.Add(op.Range.Key, op.Range.RangeEnd, false)
	case op.GetTxn() != nil:
		for _, c := range op.Txn.Compare {
			f.Add(c.Key, c.RangeEnd, false)
		}
		for _, o := range op.Txn.Success {
			f.Collect(o)
		}
		for _, o := range op.Txn.Failure {
			f.Collect(o)
		}
	}
}

// AddSpans adds what a transaction locks.
func (f *Footprint) AddSpans(spans []*pb.Span, write bool) {
	for _, p := range spans {
		span := pb.ToSpan(p)
		if span.IsPoint() {
			f.Acc = append(f.Acc, Access{Key: span.Start, Write: write})
		} else if !span.Empty() {
			f.Acc = append(f.Acc, Access{Span: span, Write: write})
		}
	}
}

// AddLease adds a lease that a put names.
func (f *Footprint) AddLease(l int64) {
	for _, x := range f.Leases {
		if x == l {
			return
		}
	}
	f.Leases = append(f.Leases, l)
}

// CheckKeys refuses an operation that may write the empty key. A key that is too long is refused only where it
// is put. It may be read and deleted, because it does not exist.
func (f *Footprint) CheckKeys() error {
	for i := range f.Acc {
		if a := &f.Acc[i]; a.Write && a.Key != nil && len(a.Key) == 0 {
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

// OpDepthMax bounds how deep the operations of one request may nest, so that a malformed entry cannot exhaust the
// stack. A valid request is far below it: its operations are limited in number, to 128 by default. A message that
// nests 10 000 deep, which is two levels for every transaction, cannot be decoded.
const OpDepthMax = 4096

// CheckForm refuses an op that contains an operation of several kinds at once, or nests deeper than OpDepthMax. An
// expiry must not be part of a transaction.
func CheckForm(op *pb.Op) error {
	if wellFormed(op, OpDepthMax) {
		return nil
	}
	return fmt.Errorf("%w: an operation of several kinds at once, or transactions nested deeper than %d", shard.ErrInvalid, OpDepthMax)
}

func wellFormed(op *pb.Op, depth int) bool {
	kinds := 0
	for _, set := range [...]bool{op.GetRange() != nil, op.GetPut() != nil, op.GetDelete() != nil, op.GetTxn() != nil, op.GetExpireLease() != 0} {
		if set {
			kinds++
		}
	}
	if kinds > 1 || op.GetExpireLease() != 0 && depth != OpDepthMax {
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
