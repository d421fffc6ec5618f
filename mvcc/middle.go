package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

const (
	// middleBranches and middleLeaves are how many pages of a level of the base Middle looks at: 256 branch pages
	// are read, and of 1024 leaves only how full they are.
	middleBranches = 256
	middleLeaves   = 1024
	// middlePoints is into about how many pieces of equal size Middle divides what is in memory.
	middlePoints = 512
	// middleVisits is how many entries of the index it walks over at a time.
	middleVisits = 512
	// middleVersions is how many versions of a key in memory are measured; the others are held to be like them.
	middleVersions = 64
	// middleShareMin is the share of the bytes that has to lie on either side of a cut, for it to be worth it.
	middleShareMin = 0.1
	// branchBytesMax bounds one branch page with the pages that it covers: hundreds of the longest keys.
	branchBytesMax = 8 << 20
)

// mass is bytes at a key and behind it, up to the key of the next mass.
type mass struct {
	key   []byte
	bytes float64
}

// Middle returns the key with nearest to half of the bytes before it, of those in the base and those that have not been
// settled; nil where no key has a tenth of them on either side, as where nearly all of it is one key's. It is within the
// span that is served, and not its first key. It samples, and reads a few MiB at most, whatever the size of the file: where pages
// are alike it is off by about a percent, and by the share of one page where they are few. The log is not looked at:
// what it has is in the base or in memory, too. Whoever calls it holds no lock; it holds none for long.
func (s *Store) Middle() ([]byte, error) {
	span := s.Span()
	var mem []mass
	if !mutate.On(mutate.MiddleNoMemory) {
		mem = s.mem.masses(span)
	}
	base, err := s.file.masses(span)
	if err != nil {
		return nil, err
	}
	all := append(mem, base...)
	slices.SortStableFunc(all, func(a, b mass) int { return bytes.Compare(a.key, b.key) })
	return halve(all, span.Start), nil
}

// halve returns the key of a mass, not start, with nearest to half of all before it; nil where one side has too little.
func halve(all []mass, start []byte) []byte {
	total := 0.0
	for _, m := range all {
		total += m.bytes
	}
	var best []byte
	nearest, left := total*(0.5-middleShareMin), 0.0
	before := start
	for _, m := range all {
		if off := math.Abs(left - total/2); left > 0 && off <= nearest && !bytes.Equal(m.key, before) {
			if key := border(before, m.key); key != nil {
				best, nearest = key, off
			}
		}
		left += m.bytes
		before = m.key
	}
	return bytes.Clone(best)
}

// border is key, or where that is too long for a border a shorter one that is above the key before it; nil: there is none.
func border(before, key []byte) []byte {
	if len(key) <= shard.BorderBytesMax {
		return key
	}
	n := 0
	for n < len(before) && before[n] == key[n] { // before is less, and so no longer where they agree
		n++
	}
	if n+1 > shard.BorderBytesMax {
		return nil
	}
	return key[:n+1]
}

// masses are those of what is in memory, in key order.
func (m *memtable) masses(span shard.Span) (out []mass) {
	from := span.Start
	for done := false; !done; {
		done = true
		visits := 0
		m.mu.RLock()
		piece := float64(m.mu.index.bytes) / middlePoints
		m.mu.index.tree.AscendGreaterOrEqual(indexItem{key: from}, func(it indexItem) bool {
			if !span.Contains(it.key) {
				return false
			}
			if visits++; visits > middleVisits {
				from, done = it.key, false
				return false
			}
			if n := len(out); n == 0 || out[n-1].bytes >= piece {
				out = append(out, mass{key: it.key})
			}
			out[len(out)-1].bytes += it.e.fileBytes()
			return true
		})
		m.mu.RUnlock()
	}
	return out
}

// fileBytes is about what the versions of a key take in the file.
func (e *entry) fileBytes() float64 {
	some := e.vers[max(0, len(e.vers)-middleVersions):]
	sum := 0
	for _, v := range some {
		sum += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
	}
	return float64(sum) * float64(len(e.vers)) / float64(max(len(some), 1))
}

// errAnotherFile says that a file has taken the place of the one that was to be looked at.
var errAnotherFile = errors.New("the file has been replaced")

// masses are those of the base, in key order.
func (f *file) masses(span shard.Span) (out []mass, err error) {
	for {
		if out, err = f.massesIn(f.db.Load(), span); !errors.Is(err, errAnotherFile) {
			return out, err
		}
	}
}

func (f *file) massesIn(db *boltFile, span shard.Span) (out []mass, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		if tx.DB() != db.DB {
			return errAnotherFile
		}
		root := uint64(tx.Bucket(bucketBase).Root())
		if root == 0 {
			return nil // so small that it has no page
		}
		// The pages that this transaction sees are not written to while it is open.
		w := treeWalk{in: db.in, pageSize: db.Info().PageSize}
		leaves, err := w.leaves(root)
		if err != nil {
			return fmt.Errorf("mvcc: %s: base: %w", f.path, err)
		}
		out, err = massesOf(leaves, span)
		return err
	})
	return out, err
}

