package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
)

// bbolt checks its two meta pages, and believes everything else: a damaged page makes it answer
// wrongly, loop, or recurse until the process dies. So each page is verified before bbolt gets
// to see it, from the root to the last record. bbolt leaves no room for a checksum of a page, but
// nothing in a page is free: elements and data lie without gaps in a known order, keys ascend
// within bounds that the parents set, each page is used exactly once or is on the list of free
// pages, and each record has its own checksum. What is read later from pages that were damaged
// since is checked by record only.
//
// At the start that is done for the pages that lead to others, the free ones, and the small buckets.
// The leaves of the two large buckets, nearly all of a file, wait until somebody needs them or has
// the time: see scrub.go. They come in blocks: the leaves below one branch page.

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

// treeCheck verifies one file, as it was when it was opened.
type treeCheck struct {
	data     []byte
	pageSize int
	pages    uint64 // ids from here on are not in use
	state    []pageState
	lazy     map[string][]block // by bucket, in the order of keys

	leafDepth int // of the tree that is being verified
}

// pageState says what is known of a page.
type pageState uint8

const (
	pageUnknown pageState = iota
	pageClaimed           // a branch page leads to it; it waits in a block
	pageUsed              // verified, or free
)

// block is the leaves below one branch page, which holds keys from lo on (nil: no bound), up to those
// of the next block.
type block struct {
	page uint64
	lo   []byte
}

