package mvcc

import (
	"bytes"
	"cmp"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// ScanOptions say what Scan walks over.
type ScanOptions struct {
	Span     shard.Span
	Rev      int64 // at or above the compaction revision; math.MaxInt64: the newest
	KeysOnly bool  // leave Value empty
	Reverse  bool  // descending keys
	InPlace  bool  // what fn gets is valid until it returns; fn must not block, nor use the store
}

// Scan calls fn with the span's keys at one revision, in key order, until fn returns false. What
// fn gets stays valid after its return, unless InPlace is set: that saves copies. Scan works in
// steps, so it never blocks a writer for long; when the revision is compacted away meanwhile it
// ends with a *shard.CompactedError. A span that is not served any more is refused with a *shard.WrongRangeError, which
// names no descriptor, and so does a Scan end whose keys are cut off and removed meanwhile.
func (s *Store) Scan(o ScanOptions, fn func(*shard.KeyValue) bool) error {
	if err := s.mem.extent.servesSpan(o.Span); err != nil {
		return err
	}
	sc := newScanner(s, o)
	if o.InPlace {
		sc.fn = fn
	}
	for !sc.done {
		if err := sc.step(); err != nil {
			return err
		}
		for _, kv := range sc.out {
			if !fn(kv) {
				return nil
			}
		}
	}
	return nil
}

// Count is the number of keys in span at rev. It is refused as Scan is.
func (s *Store) Count(span shard.Span, rev int64) (int64, error) {
	if err := s.mem.extent.servesSpan(span); err != nil {
		return 0, err
	}
	sc := newScanner(s, ScanOptions{Span: span, Rev: rev})
	sc.countOnly, sc.limit = true, s.opt.steps.visits
	for !sc.done {
		if err := sc.step(); err != nil {
			return 0, err
		}
	}
	return sc.count, nil
}

// scanner does one Scan or Count. Each step takes a stretch of the index, then reads the base
// in a transaction opened after, no further than that stretch, and merges the two.
type scanner struct {
	s         *Store
	o         ScanOptions
	countOnly bool
	lo, hi    []byte // user keys still to do: [lo, hi)
	unbounded bool   // hi has no value
	done      bool
	limit     int // of results per step
	count     int64

	fn     func(*shard.KeyValue) bool // in place; nil: results are gathered in out
	halted bool                       // it has returned false
	handed int                        // to it, in this step
	cur    shard.KeyValue             // what it gets

	hits []*version // this step's stretch of the index
	out  []*shard.KeyValue
	slab []shard.KeyValue
	mem  []byte // bytes of this step's results
	size int
}

func newScanner(s *Store, o ScanOptions) *scanner {
	o.Rev = s.mem.fixed(o.Rev)
	return &scanner{
		s: s, o: o, lo: o.Span.Start, hi: o.Span.End, unbounded: o.Span.Unbounded(),
		done: o.Span.Empty(), limit: s.opt.steps.first,
	}
}

func (sc *scanner) step() error {
	sc.out, sc.slab, sc.mem, sc.size, sc.handed = nil, nil, nil, 0, 0
	bound, bounded := sc.takeIndex()
	err := sc.s.file.view(func(tx *bolt.Tx) error {
		if err := cmp.Or(sc.s.mem.extent.whole(sc.o.Span), sc.s.mem.compacted(sc.o.Rev)); err != nil {
			return err
		}
		stop, err := sc.readBase(tx, bound, bounded)
		if stop != nil {
			bound, bounded = stop, true
		}
		return err
	})
	if err != nil {
		return err
	}
	sc.emitHits(func(key []byte) bool { return !bounded || sc.before(key, bound) })
	sc.done = !bounded || sc.halted
	if sc.o.Reverse {
		sc.hi, sc.unbounded = bound, false
	} else {
		sc.lo = bound
	}
	sc.limit = min(2*sc.limit, max(sc.s.opt.steps.results, sc.limit))
	return nil
}

// before reports whether key comes before the bound of a step: forward the bound is the first
// key of the next step, backward it is the last of this one.
func (sc *scanner) before(key, bound []byte) bool {
	if sc.o.Reverse {
		return bytes.Compare(key, bound) >= 0
	}
	return bytes.Compare(key, bound) < 0
}

// takeIndex collects the versions visible in a stretch of the index. bounded says that the
// stretch ends at bound, because it was long enough.
func (sc *scanner) takeIndex() (bound []byte, bounded bool) {
	sc.hits = sc.hits[:0]
	var last []byte
	visits, lim := 0, sc.s.opt.steps.visits
	visit := func(it indexItem) bool {
		if sc.o.Reverse && !sc.unbounded && bytes.Equal(it.key, sc.hi) {
			return true
		}
		if sc.o.Reverse && bytes.Compare(it.key, sc.lo) < 0 {
			return false
		}
		if v := it.e.at(sc.o.Rev); v != nil {
			sc.hits = append(sc.hits, v)
		}
		last = it.key
		visits++
		return visits < lim && len(sc.hits) < sc.limit
	}
	lo, hi := indexItem{key: sc.lo}, indexItem{key: sc.hi}
	m := &sc.s.mem
	m.mu.RLock()
	switch {
	case sc.o.Reverse && sc.unbounded:
		m.mu.index.tree.Descend(visit)
	case sc.o.Reverse:
		m.mu.index.tree.DescendLessOrEqual(hi, visit)
	case sc.unbounded:
		m.mu.index.tree.AscendGreaterOrEqual(lo, visit)
	default:
		m.mu.index.tree.AscendRange(lo, hi, visit)
	}
	m.mu.RUnlock()
	if visits < lim && len(sc.hits) < sc.limit {
		return nil, false
	}
	if sc.o.Reverse {
		return last, true
	}
	return append(bytes.Clone(last), 0), true
}

// readBase merges the base up to the bound of the step with the hits. It returns where it
// stopped earlier than that, nil when it did not.
func (sc *scanner) readBase(tx *bolt.Tx, bound []byte, bounded bool) (stop []byte, err error) {
	lo, hi := sc.lo, sc.hi
	unbounded := sc.unbounded
	if bounded && sc.o.Reverse {
		lo = bound
	} else if bounded {
		hi, unbounded = bound, false
	}
	var escHi []byte
	if !unbounded {
		escHi = appendEscaped(nil, hi)
	}
	w := newBaseWalk(&sc.s.file, tx, sc.o.Rev, appendEscaped(nil, lo), escHi, sc.o.Reverse)
	lim := &sc.s.opt.steps
	var key []byte
	for {
		h, ok, err := w.next()
		if err != nil || !ok {
			return nil, err
		}
		if key, err = unescape(h.esc); err != nil {
			return nil, sc.s.file.corrupt(bucketBase, h.boltKey, err)
		}
		sc.emitHits(func(k []byte) bool { return sc.before(k, key) && !bytes.Equal(k, key) })
		if len(sc.hits) > 0 && bytes.Equal(sc.hits[0].kv.Key, key) {
			sc.emit(sc.hits[0])
			sc.hits = sc.hits[1:]
		} else if err := sc.emitBase(h); err != nil {
			return nil, err
		}
		if sc.halted || w.visits >= lim.visits || sc.size >= lim.bytes || len(sc.out)+sc.handed >= sc.limit && !sc.countOnly {
			return sc.stopAfter(key), nil
		}
	}
}

// stopAfter is the bound of a step whose last key is key.
func (sc *scanner) stopAfter(key []byte) []byte {
	if sc.o.Reverse {
		return bytes.Clone(key)
	}
	return append(bytes.Clone(key), 0)
}

// emitHits hands out the versions of the index that come next, while they are within.
func (sc *scanner) emitHits(within func(key []byte) bool) {
	for len(sc.hits) > 0 && !sc.halted && within(sc.hits[0].kv.Key) {
		sc.emit(sc.hits[0])
		sc.hits = sc.hits[1:]
	}
}

func (sc *scanner) emit(v *version) {
	switch {
	case v.del:
	case sc.countOnly:
		sc.count++
	case sc.fn != nil:
		sc.hand(v.kv)
	case sc.o.KeysOnly:
		kv := sc.newKV(v.kv)
		kv.Value = nil
	default:
		sc.out = append(sc.out, &v.kv)
	}
}

// hand gives a result to fn in place.
func (sc *scanner) hand(kv shard.KeyValue) {
	if sc.halted {
		return
	}
	if sc.cur = kv; sc.o.KeysOnly {
		sc.cur.Value = nil
	}
	sc.handed++
	sc.size += len(sc.cur.Key) + len(sc.cur.Value)
	sc.halted = !sc.fn(&sc.cur)
}

// slabLen is how many results share an allocation.
const slabLen = 32

func (sc *scanner) newKV(kv shard.KeyValue) *shard.KeyValue {
	if len(sc.slab) == cap(sc.slab) {
		sc.slab = make([]shard.KeyValue, 0, slabLen)
	}
	sc.slab = append(sc.slab, kv)
	p := &sc.slab[len(sc.slab)-1]
	sc.out = append(sc.out, p)
	return p
}

func (sc *scanner) emitBase(h baseHit) error {
	if sc.countOnly {
		del, err := isTombstone(h.rec)
		if err != nil {
			return sc.s.file.corrupt(bucketBase, h.boltKey, err)
		}
		if !del {
			sc.count++
		}
		return nil
	}
	v, err := decodeBaseRecord(h.boltKey, h.esc, h.rev, h.rec)
	if err != nil {
		return sc.s.file.corrupt(bucketBase, h.boltKey, err)
	}
	if v.del {
		return nil
	}
	if sc.fn != nil {
		sc.hand(v.kv)
		return nil
	}
	kv := sc.newKV(v.kv)
	kv.Key = sc.copy(kv.Key)
	if sc.o.KeysOnly {
		kv.Value = nil
	} else {
		kv.Value = sc.copy(kv.Value)
	}
	return nil
}

// copy takes b out of bbolt's memory, many pieces to an allocation.
func (sc *scanner) copy(b []byte) []byte {
	const chunk = 16 << 10
	if len(b) > cap(sc.mem)-len(sc.mem) {
		sc.mem = make([]byte, 0, max(chunk, len(b)))
	}
	n := len(sc.mem)
	sc.mem = append(sc.mem, b...)
	sc.size += len(b)
	return sc.mem[n:len(sc.mem):len(sc.mem)]
}
