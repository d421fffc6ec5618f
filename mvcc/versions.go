package mvcc

import (
	"bytes"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// versionWalk yields every version of a span at a pinned moment in the base's order: keys
// ascending, of each key the newest first. It works in steps, like a scan.
type versionWalk struct {
	s    *Store
	p    *pin
	span shard.Span
	seen bool // there was a version: key and rev are those of the last one
	key  []byte
	rev  Rev

	// inView, when set, gets the versions of a step while the transaction is open, and only there are they valid: that
	// saves copies. It must not block.
	inView func(vers []*version) error
	slab   []version // of what inView gets from the base
}

// each calls fn with the versions, which fn may keep. No lock or transaction is held meanwhile.
func (w *versionWalk) each(fn func(v *version) error) error {
	for done := w.span.Empty(); !done; {
		vers, end, err := w.step()
		if err != nil {
			return err
		}
		for _, v := range vers {
			if !w.p.sees(v) {
				continue
			}
			if err := fn(v); err != nil {
				return err
			}
		}
		done = end
	}
	return nil
}

// step returns the next versions, unless inView gets them; end says that they are the last.
func (w *versionWalk) step() (out []*version, end bool, err error) {
	mem, memEnd := w.takeIndex()
	err = w.s.file.view(func(tx *bolt.Tx) error {
		out, end, err = w.mergeBase(tx, mem, memEnd)
		if n := len(out); n > 0 {
			last := out[n-1]
			w.seen, w.key, w.rev = true, append(w.key[:0], last.kv.Key...), last.rev()
		}
		if err != nil || w.inView == nil {
			return err
		}
		err, out = w.inView(out), nil
		return err
	})
	return out, end, err
}

// take makes a version out of bbolt's memory one that is valid for as long as it is to be.
func (w *versionWalk) take(v *version) *version {
	if w.inView == nil {
		return v.clone()
	}
	w.slab = append(w.slab, *v)
	return &w.slab[len(w.slab)-1]
}

// takeIndex collects the index's next versions; end says that these are all.
func (w *versionWalk) takeIndex() (mem []*version, end bool) {
	from := w.span.Start
	if w.seen {
		from = w.key
	}
	end = true
	w.s.mem.mu.RLock()
	defer w.s.mem.mu.RUnlock()
	w.s.mem.mu.index.tree.AscendGreaterOrEqual(indexItem{key: from}, func(x indexItem) bool {
		if !w.span.Contains(x.key) {
			return false
		}
		n := len(x.e.vers)
		if w.seen && bytes.Equal(x.key, w.key) {
			n = x.e.countBelow(w.rev)
		}
		for i := n - 1; i >= 0; i-- {
			if len(mem) >= w.s.opt.steps.results {
				end = false
				return false
			}
			mem = append(mem, x.e.vers[i])
		}
		return true
	})
	return mem, end
}

// mergeBase merges mem with the base, no further than mem reaches unless mem is all there is.
func (w *versionWalk) mergeBase(tx *bolt.Tx, mem []*version, memEnd bool) (out []*version, end bool, err error) {
	c := w.s.file.cursor(tx, bucketBase)
	size, lim := 0, &w.s.opt.steps
	if w.inView != nil {
		w.slab = slices.Grow(w.slab[:0], 2*lim.results) // as many as there are at most: none is moved
	}
	k, rec := c.Seek(w.startKey())
	for ; k != nil; k, rec = c.Next() {
		v, err := decodeBaseEntry(k, rec)
		if err != nil {
			return nil, false, w.s.file.corrupt(bucketBase, k, err)
		}
		if !w.span.Contains(v.kv.Key) {
			break
		}
		for len(mem) > 0 && baseOrder(mem[0], &v) < 0 {
			out, mem = append(out, mem[0]), mem[1:]
		}
		if len(mem) == 0 && !memEnd {
			return out, false, nil
		}
		if len(mem) > 0 && baseOrder(mem[0], &v) == 0 {
			mem = mem[1:]
		}
		out = append(out, w.take(&v))
		if size += len(v.kv.Key) + len(v.kv.Value); size >= lim.bytes || len(out) >= 2*lim.results {
			return out, false, nil
		}
	}
	return append(out, mem...), memEnd, nil
}

// startKey is the base key at or before the next version.
func (w *versionWalk) startKey() []byte {
	if !w.seen {
		return appendEscaped(nil, w.span.Start)
	}
	return append(appendBaseKey(nil, w.key, w.rev), 0)
}

// baseOrder compares two versions as the base orders them.
func baseOrder(a, b *version) int {
	if c := bytes.Compare(a.kv.Key, b.kv.Key); c != 0 {
		return c
	}
	return compareRev(b.rev(), a.rev())
}

// survivors tells, for versions in the base's order, which are there once everything is
// compacted at one revision: those above it, and of each key the newest at or below it unless
// it is a tombstone.
type survivors struct {
	compact int64
	key     []byte
	settled bool // key's newest version at or below compact was seen
}

func (f *survivors) keeps(v *version) bool {
	if !bytes.Equal(f.key, v.kv.Key) {
		f.key, f.settled = append(f.key[:0], v.kv.Key...), false // v may be valid in this step only
	}
	switch {
	case v.kv.ModRevision > f.compact:
		return true
	case f.settled:
		return false
	default:
		f.settled = true
		return !v.del
	}
}
