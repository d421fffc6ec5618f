// Package apitest holds a naive etcd in memory behind the interfaces of package etcdapi, for
// tests of the API and of its clients. It keeps every version of every key in a map, answers
// under one lock, and knows no ranges.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Store is the whole of it. Its methods implement KV, Leases, Cluster, Maintenance, Header and
// Leadership of package etcdapi.
type Store struct {
	// Fail, if set before the store is used, may turn a call into an error; call is the
	// method's name.
	Fail func(call string) error
	// PageKeys is how many keys a page of RangePages has. Default 2.
	PageKeys int

	mu       sync.Mutex
	rev      int64
	compact  int64
	versions map[string][]version // ascending
	events   []*shard.Event
	leases   map[int64]int64 // id -> granted TTL
	streams  map[*stream]struct{}
	leader   bool
	alarms   []etcdapi.Alarm
}

type version struct {
	kv      *pb.KeyValue
	deleted bool
}

// New returns an empty store at revision 1.
func New() *Store {
	return &Store{
		PageKeys: 2, rev: 1, versions: map[string][]version{}, leases: map[int64]int64{},
		streams: map[*stream]struct{}{}, leader: true,
	}
}

func (s *Store) fail(call string) error {
	if s.Fail == nil {
		return nil
	}
	return s.Fail(call)
}

// at returns the version of a key that is current at rev, nil if there is none.
func (s *Store) at(key string, rev int64) *pb.KeyValue {
	var found *pb.KeyValue
	for _, v := range s.versions[key] {
		if v.kv.ModRevision > rev {
			break
		}
		found = v.kv
		if v.deleted {
			found = nil
		}
	}
	return found
}

func (s *Store) scan(span shard.Span, rev int64) []*pb.KeyValue {
	var kvs []*pb.KeyValue
	for k := range s.versions {
		if kv := s.at(k, rev); kv != nil && span.Contains([]byte(k)) {
			kvs = append(kvs, kv)
		}
	}
	slices.SortFunc(kvs, func(a, b *pb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs
}

// Range implements etcdapi.KV.
func (s *Store) Range(_ context.Context, op *pb.RangeOp, _ bool) (*etcdapi.RangeResult, error) {
	if err := s.fail("Range"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res, err := s.rangeLocked(op)
	if err != nil {
		return nil, err
	}
	return &etcdapi.RangeResult{KVs: res.Kvs, Count: res.Count, More: res.More, Revision: s.rev}, nil
}

// RangeEncoded implements etcdapi.KV: every other key in a piece of its own.
func (s *Store) RangeEncoded(ctx context.Context, op *pb.RangeOp, serializable bool) (*etcdapi.RangeResult, error) {
	res, err := s.Range(ctx, op, serializable)
	if err != nil || op.SortOrder != 0 {
		return res, err
	}
	for i, kv := range res.KVs {
		kv := &pb.KeyValue{Key: kv.Key, Value: kv.Value, Lease: kv.Lease, Version: kv.Version,
			CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision}
		if op.KeysOnly {
			kv.Value, kv.Lease = nil, 0
		}
		if i%2 == 0 {
			res.Encoded = append(res.Encoded, nil)
		}
		last := &res.Encoded[len(res.Encoded)-1]
		*last = pb.AppendRangeKey(*last, kv)
	}
	res.KVs = nil
	return res, nil
}

func (s *Store) rangeLocked(op *pb.RangeOp) (*pb.RangeResult, error) {
	rev := s.rev
	if op.Revision > 0 {
		rev = op.Revision
	}
	switch {
	case rev > s.rev:
		return nil, shard.ErrFutureRevision
	case rev < s.compact:
		return nil, &shard.CompactedError{Revision: s.compact}
	}
	kvs := s.scan(shard.FromEtcd(op.Key, op.RangeEnd), rev)
	res := &pb.RangeResult{Count: int64(len(kvs))}
	if op.CountOnly {
		return res, nil
	}
	kvs = slices.DeleteFunc(kvs, func(kv *pb.KeyValue) bool {
		return kv.ModRevision < op.MinModRevision || (op.MaxModRevision > 0 && kv.ModRevision > op.MaxModRevision) ||
			kv.CreateRevision < op.MinCreateRevision || (op.MaxCreateRevision > 0 && kv.CreateRevision > op.MaxCreateRevision)
	})
	order(kvs, op)
	if op.Limit > 0 && int64(len(kvs)) > op.Limit {
		kvs, res.More = kvs[:op.Limit], true
	}
	res.Kvs = kvs
	return res, nil
}

func order(kvs []*pb.KeyValue, op *pb.RangeOp) {
	slices.SortStableFunc(kvs, func(a, b *pb.KeyValue) int {
		c := 0
		switch op.SortTarget {
		case 0:
			c = bytes.Compare(a.Key, b.Key)
		case 1:
			c = cmp.Compare(a.Version, b.Version)
		case 2:
			c = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case 3:
			c = cmp.Compare(a.ModRevision, b.ModRevision)
		case 4:
			c = bytes.Compare(a.Value, b.Value)
		}
		if op.SortOrder == 2 {
			c = -c
		}
		return c
	})
}

// RangePages implements etcdapi.KV.
func (s *Store) RangePages(ctx context.Context, op *pb.RangeOp, serializable bool, _ int, fn func(*etcdapi.RangeResult) error) error {
	res, err := s.Range(ctx, op, serializable)
	if err != nil {
		return err
	}
	for len(res.KVs) > s.PageKeys {
		if err := fn(&etcdapi.RangeResult{KVs: res.KVs[:s.PageKeys], Revision: res.Revision}); err != nil {
			return err
		}
		res.KVs = res.KVs[s.PageKeys:]
	}
	return fn(res)
}

// Current implements etcdapi.KV.
func (s *Store) Current(context.Context) (int64, error) {
	if err := s.fail("Current"); err != nil {
		return 0, err
	}
	return s.Revision(), nil
}

// Compact implements etcdapi.KV.
func (s *Store) Compact(_ context.Context, rev int64, _ bool) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case rev <= s.compact:
		return 0, &shard.CompactedError{Revision: s.compact}
	case rev > s.rev:
		return 0, shard.ErrFutureRevision
	}
	s.compact = rev
	return s.rev, nil
}

// WriteBy implements etcdapi.KV.
func (s *Store) WriteBy(_ context.Context, op *pb.Op, _ shard.Checked) (*etcdapi.WriteResult, error) {
	if err := s.fail("Write"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &txn{store: s, rev: s.rev + 1}
	if err := t.check(op); err != nil {
		return nil, err
	}
	path := t.path(op, nil)
	res, err := t.run(op, &path)
	if err != nil {
		return nil, err
	}
	if t.sub > 0 {
		s.rev = t.rev
		s.publish(t.events)
	}
	return &etcdapi.WriteResult{Result: res, Revision: s.rev, Wrote: t.sub > 0}, nil
}

// expire deletes the keys of a lease at one revision.
func (s *Store) expire(lease int64) {
	t := &txn{store: s, rev: s.rev + 1}
	for _, kv := range s.scan(shard.All, s.rev) {
		if kv.Lease == lease {
			t.delete(kv)
		}
	}
	if t.sub > 0 {
		s.rev = t.rev
		s.publish(t.events)
	}
}
