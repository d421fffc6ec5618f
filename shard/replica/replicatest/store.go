package replicatest

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"pontoon/mvcc"
	"pontoon/shard"
)

// MemStore is the plainest store that keeps mvcc's contract: every version in a slice per key.
type MemStore struct {
	// Cold says which keys are as if in a file; nil: none is.
	Cold func(key []byte) bool

	Pos     mvcc.Position
	vers    map[string][]memVersion
	States  map[string][]byte
	Last    int64
	Compact int64
}

type memVersion struct {
	kv  shard.KeyValue
	sub int64
	del bool
}

// NewMemStore returns an empty store.
func NewMemStore() *MemStore {
	return &MemStore{vers: map[string][]memVersion{}, States: map[string][]byte{}}
}

// Position is the last entry that was applied.
func (s *MemStore) Position() mvcc.Position { return s.Pos }

// LastRevision is the newest that a version has.
func (s *MemStore) LastRevision() int64 { return s.Last }

// CompactRevision is the last compaction.
func (s *MemStore) CompactRevision() int64 { return s.Compact }

// State reads what is kept beside the versions.
func (s *MemStore) State(k string) []byte { return s.States[k] }

// RangeState walks what is kept beside the versions, in order of the keys.
func (s *MemStore) RangeState(prefix string, fn func(string, []byte) bool) {
	var keys []string
	for k := range s.States {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn(k, s.States[k]) {
			return
		}
	}
}

func (s *MemStore) at(key string, rev int64) *memVersion {
	vs := s.vers[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].kv.ModRevision <= rev {
			return &vs[i]
		}
	}
	return nil
}

// Get reads a key at a revision.
func (s *MemStore) Get(key []byte, rev int64) (shard.KeyValue, bool, error) {
	if rev < s.Compact {
		return shard.KeyValue{}, false, &shard.CompactedError{Revision: s.Compact}
	}
	v := s.at(string(key), rev)
	if v == nil || v.del {
		return shard.KeyValue{}, false, nil
	}
	return v.kv, true, nil
}

// Head is Get without the value.
func (s *MemStore) Head(key []byte, rev int64) (shard.KeyValue, bool, error) {
	kv, ok, err := s.Get(key, rev)
	kv.Value = nil
	return kv, ok, err
}

// Scan walks a span at a revision.
func (s *MemStore) Scan(o mvcc.ScanOptions, fn func(*shard.KeyValue) bool) error {
	if o.Rev < s.Compact {
		return &shard.CompactedError{Revision: s.Compact}
	}
	var keys []string
	for k := range s.vers {
		if o.Span.Contains([]byte(k)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if o.Reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		v := s.at(k, o.Rev)
		if v == nil || v.del {
			continue
		}
		kv := v.kv
		if o.KeysOnly {
			kv.Value = nil
		}
		if !fn(&kv) {
			return nil
		}
	}
	return nil
}

// Count counts the keys of a span at a revision.
func (s *MemStore) Count(span shard.Span, rev int64) (n int64, err error) {
	err = s.Scan(mvcc.ScanOptions{Span: span, Rev: rev}, func(*shard.KeyValue) bool { n++; return true })
	return n, err
}

// LeaseKeys are the keys whose current lease it is.
func (s *MemStore) LeaseKeys(lease int64, _ int) (keys [][]byte, err error) {
	err = s.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *shard.KeyValue) bool {
		if kv.Lease == lease {
			keys = append(keys, kv.Key)
		}
		return true
	})
	return keys, err
}

// Apply applies a change, and returns its events.
func (s *MemStore) Apply(c mvcc.Change) (evs []*shard.Event, err error) {
	if c.Pos.Index <= s.Pos.Index {
		return nil, fmt.Errorf("index %d over %d", c.Pos.Index, s.Pos.Index)
	}
	for _, m := range c.Muts {
		prev, ok, _ := s.Get(m.Key, math.MaxInt64)
		v := memVersion{sub: m.Rev.Sub, del: m.Delete}
		v.kv = shard.KeyValue{Key: bytes.Clone(m.Key), ModRevision: m.Rev.Main}
		if m.Delete && !ok {
			continue
		}
		if !m.Delete {
			v.kv = putOver2(prev, ok, bytes.Clone(m.Key), bytes.Clone(m.Value), m.Lease, m.Rev.Main)
		}
		s.vers[string(m.Key)] = append(s.vers[string(m.Key)], v)
		s.Last = max(s.Last, m.Rev.Main)
		ev := &shard.Event{KV: v.kv, Delete: m.Delete, Sub: m.Rev.Sub}
		if ok {
			ev.Prev = &prev
		}
		evs = append(evs, ev)
	}
	for _, u := range c.State {
		if u.Value == nil {
			delete(s.States, u.Key)
		} else {
			s.States[u.Key] = u.Value
		}
	}
	s.Compact = max(s.Compact, c.CompactTo)
	s.Pos = c.Pos
	return evs, nil
}

// Cut takes the keys from at on, with all their versions, into a store of their own. The states stay here.
func (s *MemStore) Cut(at []byte) *MemStore {
	right := NewMemStore()
	right.Cold, right.Pos, right.Last, right.Compact = s.Cold, s.Pos, s.Last, s.Compact
	for k, v := range s.vers {
		if k >= string(at) {
			right.vers[k] = v
			delete(s.vers, k)
		}
	}
	return right
}

// Dump renders the newest content.
func (s *MemStore) Dump() string {
	var b strings.Builder
	_ = s.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *shard.KeyValue) bool {
		fmt.Fprintf(&b, "%s=%s create %d mod %d version %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
		if kv.Lease != 0 {
			fmt.Fprintf(&b, " lease %d", kv.Lease)
		}
		b.WriteByte('\n')
		return true
	})
	return b.String()
}

// InMemory says what Cold does not deny.
func (s *MemStore) InMemory(key []byte, _ int64) bool { return s.Cold == nil || !s.Cold(key) }

// MvccChange is a change of versions alone.
func MvccChange(index uint64, muts []mvcc.Mutation) mvcc.Change {
	return mvcc.Change{Pos: mvcc.Position{Index: index, Term: 1}, Muts: muts}
}

func putOver2(kv shard.KeyValue, ok bool, key, value []byte, lease, rev int64) shard.KeyValue {
	next := shard.KeyValue{Key: key, Value: value, Lease: lease, ModRevision: rev, CreateRevision: rev, Version: 1}
	if ok {
		next.CreateRevision, next.Version = kv.CreateRevision, kv.Version+1
	}
	return next
}
