package mvcc

import (
	"bytes"
	"cmp"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// steps bound what a reader or Maintain does under one lock or in one transaction.
type steps struct {
	visits  int // entries walked over
	results int // entries handed out
	first   int // of a scan's first step, which then doubles up to results
	bytes   int // copied, unless one record alone is larger
	frame   int // bytes of a snapshot's frame
	settle  int // bytes of a copy's log that are worth settling where time is short; a quarter of them where it is not
}

func defaultSteps() steps {
	return steps{visits: 4096, results: 1024, first: 64, bytes: 1 << 20, frame: 128 << 10, settle: 16 << 20}
}

// skipNexts is how many old versions are walked over before it is worth a seek.
const skipNexts = 4

// Get returns the key's value at rev, which is at or above the compaction revision;
// math.MaxInt64 means the newest. A key that is not served any more is refused with a
// *shard.WrongRangeError, which names no descriptor.
func (s *Store) Get(key []byte, rev int64) (shard.KeyValue, bool, error) {
	if err := s.mem.extent.serves(key); err != nil {
		return shard.KeyValue{}, false, err
	}
	v := s.mem.unsettled(key, rev)
	if v != nil {
		return v.found(s.mem.compacted(rev))
	}
	err := s.file.view(func(tx *bolt.Tx) (err error) {
		// Whatever this transaction lacks was deleted for a compaction or a cut that shows here.
		if err := cmp.Or(s.mem.extent.wholeKey(key), s.mem.compacted(rev)); err != nil {
			return err
		}
		v, err = newBaseCursor(&s.file, tx).seekAtMost(key, newestAt(rev))
		return err
	})
	return v.found(err)
}

// Head is Get without the value, for whoever compares: nothing is copied out of the file or kept in the
// cache, since what is compared is mostly written next. The key in the result is key itself.
func (s *Store) Head(key []byte, rev int64) (kv shard.KeyValue, ok bool, err error) {
	if err := s.mem.extent.serves(key); err != nil {
		return kv, false, err
	}
	if v := s.mem.unsettled(key, rev); v != nil {
		kv, ok, err = v.found(s.mem.compacted(rev))
	} else {
		err = s.file.view(func(tx *bolt.Tx) error {
			if err := cmp.Or(s.mem.extent.wholeKey(key), s.mem.compacted(rev)); err != nil {
				return err
			}
			v, err := newBaseCursor(&s.file, tx).headAtMost(key, newestAt(rev))
			kv, ok = v.kv, err == nil && v.kv.ModRevision != 0 && !v.del
			return err
		})
	}
	if err != nil || !ok {
		return shard.KeyValue{}, false, err
	}
	kv.Key, kv.Value = key, nil
	return kv, true, nil
}

// InMemory reports whether Get and Head of the key at rev are answered from memory. Where it says no they
// may be, from the cache or from pages that the system holds.
func (s *Store) InMemory(key []byte, rev int64) bool { return s.mem.unsettled(key, rev) != nil }

func (v *version) found(err error) (shard.KeyValue, bool, error) {
	if err != nil || v == nil || v.del {
		return shard.KeyValue{}, false, err
	}
	return v.kv, true, nil
}

// baseCursor walks over the base within one transaction.
type baseCursor struct {
	f    *file
	c    *cursor
	buf  []byte
	fill bool // what was read goes into the cache
}

func newBaseCursor(f *file, tx *bolt.Tx) *baseCursor {
	return &baseCursor{f: f, c: f.cursor(tx, bucketBase), buf: make([]byte, 0, 256), fill: true}
}

// seekAtMost returns the key's newest version in the base at or below r, nil when there is
// none. The result outlives the transaction.
func (b *baseCursor) seekAtMost(key []byte, r Rev) (*version, error) {
	k, rec := b.find(key, r)
	if k == nil {
		return nil, nil
	}
	return b.keep(k, rec)
}

// headAtMost is seekAtMost without key and value; the version at revision 0 stands for none.
func (b *baseCursor) headAtMost(key []byte, r Rev) (version, error) {
	k, rec := b.find(key, r)
	if k == nil {
		return version{}, nil
	}
	v, err := decodeBaseEntry(k, rec)
	if err != nil {
		return version{}, b.f.corrupt(bucketBase, k, err)
	}
	v.kv.Key, v.kv.Value = nil, nil // parts of the file
	return v, nil
}

// find returns the entry of the key's newest version in the base at or below r, nil when there is none.
func (b *baseCursor) find(key []byte, r Rev) (k, rec []byte) {
	b.buf = appendEscaped(b.buf[:0], key)
	n := len(b.buf)
	b.buf = appendDescending(b.buf, r)
	k, rec = b.c.Seek(b.buf)
	if len(k) != n+revLen || !bytes.Equal(k[:n], b.buf[:n]) {
		return nil, nil
	}
	return k, rec
}

// keep decodes an entry of the base into memory of its own, or finds it in the cache.
func (b *baseCursor) keep(k, rec []byte) (*version, error) {
	esc, r, err := splitBaseKey(k)
	if err != nil {
		return nil, b.f.corrupt(bucketBase, k, err)
	}
	if v := b.f.cache.get(k, esc, r); v != nil {
		return v, nil
	}
	v, err := decodeBaseRecord(k, esc, r, rec)
	if err != nil {
		return nil, b.f.corrupt(bucketBase, k, err)
	}
	own := v.clone()
	if b.fill {
		b.f.cache.put(k, own)
	}
	return own, nil
}

// baseHit is the visible version of one key, in bbolt's memory.
type baseHit struct {
	boltKey, esc []byte
	rev          Rev
	rec          []byte
}

// baseWalk yields the base's newest version at or below rev of each key in [lo, hi), both
// escaped keys (hi nil: no bound), in key order or against it. Tombstones are yielded too.
type baseWalk struct {
	baseCursor
	rev     int64
	lo, hi  []byte
	visits  int // entries walked over so far
	k, rec  []byte
	reverse bool
}

func newBaseWalk(f *file, tx *bolt.Tx, rev int64, lo, hi []byte, reverse bool) *baseWalk {
	w := &baseWalk{baseCursor: *newBaseCursor(f, tx), rev: rev, lo: lo, hi: hi, reverse: reverse}
	switch {
	case !reverse:
		w.k, w.rec = w.c.Seek(lo)
	case hi == nil:
		w.k, w.rec = w.c.Last()
	default:
		w.k, w.rec = w.seekBefore(hi)
	}
	return w
}

// seekBefore goes to the last entry below k.
func (w *baseWalk) seekBefore(k []byte) ([]byte, []byte) {
	if at, _ := w.c.Seek(k); at == nil {
		return w.c.Last()
	}
	return w.c.Prev()
}

// inside reports whether the cursor stands on an entry of the walk.
func (w *baseWalk) inside() bool {
	return w.k != nil && (w.hi == nil || bytes.Compare(w.k, w.hi) < 0) && bytes.Compare(w.k, w.lo) >= 0
}

// next returns the next key's hit; ok is false at the end.
func (w *baseWalk) next() (h baseHit, ok bool, err error) {
	for w.inside() {
		esc, r, err := splitBaseKey(w.k)
		if err != nil {
			return baseHit{}, false, w.f.corrupt(bucketBase, w.k, err)
		}
		if w.reverse {
			h, ok = w.takeBackward(esc, r)
		} else {
			h, ok = w.takeForward(esc, r)
		}
		if ok {
			return h, true, nil
		}
	}
	return baseHit{}, false, nil
}

// takeForward stands on the key's newest version, or on a later one that is still above rev.
func (w *baseWalk) takeForward(esc []byte, r Rev) (baseHit, bool) {
	for n := 0; r.Main > w.rev; n++ {
		if n < skipNexts {
			w.k, w.rec = w.c.Next()
		} else {
			w.k, w.rec = w.seek(esc, newestAt(w.rev))
		}
		w.visits++
		if !sameKey(w.k, esc) {
			return baseHit{}, false
		}
		_, r, _ = splitBaseKey(w.k)
	}
	h := baseHit{w.k, esc, r, w.rec}
	for n := 0; sameKey(w.k, esc); n++ {
		if n < skipNexts {
			w.k, w.rec = w.c.Next()
		} else {
			w.k, w.rec = w.c.Seek(w.afterKey(esc))
		}
		w.visits++
	}
	return h, true
}

// takeBackward stands on the key's oldest version.
func (w *baseWalk) takeBackward(esc []byte, r Rev) (h baseHit, ok bool) {
	for n := 0; sameKey(w.k, esc); n++ {
		if _, r, _ = splitBaseKey(w.k); r.Main > w.rev {
			break
		}
		h, ok = baseHit{w.k, esc, r, w.rec}, true
		if n >= skipNexts { // many versions: go to the one that counts
			w.k, w.rec = w.seek(esc, newestAt(w.rev))
			_, r, _ = splitBaseKey(w.k)
			h = baseHit{w.k, esc, r, w.rec}
			break
		}
		w.k, w.rec = w.c.Prev()
		w.visits++
	}
	if sameKey(w.k, esc) {
		w.k, w.rec = w.seekBefore(append(w.buf[:0], esc...))
		w.visits++
	}
	return h, ok
}

func (w *baseWalk) seek(esc []byte, r Rev) ([]byte, []byte) {
	w.buf = appendDescending(append(w.buf[:0], esc...), r)
	return w.c.Seek(w.buf)
}

// afterKey is above all versions of the key and below all other keys.
func (w *baseWalk) afterKey(esc []byte) []byte {
	w.buf = append(w.buf[:0], esc...)
	w.buf[len(w.buf)-1] = escapeAfterEnd
	return w.buf
}

// sameKey reports whether a base key is a version of the escaped user key.
func sameKey(boltKey, esc []byte) bool {
	return len(boltKey) == len(esc)+revLen && bytes.HasPrefix(boltKey, esc)
}