// massesOf turns leaves of the base into masses of user keys.
func massesOf(leaves []subtree, span shard.Span) (out []mass, err error) {
	for _, l := range leaves {
		key := span.Start // of the leftmost one, whose place in its parent may be from before a cut
		if l.first != nil {
			esc, _, err := splitBaseKey(l.first)
			if err == nil {
				key, err = unescape(esc)
			}
			if err != nil {
				return nil, err
			}
		}
		if bytes.Compare(key, span.Start) < 0 {
			key = span.Start
		}
		if span.Contains(key) {
			out = append(out, mass{key, l.weight})
		}
	}
	return out, nil
}

// subtree is a page of a tree, with what is below it, and stands for some of its neighbours.
type subtree struct {
	page   uint64
	first  []byte // keys are not below it; nil: no bound
	weight float64
}

// treeWalk looks at the pages of a tree, of large levels at some in equal distances.
type treeWalk struct {
	in       io.ReaderAt
	pageSize int
}

// leaves are the leaves below a page, with their bytes as weights.
func (w *treeWalk) leaves(root uint64) ([]subtree, error) {
	level := []subtree{{page: root, weight: 1}}
	for range treeDepthMax {
		head, err := w.head(level[0].page)
		if err != nil {
			return nil, err
		}
		if u16(head[8:]) == flagLeaf {
			level = thin(level, middleLeaves)
			return level, w.weigh(level)
		}
		var next []subtree
		for _, t := range thin(level, middleBranches) {
			if next, err = w.below(next, t); err != nil {
				return nil, err
			}
		}
		level = next
	}
	return nil, fmt.Errorf("page %d: a tree is too deep", root)
}

// thin keeps at most n subtrees, each of which stands for as many neighbours.
func thin(all []subtree, n int) []subtree {
	k := (len(all) + n - 1) / n
	if k <= 1 {
		return all
	}
	var out []subtree
	for group := range slices.Chunk(all, k) {
		t := group[len(group)/2]
		t.weight = 0
		for _, g := range group {
			t.weight += g.weight
		}
		out = append(out, t)
	}
	return out
}

// below appends what a branch page leads to.
func (w *treeWalk) below(out []subtree, t subtree) ([]subtree, error) {
	head, err := w.head(t.page)
	if err != nil {
		return nil, err
	}
	size := (int64(u32(head[12:])) + 1) * int64(w.pageSize)
	if u16(head[8:]) != flagBranch || size > branchBytesMax {
		return nil, fmt.Errorf("page %d is no branch page", t.page)
	}
	p := make([]byte, size)
	if _, err := w.in.ReadAt(p, int64(t.page)*int64(w.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", t.page, err)
	}
	below, err := children(p, treeBounds{})
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", t.page, err)
	}
	for i, ch := range below {
		first := ch.bounds.lo
		if i == 0 {
			first = t.first // its own place may be from when there were smaller keys
		}
		out = append(out, subtree{page: ch.page, first: first, weight: t.weight})
	}
	return out, nil
}

// weigh multiplies the weights of leaves by the bytes that are used in them.
func (w *treeWalk) weigh(leaves []subtree) error {
	for i := range leaves {
		used, err := w.used(leaves[i].page)
		if err != nil {
			return err
		}
		if mutate.On(mutate.MiddleByPages) {
			used = 1
		}
		leaves[i].weight *= used
	}
	return nil
}

// used is how many bytes of a leaf are used: up to the end of its last element.
func (w *treeWalk) used(id uint64) (float64, error) {
	head, err := w.head(id)
	if err != nil {
		return 0, err
	}
	n := u16(head[10:])
	if u16(head[8:]) != flagLeaf || n == 0 {
		return 0, fmt.Errorf("page %d is no leaf with records", id)
	}
	at := pageHead + (n-1)*elementLen
	e := make([]byte, elementLen)
	if _, err := w.in.ReadAt(e, int64(id)*int64(w.pageSize)+int64(at)); err != nil {
		return 0, fmt.Errorf("page %d: %w", id, err)
	}
	return float64(at) + float64(u32(e[4:])) + float64(u32(e[8:])) + float64(u32(e[12:])), nil
}

// head reads the head of a page.
func (w *treeWalk) head(id uint64) ([]byte, error) {
	if id > math.MaxInt64/uint64(w.pageSize)-1 {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	head := make([]byte, pageHead)
	if _, err := w.in.ReadAt(head, int64(id)*int64(w.pageSize)); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if f := u16(head[8:]); u64(head) != id || f != flagBranch && f != flagLeaf {
		return nil, fmt.Errorf("page %d is not what leads to it says", id)
	}
	return head, nil
}
