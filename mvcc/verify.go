package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// bbolt checks its two meta pages, and believes everything else: a damaged page makes it answer
// wrongly, loop, or recurse until the process dies. So a file is looked through before bbolt gets
// to see it, from the root to the last record. bbolt leaves no room for a checksum of a page, but
// nothing in a page is free: elements and data lie without gaps in a known order, keys ascend
// within bounds that the parents set, each page is used exactly once or is on the list of free
// pages, and each record has its own checksum. What is read later from pages that were damaged
// since is checked by record only.

// Of bbolt's format, in the machine's byte order. A page begins with its id u64, flags u16, the number
// of elements u16, and the number of further pages that it covers u32. Offsets of a meta page's
// fields count from the page's beginning.
const (
	pageHead   = 16
	elementLen = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	metaMagicAt    = pageHead
	metaPageSizeAt = pageHead + 8
	metaRootAt     = pageHead + 16
	metaFreeAt     = pageHead + 32
	metaPagesAt    = pageHead + 40
	metaTxAt       = pageHead + 48
	metaSumAt      = pageHead + 56
	metaLen        = pageHead + 64

	boltMagic   = 0xed0cdaed
	pageSizeMin = 512
	pageSizeMax = 1 << 20

	bucketHeadLen  = 16 // of a bucket in the root tree: its root page u64, a sequence u64
	elementBucket  = 1  // flag of such an element
	treeDepthMax   = 40
	freeCountLarge = 0xffff // then the first entry of the list is its length
)

// treeCheck looks through one file.
type treeCheck struct {
	data     []byte
	pageSize int
	pages    uint64 // ids from here on are not in use
	used     []bool
}

