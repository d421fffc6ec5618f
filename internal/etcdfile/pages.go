package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"pontoon/shard"
)

// What bbolt's pages look like; integers are those of a little-endian machine.
const (
	pageHead     = 16 // id u64, flags u16, count u16, overflow u32
	elementBytes = 16 // branch: pos u32, key size u32, page u64; leaf: flags u32, pos u32, key size u32, value size u32
	bucketBytes  = 16 // root u64, sequence u64; an inline page follows where root is 0
	metaMagic    = 0xED0CDAED
	metaVersion  = 2
	metaBytes    = 64 // of a meta page behind its head, checksum included

	flagBranch = 0x01
	flagLeaf   = 0x02
	flagMeta   = 0x04
	flagBucket = 0x01 // of a leaf's element

	depthMax = 32 // of a tree
	// pageBytesMax bounds a page with what overflows from it: a value has at most a request's bytes, many times over.
	pageBytesMax = 1 << 30
)

// pages reads a bbolt file, and believes nothing of it.
type pages struct {
	r      io.ReaderAt
	size   int64
	page   int64 // bytes
	high   uint64
	root   uint64
	viewed []uint64 // a bit for each page that was walked over
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("etcd's file: %w: %w", shard.ErrCorrupt, fmt.Errorf(format, args...))
}

// openPages finds the newer of the meta pages that are whole.
func openPages(r io.ReaderAt, size int64) (*pages, error) {
	p := &pages{r: r, size: size}
	var newest uint64
	found := false
	// Where the second one is depends on the size of pages, which it says itself; the first says it, too, while it is whole.
	for _, at := range []int64{0, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16} {
		m, ok := readMeta(r, size, at)
		if !ok || at != 0 && at != m.page || found && m.tx < newest {
			continue
		}
		found, newest = true, m.tx
		p.page, p.high, p.root = m.page, m.high, m.root
	}
	if !found {
		return nil, damaged("no meta page is whole: is it a file of etcd's?")
	}
	if p.high > uint64(size/p.page) {
		return nil, damaged("it is cut off: %d pages of %d bytes do not fit in %d bytes", p.high, p.page, size)
	}
	p.viewed = make([]uint64, p.high/64+1)
	return p, nil
}

type metaPage struct {
	page           int64
	root, high, tx uint64
}

func readMeta(r io.ReaderAt, size, at int64) (m metaPage, ok bool) {
	b := make([]byte, pageHead+metaBytes)
	if at+int64(len(b)) > size {
		return m, false
	}
	if _, err := r.ReadAt(b, at); err != nil {
		return m, false
	}
	flags, b := binary.LittleEndian.Uint16(b[8:]), b[pageHead:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaBytes-8])
	if flags != flagMeta || binary.LittleEndian.Uint32(b) != metaMagic || binary.LittleEndian.Uint32(b[4:]) != metaVersion ||
		binary.LittleEndian.Uint64(b[metaBytes-8:]) != sum.Sum64() {
		return m, false
	}
	m.page = int64(binary.LittleEndian.Uint32(b[8:]))
	m.root = binary.LittleEndian.Uint64(b[16:])
	m.high = binary.LittleEndian.Uint64(b[40:])
	m.tx = binary.LittleEndian.Uint64(b[48:])
	return m, m.page >= 512 && m.page <= 1<<16 && m.page&(m.page-1) == 0
}

// node is a page that was read whole.
type node struct {
	id    uint64
	flags uint16
	count int
	b     []byte
}

// read reads a page with what overflows from it, once.
func (p *pages) read(id uint64) (node, error) {
	if id < 2 || id >= p.high {
		return node{}, damaged("page %d of %d is referred to", id, p.high)
	}
	head := make([]byte, p.page)
	if _, err := p.r.ReadAt(head, int64(id)*p.page); err != nil {
		return node{}, fmt.Errorf("etcd's file: page %d: %w", id, err)
	}
	over := uint64(binary.LittleEndian.Uint32(head[12:]))
	n, err := parseNode(head)
	switch {
	case err != nil:
		return node{}, damaged("page %d: %w", id, err)
	case n.id != id:
		return node{}, damaged("page %d says that it is page %d", id, n.id)
	case over >= p.high-id || over >= pageBytesMax/uint64(p.page):
		return node{}, damaged("page %d goes on for %d pages", id, over)
	}
	for i := id; i <= id+over; i++ {
		if p.viewed[i/64]&(1<<(i%64)) != 0 {
			return node{}, damaged("page %d is used twice", i)
		}
		p.viewed[i/64] |= 1 << (i % 64)
	}
	if over > 0 {
		whole := make([]byte, p.page*int64(1+over))
		copy(whole, head)
		if _, err := p.r.ReadAt(whole[p.page:], int64(id+1)*p.page); err != nil {
			return node{}, fmt.Errorf("etcd's file: page %d: %w", id, err)
		}
		n.b = whole
	}
	return n, nil
}

