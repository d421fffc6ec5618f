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

// look is what has not been looked through yet of a file that is open. Whoever moves a cursor looks
// through the blocks that it may come to first, whoever writes to the log those that it writes to, and
// LookThrough the rest in the background. That works because until everything has been looked through
// nothing is settled or swept: so the base is as it was, the log only grows, nothing is deleted, and a
// key is where the branch pages of the start said that it is, or on a page written since.
type look struct {
	trees map[string]*lookTree // by bucket

	mu    sync.Mutex
	check *treeCheck // guarded by mu; nil: unmapped
	left  int        // blocks; guarded by mu
}

// lookTree is the leaves of one bucket.
type lookTree struct {
	l      *look
	bucket string
	blocks []block
	done   []atomic.Bool
	next   int           // LookThrough goes on here; guarded by look.mu
	bad    map[int]error // blocks that are damaged; guarded by look.mu
}

// lookSteps is how many blocks of each bucket LookThrough does in one call: a few MiB.
const lookSteps = 4

// damage is what a cursor panics with that has come to a damaged block: rescue makes it an error.
type damage struct{ error }

// beginLook looks through the parts of a file that nobody can do without, and returns the rest; nil when
// that was everything. Its error names the file.
func beginLook(path string) (*look, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("mvcc: %w", err)
	}
	defer f.Close() // read only
	c, err := mapFile(f)
	if err != nil {
		return nil, fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, err)
	}
	l := &look{trees: map[string]*lookTree{}, check: c}
	err = c.begin()
	for bucket, blocks := range c.lazy {
		l.trees[bucket] = &lookTree{l: l, bucket: bucket, blocks: blocks, done: make([]atomic.Bool, len(blocks)), bad: map[int]error{}}
		l.left += len(blocks)
	}
	if err == nil && l.left == 0 {
		err = c.end()
	}
	if err != nil {
		return nil, fmt.Errorf("mvcc: %s: %w: %w", path, ErrDamaged, errors.Join(err, l.unmap()))
	}
	if l.left == 0 {
		return nil, l.unmap()
	}
	return l, nil
}

func (l *look) unmap() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.check == nil {
		return nil
	}
	c := l.check
	l.check = nil
	return c.unmap()
}

// block looks through one block, unless that has been done.
func (t *lookTree) block(i int) error {
	if i < 0 || i >= len(t.blocks) || t.done[i].Load() {
		return nil
	}
	l := t.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case t.done[i].Load():
		return nil
	case t.bad[i] != nil:
		return t.bad[i]
	case l.check == nil:
		return errors.New("the file is closed")
	}
	t.bad[i] = errors.New("it cannot be read") // where the next line ends in a fault
	err := l.check.block(t.bucket, i)
	if err == nil && l.left == 1 {
		err = l.check.end()
	}
	if err != nil {
		t.bad[i] = err
		return err
	}
	delete(t.bad, i)
	l.left--
	t.done[i].Store(true)
	return nil
}

// of is the block that holds key.
func (t *lookTree) of(key []byte) int {
	return max(0, sort.Search(len(t.blocks), func(i int) bool { return bytes.Compare(t.blocks[i].lo, key) > 0 })-1)
}

// need looks through a block that a cursor may come to.
func (t *lookTree) need(i int) {
	if err := t.block(i); err != nil {
		panic(damage{err})
	}
}

// step looks through the next blocks; more says that there are others. Once there was damage, it says
// so for ever.
func (l *look) step() (more bool, err error) {
	for _, t := range l.trees {
		for range lookSteps {
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
func (t *lookTree) advance() (i int, err error) {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	for _, err := range t.bad {
		return 0, err
	}
	i = t.next
	if i == 0 && t.l.check != nil {
		t.l.check.prefetch()
	}
	t.next = min(i+1, len(t.blocks))
	return i, nil
}

// cursor is a bolt.Cursor of one of the two large buckets, which sees no page that has not been looked
// through: bbolt may go on from a block to the next one in its direction.
type cursor struct {
	c  *bolt.Cursor
	t  *lookTree // nil: everything has been looked through
	at int       // the block that the cursor is in
}

func (s *Store) cursor(tx *bolt.Tx, bucket []byte) *cursor {
	c := &cursor{c: tx.Bucket(bucket).Cursor()}
	if l := s.look.Load(); l != nil {
		c.t = l.trees[string(bucket)]
	}
	return c
}

// Seek is bolt.Cursor's, as are the others.
func (c *cursor) Seek(key []byte) (k, v []byte) {
	if c.t != nil {
		c.at = c.t.of(key)
		c.t.need(c.at)
		c.t.need(c.at + 1)
	}
	return c.arrive(c.c.Seek(key))
}

func (c *cursor) Next() (k, v []byte) {
	if c.t != nil {
		c.t.need(c.at + 1)
	}
	return c.arrive(c.c.Next())
}

func (c *cursor) Prev() (k, v []byte) {
	if c.t != nil {
		c.t.need(c.at - 1)
	}
	return c.arrive(c.c.Prev())
}

func (c *cursor) Last() (k, v []byte) {
	if c.t != nil {
		c.t.need(len(c.t.blocks) - 1)
	}
	return c.arrive(c.c.Last())
}

// arrive notes where a move has led to.
func (c *cursor) arrive(k, v []byte) ([]byte, []byte) {
	if c.t != nil && k != nil {
		c.at = c.t.of(k)
		c.t.need(c.at)
	}
	return k, v
}

// lookAtLog looks through what is about to be written to.
func (s *Store) lookAtLog(vers []*version) error {
	l := s.look.Load()
	if l == nil || l.trees[string(bucketLog)] == nil {
		return nil
	}
	t := l.trees[string(bucketLog)]
	var key [revLen]byte
	for _, v := range vers {
		if err := t.block(t.of(appendLogKey(key[:0], v.rev()))); err != nil {
			return fmt.Errorf("mvcc: %s: %w: %w", s.opt.Path, ErrDamaged, err)
		}
	}
	return nil
}

// LookThrough looks through the next part of what the file held when it was opened. more says that there
// is something left: whoever owns the store calls it again, when there is time.
func (s *Store) LookThrough() (more bool, err error) {
	l := s.look.Load()
	if l == nil {
		return false, nil
	}
	defer s.notice(&err)
	defer rescue(s.opt.Path, &err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if more, err = l.step(); err != nil {
		return false, fmt.Errorf("mvcc: %s: %w: %w", s.opt.Path, ErrDamaged, err)
	}
	if more {
		return true, nil
	}
	s.look.CompareAndSwap(l, nil)
	return false, l.unmap()
}

// endLook gives up what has not been looked through.
func (s *Store) endLook() error {
	if l := s.look.Load(); l != nil {
		return l.unmap()
	}
	return nil
}