// verifyFile reports what of a file is not as bbolt and this package have written it. The error does
// not name the file.
func verifyFile(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < 2*pageSizeMin {
		return errors.New("the file is cut short")
	}
	if st.Size() != int64(int(st.Size())) {
		return errors.New("the file is too large for this machine")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	_ = unix.Madvise(data, unix.MADV_WILLNEED) // a hint
	c := &treeCheck{data: data}
	return errors.Join(c.run(), unix.Munmap(data))
}

func u16(b []byte) int    { return int(binary.NativeEndian.Uint16(b)) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

func (c *treeCheck) run() error {
	meta, err := c.newestMeta()
	if err != nil {
		return err
	}
	c.pages = u64(meta[metaPagesAt:])
	if have := uint64(len(c.data) / c.pageSize); c.pages > have {
		return fmt.Errorf("the file has %d pages of %d", have, c.pages)
	}
	if c.pages < 2 {
		return errors.New("a meta page counts no pages")
	}
	c.used = make([]bool, c.pages)
	c.used[0], c.used[1] = true, true
	seen := map[string]bool{}
	root := u64(meta[metaRootAt:])
	err = c.tree(root, treeBounds{}, 0, func(k, v []byte, flags uint64) error {
		if flags != elementBucket || seen[string(k)] {
			return errRecordField
		}
		seen[string(k)] = true
		return c.bucket(k, v)
	})
	if err == nil {
		err = c.freelist(u64(meta[metaFreeAt:]))
	}
	if err != nil {
		return err
	}
	for id, used := range c.used {
		if !used {
			return fmt.Errorf("page %d is neither used nor free", id)
		}
	}
	return nil
}

// newestMeta finds the meta page that bbolt will go by: of those that are whole the one of the later
// transaction. One that is not whole is what a crash leaves.
func (c *treeCheck) newestMeta() (newest []byte, err error) {
	size := os.Getpagesize()
	for i := range 2 {
		if i*size+metaLen > len(c.data) {
			break
		}
		m := c.data[i*size:][:metaLen]
		h := fnv.New64a()
		_, _ = h.Write(m[metaMagicAt:metaSumAt])
		if u32(m[metaMagicAt:]) != boltMagic || u64(m[metaSumAt:]) != h.Sum64() {
			continue
		}
		if ps := int(u32(m[metaPageSizeAt:])); ps < pageSizeMin || ps > pageSizeMax || i == 1 && ps != size {
			continue
		} else {
			size = ps // the second page is where the first one says
		}
		if newest == nil || u64(m[metaTxAt:]) > u64(newest[metaTxAt:]) {
			newest, c.pageSize = m, size
		}
	}
	if newest == nil {
		return nil, errors.New("neither meta page is whole")
	}
	return newest, nil
}

// page returns a page that nothing else has used, and marks it.
func (c *treeCheck) page(id uint64, flags int) ([]byte, error) {
	if id >= c.pages {
		return nil, fmt.Errorf("page %d is not in use", id)
	}
	at := int(id) * c.pageSize
	p := c.data[at:]
	n := uint64(u32(p[12:])) + 1
	if u64(p) != id || id+n > c.pages {
		return nil, fmt.Errorf("page %d has the head of another", id)
	}
	if f := u16(p[8:]); f&flags == 0 || f&(f-1) != 0 {
		return nil, fmt.Errorf("page %d is of kind %#x", id, f)
	}
	for i := id; i < id+n; i++ {
		if c.used[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.used[i] = true
	}
	return p[:int(n)*c.pageSize], nil
}

// treeBounds say which keys may be in a tree: from lo on, below hi; nil: no bound.
type treeBounds struct{ lo, hi []byte }

// tree looks through a tree and calls entry with what is in its leaves.
func (c *treeCheck) tree(id uint64, b treeBounds, depth int, entry func(k, v []byte, flags uint64) error) error {
	if depth > treeDepthMax {
		return errors.New("a tree is too deep")
	}
	p, err := c.page(id, flagBranch|flagLeaf)
	if err != nil {
		return err
	}
	var keys [][]byte
	var below []uint64
	err = elements(p, b, func(k, v []byte, extra uint64) error {
		if u16(p[8:]) == flagLeaf {
			return entry(k, v, extra)
		}
		keys, below = append(keys, k), append(below, extra)
		return nil
	})
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if u16(p[8:]) == flagBranch && len(keys) == 0 {
		return fmt.Errorf("page %d leads nowhere", id)
	}
	for i := range keys {
		inner := treeBounds{keys[i], b.hi}
		if i == 0 {
			inner.lo = b.lo // bbolt goes there for smaller keys, too
		}
		if i+1 < len(keys) {
			inner.hi = keys[i+1]
		}
		if err := c.tree(below[i], inner, depth+1, entry); err != nil {
			return err
		}
	}
	return nil
}

// elements checks the layout of a page's elements, and calls fn with each: extra is the page that a
// branch's element leads to.
func elements(p []byte, b treeBounds, fn func(k, v []byte, extra uint64) error) error {
	leaf := u16(p[8:]) == flagLeaf
	n := u16(p[10:])
	end := uint64(pageHead + n*elementLen)
	var last []byte
	for i := range n {
		at := pageHead + i*elementLen
		if at+elementLen > len(p) {
			return errors.New("elements beyond the page")
		}
		e := p[at:]
		pos, ksize, vsize, extra := u32(e), u32(e[4:]), uint32(0), u64(e[8:])
		if leaf {
			pos, ksize, vsize, extra = u32(e[4:]), u32(e[8:]), u32(e[12:]), uint64(u32(e))
		}
		from := uint64(at) + uint64(pos)
		if from != end || ksize == 0 {
			return fmt.Errorf("element %d is not where it belongs", i)
		}
		if end += uint64(ksize) + uint64(vsize); end > uint64(len(p)) {
			return fmt.Errorf("element %d ends beyond the page", i)
		}
		k := p[from : from+uint64(ksize)]
		if bytes.Compare(k, last) <= 0 && i > 0 || b.lo != nil && bytes.Compare(k, b.lo) < 0 || b.hi != nil && bytes.Compare(k, b.hi) >= 0 {
			return fmt.Errorf("element %d is out of order", i)
		}
		last = k
		if err := fn(k, p[from+uint64(ksize):end], extra); err != nil {
			return fmt.Errorf("key %x: %w", k, err)
		}
	}
	return nil
}

// bucket looks through one of the store's buckets, whose entry in the root tree it is given.
func (c *treeCheck) bucket(name, v []byte) error {
	check := recordChecks[string(name)]
	if check == nil || len(v) < bucketHeadLen || u64(v[8:]) != 0 {
		return errors.New("not a bucket of this store")
	}
	entry := func(k, v []byte, flags uint64) error {
		if flags != 0 {
			return errRecordField
		}
		return check(k, v)
	}
	root := u64(v)
	if root != 0 {
		if len(v) != bucketHeadLen {
			return errRecordField
		}
		return c.tree(root, treeBounds{}, 0, entry)
	}
	p := v[bucketHeadLen:]
	if len(p) < pageHead || u16(p[8:]) != flagLeaf || u64(p) != 0 || u32(p[12:]) != 0 {
		return errors.New("a small bucket has no page")
	}
	return elements(p, treeBounds{}, entry)
}

// recordChecks say for each bucket whether a record is what was written.
var recordChecks = map[string]func(k, v []byte) error{
	string(bucketLog): func(k, v []byte) error {
		_, err := decodeLogRecord(k, v)
		return err
	},
	string(bucketBase): func(k, v []byte) error {
		esc, r, err := splitBaseKey(k)
		if err == nil {
			_, err = decodeBaseRecord(k, esc, r, v)
		}
		return err
	},
	string(bucketLease): checkLeaseRecord,
	string(bucketState): func(k, v []byte) error {
		_, err := unseal(k, v)
		return err
	},
	string(bucketMeta): func(k, v []byte) error {
		if bytes.Equal(k, metaFormat) {
			return nil // looked at where it is read: another version has another checksum
		}
		_, err := unseal(k, v)
		return err
	},
}

// freelist marks the free pages.
func (c *treeCheck) freelist(id uint64) error {
	p, err := c.page(id, flagFreelist)
	if err != nil {
		return fmt.Errorf("free pages: %w", err)
	}
	n, ids := uint64(u16(p[10:])), p[pageHead:]
	if n == freeCountLarge {
		n, ids = u64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return errors.New("the list of free pages is longer than its page")
	}
	for i := range n {
		free := u64(ids[8*i:])
		if free >= c.pages || c.used[free] {
			return fmt.Errorf("page %d is free and is not", free)
		}
		c.used[free] = true
	}
	return nil
}

// verifyPath is verifyFile by name, with the error of Open.
func verifyPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("mvcc: %w", err)
	}
	defer f.Close() // read only
	if err := verifyFile(f); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, err)
	}
	return nil
}
