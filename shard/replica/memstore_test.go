package replica

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"pontoon/mvcc"
	"pontoon/shard"
)

// memStore is the plainest store that keeps mvcc's contract: every version in a slice per key.
type memStore struct {
	pos     mvcc.Position
	vers    map[string][]memVersion
	state   map[string][]byte
	last    int64
	compact int64
}

type memVersion struct {
	kv  mvcc.KeyValue
	sub int64
	del bool
}

func newMemStore() *memStore {
	return &memStore{vers: map[string][]memVersion{}, state: map[string][]byte{}}
}

func (s *memStore) Position() mvcc.Position { return s.pos }
func (s *memStore) LastRevision() int64     { return s.last }
func (s *memStore) CompactRevision() int64  { return s.compact }
func (s *memStore) State(k string) []byte   { return s.state[k] }

func (s *memStore) RangeState(prefix string, fn func(string, []byte) bool) {
	var keys []string
	for k := range s.state {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn(k, s.state[k]) {
			return
		}
	}
}

func (s *memStore) at(key string, rev int64) *memVersion {
	vs := s.vers[key]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].kv.ModRevision <= rev {
			return &vs[i]
		}
	}
	return nil
}

func (s *memStore) Get(key []byte, rev int64) (mvcc.KeyValue, bool, error) {
	if rev < s.compact {
		return mvcc.KeyValue{}, false, &shard.CompactedError{Revision: s.compact}
	}
	v := s.at(string(key), rev)
	if v == nil || v.del {
		return mvcc.KeyValue{}, false, nil
	}
	return v.kv, true, nil
}

func (s *memStore) Head(key []byte, rev int64) (mvcc.KeyValue, bool, error) {
	kv, ok, err := s.Get(key, rev)
	kv.Value = nil
	return kv, ok, err
}

func (s *memStore) Scan(o mvcc.ScanOptions, fn func(*mvcc.KeyValue) bool) error {
	if o.Rev < s.compact {
		return &shard.CompactedError{Revision: s.compact}
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

func (s *memStore) Count(span shard.Span, rev int64) (n int64, err error) {
	err = s.Scan(mvcc.ScanOptions{Span: span, Rev: rev}, func(*mvcc.KeyValue) bool { n++; return true })
	return n, err
}

func (s *memStore) LeaseKeys(lease int64, _ int) (keys [][]byte, err error) {
	err = s.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *mvcc.KeyValue) bool {
		if kv.Lease == lease {
			keys = append(keys, kv.Key)
		}
		return true
	})
	return keys, err
}

func (s *memStore) Apply(c mvcc.Change) (evs []mvcc.Event, err error) {
	if c.Pos.Index <= s.pos.Index {
		return nil, fmt.Errorf("index %d over %d", c.Pos.Index, s.pos.Index)
	}
	for _, m := range c.Muts {
		prev, ok, _ := s.Get(m.Key, math.MaxInt64)
		v := memVersion{sub: m.Rev.Sub, del: m.Delete}
		v.kv = mvcc.KeyValue{Key: bytes.Clone(m.Key), ModRevision: m.Rev.Main}
		if m.Delete && !ok {
			continue
		}
		if !m.Delete {
			v.kv = putOver(prev, ok, bytes.Clone(m.Key), bytes.Clone(m.Value), m.Lease, m.Rev.Main)
		}
		s.vers[string(m.Key)] = append(s.vers[string(m.Key)], v)
		s.last = max(s.last, m.Rev.Main)
		ev := mvcc.Event{KV: v.kv, Delete: m.Delete, Sub: m.Rev.Sub}
		if ok {
			ev.Prev = &prev
		}
		evs = append(evs, ev)
	}
	for _, u := range c.State {
		if u.Value == nil {
			delete(s.state, u.Key)
		} else {
			s.state[u.Key] = u.Value
		}
	}
	s.compact = max(s.compact, c.CompactTo)
	s.pos = c.Pos
	return evs, nil
}

// dump renders the newest content.
func (s *memStore) dump() string {
	var b strings.Builder
	_ = s.Scan(mvcc.ScanOptions{Rev: math.MaxInt64}, func(kv *mvcc.KeyValue) bool {
		fmt.Fprintf(&b, "%s=%s create %d mod %d version %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
		if kv.Lease != 0 {
			fmt.Fprintf(&b, " lease %d", kv.Lease)
		}
		b.WriteByte('\n')
		return true
	})
	return b.String()
}

func mvccChange(index uint64, muts []mvcc.Mutation) mvcc.Change {
	return mvcc.Change{Pos: mvcc.Position{Index: index, Term: 1}, Muts: muts}
}
