package replica

import (
	"errors"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// mutations is the sink of apply: effects become mutations of the store, each with its revision. It is the
// view as well: what a request does is seen by those behind it in the entry.
type mutations struct {
	scratch
	rev int64 // of the request
	sub int64 // effects so far
	// leaseOK says whether a put may carry the lease; nil: any.
	leaseOK func(lease int64, key []byte) error
	// ended is told of a lease whose keys have been deleted; nil: nobody is.
	ended func(lease int64)
}

var (
	_ view = (*mutations)(nil)
	_ sink = (*mutations)(nil)
)

func (s *mutations) lease(lease int64, key []byte, _ bool) error {
	if s.leaseOK == nil {
		return nil
	}
	return s.leaseOK(lease, key)
}

func (s *mutations) add(m mvcc.Mutation) {
	m.Rev = mvcc.Rev{Main: s.rev, Sub: s.sub}
	s.sub++
	s.muts = append(s.muts, m)
}

func (s *mutations) put(key, value []byte, lease int64) error {
	s.add(mvcc.Mutation{Key: key, Value: value, Lease: lease})
	return nil
}

func (s *mutations) delete(key []byte) error {
	s.add(mvcc.Mutation{Key: key, Delete: true})
	return nil
}

func (s *mutations) deleteSpan(span shard.Span, prev func(*mvcc.KeyValue)) (int64, error) {
	var keys [][]byte
	err := s.scan(span, prev == nil, func(kv *mvcc.KeyValue) bool {
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

func (s *mutations) deleteKeys(keys [][]byte) {
	for _, k := range keys {
		s.add(mvcc.Mutation{Key: k, Delete: true})
	}
}

// expire deletes the lease's keys in key order.
func (s *mutations) expire(lease int64) (int64, error) {
	keys, err := s.leaseKeys(lease)
	if err != nil {
		return 0, err
	}
	s.deleteKeys(keys)
	if s.ended != nil {
		s.ended(lease)
	}
	return int64(len(keys)), nil
}

func (s *mutations) wrote() bool { return s.sub > 0 }

// errWouldWrite ends an evaluation at a past revision as soon as it turns out that the request has an
// effect there.
var errWouldWrite = errors.New("the request writes")

// pastSink lets nothing write.
type pastSink struct{ v view }

func (pastSink) lease(int64, []byte, bool) error { return nil }

func (pastSink) put([]byte, []byte, int64) error { return errWouldWrite }

func (pastSink) delete([]byte) error { return errWouldWrite }

func (s pastSink) deleteSpan(span shard.Span, _ func(*mvcc.KeyValue)) (int64, error) {
	found := false
	err := s.v.scan(span, true, func(*mvcc.KeyValue) bool { found = true; return false })
	if err == nil && found {
		err = errWouldWrite
	}
	return 0, err
}

func (pastSink) expire(int64) (int64, error) { return 0, errWouldWrite }

func (pastSink) wrote() bool { return false }

// evaluateAt evaluates op as a whole at a past revision whose content is final. again says that
// the revision has been compacted meanwhile.
func evaluateAt(st Reader, op *pb.Op, rev int64) (res *pb.Result, wouldWrite, again bool, err error) {
	v := &scratch{base: st, at: rev}
	ev := evaluator{view: v, sink: pastSink{v}, now: rev, before: rev, rev: rev, results: true, compacted: st.CompactRevision()}
	res, err = ev.run(op)
	switch {
	case errors.Is(err, errWouldWrite):
		return nil, true, false, nil
	case isCompacted(err) && st.CompactRevision() > rev:
		return nil, false, true, nil
	}
	return res, false, false, err
}

func isCompacted(err error) bool {
	if err == nil {
		return false
	}
	var c *shard.CompactedError
	return errors.As(err, &c)
}
