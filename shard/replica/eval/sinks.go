package eval

import (
	"errors"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Mutations is the sink of apply: effects become mutations of the store, each with its revision. It is the view
// too, so later requests of the entry see them.
type Mutations struct {
	Overlay
	Rev int64 // of the request
	Sub int64 // effects so far
	// LeaseOK says whether a put may carry the lease; nil: any.
	LeaseOK func(lease int64, key []byte) error
	// OnExpired is called for a lease whose keys have been deleted, unless it is nil.
	OnExpired func(lease int64)
}

var (
	_ View = (*Mutations)(nil)
	_ Sink = (*Mutations)(nil)
)

// Lease implements Sink.
func (s *Mutations) Lease(lease int64, key []byte, _ bool) error {
	if s.LeaseOK == nil {
		return nil
	}
	return s.LeaseOK(lease, key)
}

func (s *Mutations) add(m mvcc.Mutation) {
	m.Rev = mvcc.Rev{Main: s.Rev, Sub: s.Sub}
	s.Sub++
	s.Muts = append(s.Muts, m)
}

// Put implements Sink.
func (s *Mutations) Put(key, value []byte, lease int64) error {
	s.add(mvcc.Mutation{Key: key, Value: value, Lease: lease})
	return nil
}

// Delete implements Sink.
func (s *Mutations) Delete(key []byte) error {
	s.add(mvcc.Mutation{Key: key, Delete: true})
	return nil
}

// DeleteSpan implements Sink.
func (s *Mutations) DeleteSpan(span shard.Span, prev func(*shard.KeyValue)) (int64, error) {
	var keys [][]byte
	err := s.Scan(span, prev == nil, func(kv *shard.KeyValue) bool {
		keys = append(keys, kv.Key)
		if prev != nil {
			prev(kv)
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	s.deleteKeys(keys)
	return int64(len(keys)), nil
}

func (s *Mutations) deleteKeys(keys [][]byte) {
	for _, k := range keys {
		s.add(mvcc.Mutation{Key: k, Delete: true})
	}
}

// Expire deletes the lease's keys in key order.
func (s *Mutations) Expire(lease int64) (int64, error) {
	keys, err := s.LeaseKeys(lease)
	if err != nil {
		return 0, err
	}
	s.deleteKeys(keys)
	if s.OnExpired != nil {
		s.OnExpired(lease)
	}
	return int64(len(keys)), nil
}

// Wrote implements Sink.
func (s *Mutations) Wrote() bool { return s.Sub > 0 }

// errWouldWrite ends an evaluation at a past revision when the request has an effect there.
var errWouldWrite = errors.New("the request writes")

// readOnlySink refuses every effect.
type readOnlySink struct{ v View }

func (readOnlySink) Lease(int64, []byte, bool) error { return nil }

func (readOnlySink) Put([]byte, []byte, int64) error { return errWouldWrite }

func (readOnlySink) Delete([]byte) error { return errWouldWrite }

func (s readOnlySink) DeleteSpan(span shard.Span, _ func(*shard.KeyValue)) (int64, error) {
	found := false
	err := s.v.Scan(span, true, func(*shard.KeyValue) bool { found = true; return false })
	if err == nil && found {
		err = errWouldWrite
	}
	return 0, err
}

func (readOnlySink) Expire(int64) (int64, error) { return 0, errWouldWrite }

func (readOnlySink) Wrote() bool { return false }

// EvaluateAt evaluates op as a whole at a past revision whose content is final. again says that
// the revision has been compacted meanwhile.
func EvaluateAt(st Reader, op *pb.Op, rev int64) (res *pb.Result, wouldWrite, again bool, err error) {
	v := &Overlay{Base: st, At: rev}
	ev := Evaluator{View: v, Sink: readOnlySink{v}, Current: rev, PriorRev: rev, Rev: rev, Results: true, Compacted: st.CompactRevision()}
	res, err = ev.Run(op)
	switch {
	case errors.Is(err, errWouldWrite):
		return nil, true, false, nil
	case IsCompacted(err) && st.CompactRevision() > rev:
		return nil, false, true, nil
	}
	return res, false, false, err
}

// IsCompacted reports whether err says that a revision has been compacted.
func IsCompacted(err error) bool {
	if err == nil {
		return false
	}
	var c *shard.CompactedError
	return errors.As(err, &c)
}
