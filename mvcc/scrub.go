package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// scrub is what has not been verified yet of a file that is open. Whoever moves a cursor verifies the
// blocks that it may come to first, whoever writes to the log those that it writes to, and Scrub the rest
// in the background. That works because until everything has been verified nothing is settled or swept: so
// the base is as it was, the log only grows, nothing is deleted, and a key is where the branch pages of
// the start said that it is, or on a page written since.
type scrub struct {
	trees map[string]*scrubTree // by bucket

	mu    sync.Mutex
	check *treeCheck // guarded by mu; nil: unmapped
	left  int        // blocks; guarded by mu
}

// scrubTree is the leaves of one bucket.
type scrubTree struct {
	x        *scrub
	bucket   string
	blocks   []block
	verified []atomic.Bool
	next     int           // Scrub goes on here; guarded by scrub.mu
	bad      map[int]error // blocks that are damaged; guarded by scrub.mu
}

// scrubSteps is how many blocks of each bucket Scrub does in one call: a few MiB.
const scrubSteps = 4

// damage is what a cursor panics with that has come to a damaged block: rescue makes it an error.
type damage struct{ error }

// beginScrub verifies the parts of a file that nobody can do without, and returns the rest; nil when
// that was everything. Its error names the file.
func beginScrub(path string) (*scrub, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mvcc: %w", err)
	}
	defer f.Close() // read only
	c, err := mapFile(f)
	if err != nil {
		return nil, fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, err)
	}
	x := &scrub{trees: map[string]*scrubTree{}, check: c}
	err = c.begin()
	for bucket, blocks := range c.lazy {
		x.trees[bucket] = &scrubTree{x: x, bucket: bucket, blocks: blocks, verified: make([]atomic.Bool, len(blocks)), bad: map[int]error{}}
		x.left += len(blocks)
	}
	if err == nil && x.left == 0 {
		err = c.end()
	}
	if err != nil {
		return nil, fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, errors.Join(err, x.unmap()))
	}
	if x.left == 0 {
		return nil, x.unmap()
	}
	return x, nil
}

func (x *scrub) unmap() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.check == nil {
		return nil
	}
	c := x.check
	x.check = nil
	return c.unmap()
}

// block verifies one block, unless that has been done.
func (t *scrubTree) block(i int) error {
	if i < 0 || i >= len(t.blocks) || t.verified[i].Load() {
		return nil
	}
	x := t.x
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case t.verified[i].Load():
		return nil
	case t.bad[i] != nil:
		return t.bad[i]
	case x.check == nil:
		return errors.New("the file is closed")
	}
	t.bad[i] = errors.New("it cannot be read") // where the next line ends in a fault
	err := x.check.block(t.bucket, i)
	if err == nil && x.left == 1 {
		err = x.check.end()
	}
	if err != nil {
		t.bad[i] = err
		return err
	}
	delete(t.bad, i)
	x.left--
	t.verified[i].Store(true)
	return nil
}

// of is the block that holds key.
func (t *scrubTree) of(key []byte) int {
	return max(0, sort.Search(len(t.blocks), func(i int) bool { return bytes.Compare(t.blocks[i].lo, key) > 0 })-1)
}

// mustVerify verifies a block that a cursor may come to.
func (t *scrubTree) mustVerify(i int) {
	if err := t.block(i); err != nil {
		panic(damage{err})
	}
}

// step verifies the next blocks; more says that there are others. Once there was damage, it says
// so for ever.
func (x *scrub) step() (more bool, err error) {
	for _, t := range x.trees {
		for range scrubSteps {
			i, err := t.advance()
			if err == nil {
				err = t.block(i)
			}
			if err != nil {
				return false, err
			}
			more = more || i < len(t.blocks)
		}
	}
	return more, nil
}

// advance returns the block that is next.
func (t *scrubTree) advance() (i int, err error) {
	t.x.mu.Lock()
	defer t.x.mu.Unlock()
	for _, err := range t.bad {
		return 0, err
	}
	i = t.next
	if i == 0 && t.x.check != nil {
		t.x.check.prefetch()
	}
	t.next = min(i+1, len(t.blocks))
	return i, nil
}

// cursor is a bolt.Cursor of one of the two large buckets, which sees no page that has not been
// verified: bbolt may go on from a block to the next one in its direction.
type cursor struct {
	c  *bolt.Cursor
	t  *scrubTree // nil: everything has been verified
	at int        // the block that the cursor is in
}

func (f *file) cursor(tx *bolt.Tx, bucket []byte) *cursor {
	c := &cursor{c: tx.Bucket(bucket).Cursor()}
	if x := f.scrub.Load(); x != nil {
		c.t = x.trees[string(bucket)]
	}
	return c
}

// Seek is bolt.Cursor's, as are the others.
func (c *cursor) Seek(key []byte) (k, v []byte) {
	if c.t != nil {
		c.at = c.t.of(key)
		c.t.mustVerify(c.at)
		c.t.mustVerify(c.at + 1)
	}
	return c.arrive(c.c.Seek(key))
}

func (c *cursor) Next() (k, v []byte) {
	if c.t != nil {
		c.t.mustVerify(c.at + 1)
	}
	return c.arrive(c.c.Next())
}

func (c *cursor) Prev() (k, v []byte) {
	if c.t != nil {
		c.t.mustVerify(c.at - 1)
	}
	return c.arrive(c.c.Prev())
}

func (c *cursor) Last() (k, v []byte) {
	if c.t != nil {
		c.t.mustVerify(len(c.t.blocks) - 1)
	}
	return c.arrive(c.c.Last())
}

// arrive notes where a move has led to.
func (c *cursor) arrive(k, v []byte) ([]byte, []byte) {
	if c.t != nil && k != nil {
		c.at = c.t.of(k)
		c.t.mustVerify(c.at)
	}
	return k, v
}

// verifyLog verifies what is about to be written to.
func (f *file) verifyLog(vers []*version) error {
	x := f.scrub.Load()
	if x == nil || x.trees[string(bucketLog)] == nil {
		return nil
	}
	t := x.trees[string(bucketLog)]
	var key [revLen]byte
	for _, v := range vers {
		if err := t.block(t.of(appendLogKey(key[:0], v.rev()))); err != nil {
			return fmt.Errorf("mvcc: %s: %w: %w", f.path, ErrDamaged, err)
		}
	}
	return nil
}

// scrubStep verifies the next part of what the file held when it was opened; more says that there is
// something left.
func (f *file) scrubStep() (more bool, err error) {
	x := f.scrub.Load()
	if x == nil {
		return false, nil
	}
	defer f.notice(&err)
	defer rescue(f.path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if more, err = x.step(); err != nil {
		return false, fmt.Errorf("mvcc: %s: %w: %w", f.path, ErrDamaged, err)
	}
	if more {
		return true, nil
	}
	f.scrub.CompareAndSwap(x, nil)
	return false, x.unmap()
}

// endScrub gives up what has not been verified.
func (f *file) endScrub() error {
	if x := f.scrub.Load(); x != nil {
		return x.unmap()
	}
	return nil
}
