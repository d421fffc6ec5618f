package eval

import (
	"bytes"
	"slices"
	"sort"

	"pontoon/mvcc"
	"pontoon/shard"
)

// Reader is a store's content as evaluation reads it. Revision math.MaxInt64 is the newest
// state. Bytes that it hands out are never written afterwards.
type Reader interface {
	Get(key []byte, rev int64) (shard.KeyValue, bool, error)
	// Head is Get without the value; the key of its result is key itself.
	Head(key []byte, rev int64) (shard.KeyValue, bool, error)
	Scan(o mvcc.ScanOptions, fn func(*shard.KeyValue) bool) error
	Count(span shard.Span, rev int64) (int64, error)
	LeaseKeys(lease int64, limit int) ([][]byte, error)
	CompactRevision() int64
}

// Overlay is a store at one revision, overlaid with the mutations that the entry or request under evaluation
// has made so far.
type Overlay struct {
	Base Reader
	At   int64 // revision at which base is read
	Muts []mvcc.Mutation

	// The index over Muts is built on the first read after a mutation. A batch of blind puts never needs it.
	newest  map[string]int // key -> its newest mutation
	older   []int          // mutation -> the one before it of the same key, -1 if none
	indexed int
}

// Past implements View.
func (s *Overlay) Past(rev int64) View { return &Overlay{Base: s.Base, At: rev} }

func (s *Overlay) index() {
	if s.newest == nil {
		s.newest = make(map[string]int, len(s.Muts))
	}
	for ; s.indexed < len(s.Muts); s.indexed++ {
		key := string(s.Muts[s.indexed].Key)
		prev, ok := s.newest[key]
		if !ok {
			prev = -1
		}
		s.older = append(s.older, prev)
		s.newest[key] = s.indexed
	}
}

// Get implements View.
func (s *Overlay) Get(key []byte) (shard.KeyValue, bool, error) {
	if i := s.mutated(key); i >= 0 {
		return s.resolve(i)
	}
	return s.Base.Get(key, s.At)
}

// Head implements View.
func (s *Overlay) Head(key []byte) (shard.KeyValue, bool, error) {
	if i := s.mutated(key); i >= 0 {
		return s.resolve(i)
	}
	return s.Base.Head(key, s.At)
}

// mutated returns the key's newest mutation, -1 when there is none.
func (s *Overlay) mutated(key []byte) int {
	if len(s.Muts) == 0 {
		return -1
	}
	s.index()
	if i, ok := s.newest[string(key)]; ok {
		return i
	}
	return -1
}

// resolve renders the key of mutation i, its newest one, as it stands after that mutation.
func (s *Overlay) resolve(i int) (shard.KeyValue, bool, error) {
	m := &s.Muts[i]
	if m.Delete {
		return shard.KeyValue{}, false, nil
	}
	kv := shard.KeyValue{Key: m.Key, Value: m.Value, Lease: m.Lease, ModRevision: m.Rev.Main}
	j := i
	for ; j >= 0 && !s.Muts[j].Delete; j = s.older[j] {
		kv.Version++
		kv.CreateRevision = s.Muts[j].Rev.Main
	}
	if j >= 0 {
		return kv, true, nil
	}
	prev, ok, err := s.Base.Head(m.Key, s.At)
	if err != nil {
		return kv, false, err
	}
	if ok {
		kv.Version += prev.Version
		kv.CreateRevision = prev.CreateRevision
	}
	return kv, true, nil
}

// touched returns the mutated keys of the span in key order.
func (s *Overlay) touched(span shard.Span) [][]byte {
	if len(s.Muts) == 0 {
		return nil
	}
	s.index()
	var keys [][]byte
	for _, i := range s.newest {
		if span.Contains(s.Muts[i].Key) {
			keys = append(keys, s.Muts[i].Key)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

// Scan implements View.
func (s *Overlay) Scan(span shard.Span, keysOnly bool, fn func(*shard.KeyValue) bool) error {
	base := mvcc.ScanOptions{Span: span, Rev: s.At, KeysOnly: keysOnly}
	if span.Empty() {
		return nil
	}
	keys := s.touched(span)
	if len(keys) == 0 {
		return s.Base.Scan(base, fn)
	}
	return MergeScan(s.Base, base, keys, s.Get, nil, fn)
}

// Count implements View.
func (s *Overlay) Count(span shard.Span) (int64, error) {
	if span.Empty() {
		return 0, nil
	}
	if len(s.touched(span)) == 0 {
		return s.Base.Count(span, s.At)
	}
	var n int64
	err := s.Scan(span, true, func(*shard.KeyValue) bool { n++; return true })
	return n, err
}

// LeaseKeys returns, in key order, the keys whose current lease it is.
func (s *Overlay) LeaseKeys(lease int64) ([][]byte, error) {
	keys, err := s.Base.LeaseKeys(lease, 0)
	if err != nil || len(s.Muts) == 0 {
		return keys, err
	}
	s.index()
	for _, i := range s.newest {
		if m := &s.Muts[i]; !m.Delete && m.Lease == lease {
			keys = append(keys, m.Key)
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	keys = slices.CompactFunc(keys, bytes.Equal)
	held := keys[:0:0]
	for _, k := range keys {
		kv, ok, err := s.Head(k)
		if err != nil {
			return nil, err
		}
		if ok && kv.Lease == lease {
			held = append(held, k)
		}
	}
	return held, nil
}

// MergeScan scans the base merged, in key order, with keys that have changed above it: those are read with get.
// hidden reports a base key that was deleted as part of a span; nil hides nothing.
func MergeScan(base Reader, o mvcc.ScanOptions, keys [][]byte,
	get func([]byte) (shard.KeyValue, bool, error), hidden func([]byte) bool, fn func(*shard.KeyValue) bool,
) error {
	var inner error
	stop := false
	emitTo := func(limit []byte) bool {
		for len(keys) > 0 && (limit == nil || bytes.Compare(keys[0], limit) < 0) {
			kv, ok, err := get(keys[0])
			if err != nil {
				inner, stop = err, true
				return false
			}
			keys = keys[1:]
			if !ok {
				continue
			}
			if o.KeysOnly {
				kv.Value = nil
			}
			if !fn(&kv) {
				stop = true
				return false
			}
		}
		return true
	}
	touched := keys
	err := base.Scan(o, func(kv *shard.KeyValue) bool {
		if !emitTo(kv.Key) {
			return false
		}
		i := sort.Search(len(touched), func(i int) bool { return bytes.Compare(touched[i], kv.Key) >= 0 })
		if i < len(touched) && bytes.Equal(touched[i], kv.Key) {
			return true
		}
		if hidden != nil && hidden(kv.Key) {
			return true
		}
		if !fn(kv) {
			stop = true
		}
		return !stop
	})
	if err == nil && !stop {
		emitTo(nil)
	}
	if inner != nil {
		return inner
	}
	return err
}