func parseNode(b []byte) (node, error) {
	if len(b) < pageHead {
		return node{}, errors.New("too short")
	}
	n := node{id: binary.LittleEndian.Uint64(b), flags: binary.LittleEndian.Uint16(b[8:]), count: int(binary.LittleEndian.Uint16(b[10:])), b: b}
	if n.flags != flagBranch && n.flags != flagLeaf {
		return node{}, fmt.Errorf("it is of kind %#x", n.flags)
	}
	return n, nil
}

// slice is what lies behind an element.
func (n *node) slice(element int, pos, size uint32) ([]byte, error) {
	from, to := uint64(element)+uint64(pos), uint64(element)+uint64(pos)+uint64(size)
	if to > uint64(len(n.b)) || from < uint64(pageHead+n.count*elementBytes) {
		return nil, errors.New("an element points out of it")
	}
	return n.b[from:to:to], nil
}

// branch is the i-th element of a branch page.
func (n *node) branch(i int) (key []byte, child uint64, err error) {
	at := pageHead + i*elementBytes
	if at+elementBytes > len(n.b) {
		return nil, 0, errors.New("too many elements")
	}
	key, err = n.slice(at, binary.LittleEndian.Uint32(n.b[at:]), binary.LittleEndian.Uint32(n.b[at+4:]))
	return key, binary.LittleEndian.Uint64(n.b[at+8:]), err
}

// leaf is the i-th element of a leaf page.
func (n *node) leaf(i int) (key, value []byte, bucket bool, err error) {
	at := pageHead + i*elementBytes
	if at+elementBytes > len(n.b) {
		return nil, nil, false, errors.New("too many elements")
	}
	flags := binary.LittleEndian.Uint32(n.b[at:])
	pos, ksize := binary.LittleEndian.Uint32(n.b[at+4:]), binary.LittleEndian.Uint32(n.b[at+8:])
	if key, err = n.slice(at, pos, ksize); err != nil {
		return nil, nil, false, err
	}
	if uint64(pos)+uint64(ksize) > 1<<32-1 {
		return nil, nil, false, errors.New("an element points out of it")
	}
	value, err = n.slice(at, pos+ksize, binary.LittleEndian.Uint32(n.b[at+12:]))
	return key, value, flags == flagBucket, err
}

// visitor gets the elements of a tree in order, and says where the walk ends early. The bytes are valid during the call.
type visitor func(key, value []byte, bucket bool) error

// walk visits the tree below a page. last is the key before, which those to come must exceed.
func (p *pages) walk(id uint64, depth int, last *[]byte, visit visitor) error {
	if depth > depthMax {
		return damaged("a tree of more than %d levels", depthMax)
	}
	n, err := p.read(id)
	if err != nil {
		return err
	}
	if n.flags == flagLeaf {
		return n.visitAll(last, visit)
	}
	if n.count == 0 {
		return damaged("page %d: a branch without elements", id)
	}
	for i := range n.count {
		key, child, err := n.branch(i)
		if err != nil {
			return damaged("page %d: %w", id, err)
		}
		if i > 0 && *last != nil && bytes.Compare(key, *last) <= 0 {
			return damaged("page %d: keys are not in order", id)
		}
		if err := p.walk(child, depth+1, last, visit); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) visitAll(last *[]byte, visit visitor) error {
	for i := range n.count {
		key, value, bucket, err := n.leaf(i)
		if err != nil {
			return damaged("page %d: %w", n.id, err)
		}
		if *last != nil && bytes.Compare(key, *last) <= 0 {
			return damaged("page %d: keys are not in order", n.id)
		}
		*last = append((*last)[:0], key...)
		if *last == nil {
			*last = []byte{}
		}
		if err := visit(key, value, bucket); err != nil {
			return err
		}
	}
	return nil
}

// bucket is where a bucket's tree begins.
type bucket struct {
	root   uint64
	inline []byte
}

func parseBucket(value []byte) (bucket, error) {
	if len(value) < bucketBytes {
		return bucket{}, errors.New("a bucket without a header")
	}
	b := bucket{root: binary.LittleEndian.Uint64(value)}
	if b.root == 0 {
		b.inline = bytes.Clone(value[bucketBytes:])
	}
	return b, nil
}

// each visits what is in a bucket.
func (p *pages) each(b bucket, visit visitor) error {
	var last []byte
	if b.root != 0 {
		return p.walk(b.root, 0, &last, visit)
	}
	n, err := parseNode(b.inline)
	if err == nil && n.flags != flagLeaf {
		err = errors.New("it is no leaf")
	}
	if err != nil {
		return damaged("a bucket within a page: %w", err)
	}
	return n.visitAll(&last, visit)
}