// mapFile maps a file for a check.
func mapFile(f *os.File) (*treeCheck, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < 2*pageSizeMin {
		return nil, errors.New("the file is cut short")
	}
	if st.Size() != int64(int(st.Size())) {
		return nil, errors.New("the file is too large for this machine")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	return &treeCheck{data: data}, nil
}

func (c *treeCheck) unmap() error { return unix.Munmap(c.data) }

// prefetch says that all of the file will be read soon.
func (c *treeCheck) prefetch() { _ = unix.Madvise(c.data, unix.MADV_WILLNEED) } // a hint

func u16(b []byte) int    { return int(binary.NativeEndian.Uint16(b)) }
func u32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// begin verifies everything but the blocks.
func (c *treeCheck) begin() error {
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
	c.state = make([]pageState, c.pages)
	c.state[0], c.state[1] = pageUsed, pageUsed
	c.lazy = map[string][]block{}
	seen := map[string]bool{}
	root := u64(meta[metaRootAt:])
	err = c.tree(root, treeBounds{}, 0, eager, func(k, v []byte, flags uint64) error {
		if flags != elementBucket || seen[string(k)] {
			return errRecordField
		}
		seen[string(k)] = true
		return c.bucket(k, v)
	})
	if err != nil {
		return err
	}
	return c.freelist(u64(meta[metaFreeAt:]))
}

// block verifies block i of a bucket.
func (c *treeCheck) block(bucket string, i int) error {
	all := c.lazy[bucket]
	bounds := treeBounds{lo: all[i].lo}
	if i+1 < len(all) {
		bounds.hi = all[i+1].lo
	}
	p := c.data[int(all[i].page)*c.pageSize:]
	p = p[:(int(u32(p[12:]))+1)*c.pageSize]
	below, err := children(p, bounds)
	if err != nil {
		return fmt.Errorf("page %d: %w", all[i].page, err)
	}
	entry := recordEntry(recordChecks[bucket])
	for _, ch := range below {
		if c.state[ch.page] != pageClaimed {
			return fmt.Errorf("page %d is used twice", ch.page)
		}
		c.state[ch.page] = pageUnknown
		if err := c.tree(ch.page, ch.bounds, 1, eager, entry); err != nil {
			return err
		}
	}
	return nil
}

// end reports what is wrong with the whole when all blocks have been verified.
func (c *treeCheck) end() error {
	for id, state := range c.state {
		if state != pageUsed {
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
		if err := c.mark(i, pageUsed); err != nil {
			return nil, err
		}
	}
	return p[:int(n)*c.pageSize], nil
}

func (c *treeCheck) mark(id uint64, as pageState) error {
	if id >= c.pages {
		return fmt.Errorf("page %d is not in use", id)
	}
	if c.state[id] != pageUnknown {
		return fmt.Errorf("page %d is used twice", id)
	}
	c.state[id] = as
	return nil
}

// treeBounds say which keys may be in a tree: from lo on, below hi; nil: no bound.
type treeBounds struct{ lo, hi []byte }

// eager is a bucket whose leaves are verified at once.
const eager = ""

// entryFunc takes an entry of a leaf.
type entryFunc func(k, v []byte, flags uint64) error

// tree verifies a tree and calls entry with what is in its leaves; those of a bucket that is
// named are left in blocks.
func (c *treeCheck) tree(id uint64, b treeBounds, depth int, bucket string, entry entryFunc) error {
	if depth > treeDepthMax {
		return errors.New("a tree is too deep")
	}
	p, err := c.page(id, flagBranch|flagLeaf)
	if err != nil {
		return err
	}
	if u16(p[8:]) == flagLeaf {
		if depth > 0 && u16(p[10:]) == 0 {
			return fmt.Errorf("page %d: a leaf without a record", id)
		}
		if err := elements(p, b, entry); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	}
	below, err := children(p, b)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if bucket != eager && depth == c.leafDepth-1 {
		c.lazy[bucket] = append(c.lazy[bucket], block{id, bytes.Clone(b.lo)})
		for _, ch := range below {
			if err := c.mark(ch.page, pageClaimed); err != nil {
				return err
			}
		}
		return nil
	}
	for _, ch := range below {
		if err := c.tree(ch.page, ch.bounds, depth+1, bucket, entry); err != nil {
			return err
		}
	}
	return nil
}

// depthOf is how deep the first leaf of a tree lies; so do all others in a tree of bbolt's. What is not so
// is damage, or verified as it comes.
func (c *treeCheck) depthOf(root uint64) (depth int) {
	for id := root; id < c.pages && depth <= treeDepthMax; depth++ {
		p := c.data[int(id)*c.pageSize:][:c.pageSize]
		if u16(p[8:]) != flagBranch {
			return depth
		}
		id = u64(p[pageHead+8:])
	}
	return 0
}

// child is a page that a branch page leads to.
type child struct {
	page   uint64
	bounds treeBounds
}

// children checks the layout of a branch page, and returns what it leads to.
func children(p []byte, b treeBounds) ([]child, error) {
	below := make([]child, 0, u16(p[10:]))
	err := elements(p, b, func(k, _ []byte, page uint64) error {
		if n := len(below); n > 0 {
			below[n-1].bounds.hi = k
		}
		below = append(below, child{page, treeBounds{k, b.hi}})
		return nil
	})
	if err == nil && len(below) == 0 {
		err = errors.New("it leads nowhere")
	}
	if err != nil {
		return nil, err
	}
	below[0].bounds.lo = b.lo // bbolt goes there for smaller keys, too
	return below, nil
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

// bucket verifies one of the store's buckets, whose entry in the root tree it is given.
func (c *treeCheck) bucket(name, v []byte) error {
	check := recordChecks[string(name)]
	if check == nil || len(v) < bucketHeadLen || u64(v[8:]) != 0 {
		return errors.New("not a bucket of this store")
	}
	entry := recordEntry(check)
	root := u64(v)
	if root != 0 {
		if len(v) != bucketHeadLen {
			return errRecordField
		}
		leaves := eager
		if lazyBuckets[string(name)] {
			leaves, c.leafDepth = string(name), c.depthOf(root)
		}
		return c.tree(root, treeBounds{}, 0, leaves, entry)
	}
	p := v[bucketHeadLen:]
	if len(p) < pageHead || u16(p[8:]) != flagLeaf || u64(p) != 0 || u32(p[12:]) != 0 {
		return errors.New("a small bucket has no page")
	}
	return elements(p, treeBounds{}, entry)
}

// lazyBuckets are those that grow with what is written.
var lazyBuckets = map[string]bool{string(bucketLog): true, string(bucketBase): true}

// recordEntry checks an entry that has to be a record.
func recordEntry(check func(k, v []byte) error) entryFunc {
	return func(k, v []byte, flags uint64) error {
		if flags != 0 {
			return errRecordField
		}
		return check(k, v)
	}
}

// recordChecks say for each bucket whether a record is what was written.
var recordChecks = map[string]func(k, v []byte) error{
	string(bucketLog): func(k, v []byte) error {
		_, err := decodeLogRecord(k, v)
		return err
	},
	string(bucketBase): func(k, v []byte) error {
		_, err := decodeBaseEntry(k, v)
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
		if err := c.mark(u64(ids[8*i:]), pageUsed); err != nil {
			return fmt.Errorf("free pages: %w", err)
		}
	}
	return nil
}
