package mvcc

import (
	"bytes"
	"sort"
	"unsafe"

	"github.com/google/btree"
)

const (
	indexDegree     = 32
	versionOverhead = int(unsafe.Sizeof(version{})) + 8
	entryOverhead   = int(unsafe.Sizeof(entry{})+unsafe.Sizeof(indexItem{})) + 16 + pointOverhead
	pointOverhead   = (16 + 8) * 8 / 5 // of a map that is between seven eighths and seven sixteenths full
)

// entry holds the versions of one key that are in memory, oldest first. It is guarded by the
// memtable's mu; the versions themselves are immutable.
type entry struct {
	key  []byte // a copy: what it came in may be large, and must not stay for its sake
	vers []*version
	dead bool        // left the tree: a pointer kept from before must not be used
	one  [1]*version // vers of a key that has been written once
}

type indexItem struct {
	key []byte
	e   *entry
}

func indexLess(a, b indexItem) bool { return bytes.Compare(a.key, b.key) < 0 }

// index is the ordered set of the versions above the settle revision. It is not safe for
// concurrent use: the memtable's mu guards it.
type index struct {
	tree *btree.BTreeG[indexItem]
	// points finds the entry of a single key, which every write does on every replica: a descent of
	// the tree costs a cache miss for nearly every key that it compares with.
	points map[string]*entry
	bytes  int
}

// newIndex returns an empty one with room for so many keys.
func newIndex(keys int) *index {
	return &index{tree: btree.NewG(indexDegree, indexLess), points: make(map[string]*entry, keys)}
}

// get returns the entry of key, nil when there is none.
func (x *index) get(key []byte) *entry { return x.points[string(key)] }

// add inserts v, above all other versions of its key in memory, into its entry.
func (x *index) add(e *entry, v *version) {
	v.kv.Key = e.key // one copy of the key per entry
	e.vers = append(e.vers, v)
	x.bytes += v.bytes()
}

// enter returns the entry of key, made when there is none.
func (x *index) enter(key []byte) *entry {
	if e := x.get(key); e != nil {
		return e
	}
	e := &entry{key: bytes.Clone(key)}
	e.vers = e.one[:0]
	x.tree.ReplaceOrInsert(indexItem{key: e.key, e: e})
	x.points[unsafe.String(unsafe.SliceData(e.key), len(key))] = e
	x.bytes += entryOverhead + len(key)
	return e
}

// leave takes an entry without versions out again.
func (x *index) leave(key []byte, e *entry) {
	if len(e.vers) == 0 && !e.dead {
		e.dead = true
		x.tree.Delete(indexItem{key: key})
		delete(x.points, string(key))
		if len(x.points) == 0 {
			x.points = make(map[string]*entry) // a map never gives back what it has grown to
		}
		x.bytes -= entryOverhead + len(key)
	}
}

// trim drops the n oldest versions of an entry, which have so many bytes.
func (x *index) trim(e *entry, n, bytes int) {
	x.bytes -= bytes
	if n < len(e.vers) {
		e.vers = append(make([]*version, 0, len(e.vers)-n), e.vers[n:]...)
		e.one[0] = nil // a key that is always written keeps its entry
		return
	}
	e.vers = nil
	x.leave(e.key, e)
}

// newest returns the last version, nil when there is none.
func (e *entry) newest() *version {
	if e == nil || len(e.vers) == 0 {
		return nil
	}
	return e.vers[len(e.vers)-1]
}

// countBelow is the number of versions strictly below r.
func (e *entry) countBelow(r Rev) int {
	n := len(e.vers)
	if n == 0 || e.vers[n-1].rev().Less(r) {
		return n
	}
	return sort.Search(n, func(i int) bool { return !e.vers[i].rev().Less(r) })
}

// below returns the newest version strictly below r, nil when there is none.
func (e *entry) below(r Rev) *version {
	if e == nil {
		return nil
	}
	if n := e.countBelow(r); n > 0 {
		return e.vers[n-1]
	}
	return nil
}

// at returns the newest version at or below revision main, nil when there is none.
func (e *entry) at(main int64) *version {
	if v := e.newest(); v == nil || v.kv.ModRevision <= main {
		return v
	}
	return e.below(Rev{main + 1, 0})
}
