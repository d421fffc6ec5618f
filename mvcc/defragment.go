package mvcc

import (
	"bytes"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
)

// defragmentedSuffix is what the name of a file that is being written anew ends with, beside the store's.
const defragmentedSuffix = ".defragment"

// heldFlushes is how many buffers of Options.FlushBytes a store holds in memory while its file is written anew, before
// it asks for a Flush, which gives that up.
const heldFlushes = 16

// ErrGivenUp is the outcome of a Defragmentation that gave way to something that had to write to the file, or to its
// end. The file is as it was; another attempt may succeed.
var ErrGivenUp = errors.New("mvcc: the defragmentation gave way to a write of the store's file")

// Defragmentation writes a store's file anew, without its free pages, in steps, while the store is read and written to.
// What is applied meanwhile stays in memory: nothing else writes to the file, and whatever has to (a Flush, Close)
// gives the Defragmentation up. Methods are called by one goroutine at a time.
type Defragmentation struct {
	x    *Maintenance
	file copiedFile

	buckets [][]byte // still to be copied; the first one from the cursor on
	cursor  []byte
	open    bool // the new file has been made
}

// Defragment begins to write the store's file anew. One that is under way is given up. Its error is that of a store
// that is closed, or whose file cannot be written.
func (x *Maintenance) Defragment() (*Defragmentation, error) {
	x.disk.Lock()
	defer x.disk.Unlock()
	if err := x.usableLocked(); err != nil {
		return nil, err
	}
	if x.disk.replaced {
		return nil, ErrGivenUp
	}
	x.giveUpLocked()
	d := &Defragmentation{
		x:       x,
		file:    copiedFile{by: "defragment", path: x.file.path + defragmentedSuffix, id: x.file.id, opt: x.opt, mmap: x.opt.InitialMmapSize},
		buckets: [][]byte{bucketBase, bucketLog, bucketLease, bucketState, bucketMeta},
	}
	x.disk.anew = d
	x.held.Store(true)
	return d, nil
}

// Replaced says that the caller is about to put another file in the place of the store's: none is written anew any more,
// and one that is being written is given up.
func (x *Maintenance) Replaced() {
	x.disk.Lock()
	defer x.disk.Unlock()
	if mutate.On(mutate.DefragmentReplaced) {
		return
	}
	x.giveUpLocked()
	x.disk.replaced = true
}

// Step does the next part, about budget records and at most a few MiB; the last one puts the new file in the place of the old
// one. more says that another is due. After an error the Defragmentation is over and the file is as it was; ErrGivenUp:
// something else had to be written.
func (d *Defragmentation) Step(budget int) (more bool, err error) {
	if more, err := d.x.Scrub(); more || err != nil { // what is damaged is not copied
		if err != nil {
			d.GiveUp()
		}
		return more, err
	}
	x := d.x
	x.disk.Lock()
	defer x.disk.Unlock()
	if x.disk.anew != d {
		return false, ErrGivenUp
	}
	if more, err = d.stepLocked(max(budget, 1)); err != nil {
		x.giveUpLocked()
		return false, fmt.Errorf("mvcc: defragment %s: %w", x.file.path, err)
	}
	return more, nil
}

// GiveUp ends the Defragmentation, unless that has happened.
func (d *Defragmentation) GiveUp() {
	d.x.disk.Lock()
	defer d.x.disk.Unlock()
	if d.x.disk.anew == d {
		d.x.giveUpLocked()
	}
}

// giveUpLocked ends a defragmentation under way; disk is held.
func (x *Maintenance) giveUpLocked() {
	d := x.disk.anew
	if d == nil {
		return
	}
	x.disk.anew = nil
	x.held.Store(false)
	if err := errors.Join(d.file.close(), removeFile(d.file.path)); err != nil { // the next one, or Open, removes it
		x.opt.Logger.Warn("a file that was being defragmented is left over", "path", d.file.path, "error", err)
	}
}

func (d *Defragmentation) stepLocked(budget int) (more bool, err error) {
	if !d.open {
		if err := d.file.open(); err != nil {
			return false, err
		}
		d.open = true
	}
	if len(d.buckets) > 0 {
		if err := d.copy(budget); err != nil {
			return false, err
		}
		if d.file.unsynced >= copyUnsynced {
			return true, d.file.sync()
		}
		return true, nil
	}
	if err := d.file.sync(); err != nil {
		return false, err
	}
	return false, d.finishLocked()
}

// copy copies the next records, as they are: each has its checksum, which the store checks when it reads it.
func (d *Defragmentation) copy(budget int) error {
	name := d.buckets[0]
	var next []byte
	err := d.file.commit(func(to *bolt.Tx, mem *slab) error {
		return d.x.file.view(func(from *bolt.Tx) error {
			in, out := from.Bucket(name), to.Bucket(name)
			out.FillPercent = fillAppend
			c, size := in.Cursor(), 0
			k, v := c.Seek(d.cursor)
			for ; k != nil && budget > 0 && size < d.x.opt.steps.bytes; k, v = c.Next() {
				if err := out.Put(k, append(mem.buf(len(v)), v...)); err != nil {
					return err
				}
				budget--
				size += len(k) + len(v)
			}
			next = bytes.Clone(k)
			return nil
		})
	})
	if err != nil {
		return err
	}
	if d.cursor = next; next == nil {
		d.buckets = d.buckets[1:]
	}
	return nil
}

// finishLocked puts the new file, which is durable, in the place of the old one; disk is held. Readers who began in the old one end there.
func (d *Defragmentation) finishLocked() error {
	x := d.x
	if err := x.hook("before defragmented"); err != nil {
		return err
	}
	if err := durable.Rename(d.file.path, x.file.path); err != nil {
		// Which of the two files a crash would leave cannot be known, so neither is written to again.
		x.disk.failed = fmt.Errorf("mvcc: %s: defragment: %w", x.file.path, err)
		return x.disk.failed
	}
	made := d.file.db
	made.NoSync, made.NoGrowSync = x.opt.NoSync, false
	d.file.db = nil
	x.disk.anew = nil
	x.held.Store(false)
	old := x.file.db.Swap(made)
	if err := old.Close(); err != nil { // nobody can come to it again
		x.opt.Logger.Warn("closing a file that was defragmented", "path", x.file.path, "error", err)
	}
	return x.hook("defragmented")
}
