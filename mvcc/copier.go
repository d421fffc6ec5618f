package mvcc

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// copyRest is how much of what was written since the last round a copier leaves to its end, in bytes.
const copyRest = 4 << 20

// copyAll is the budget of a step that only the size of its transaction bounds.
const copyAll = 1 << 30

// copyStage is what the next step of a copier does.
type copyStage int

const (
	copyFirst  copyStage = iota // the first copy of each source: base, lease index, live keys
	copyLog                     // of a round: each source's part of the log, and of the lease index
	copySettle                  // what may be settled, within the new file, if it is worth it
	copySync
	copyWait // until enough has been written for another round
)

// copier copies parts of stores into a file of its own, while the stores are written to: what is there at its beginning,
// then in rounds what has been written since, and at its end the rest. Until then the stores delete nothing that was
// compacted after its beginning. It is what Split and Merge have in common.
type copier struct {
	what    string  // is being done, for errors
	sources sources // in key order
	settle  int64   // up to here nothing comes to any of them: what the caller knows, beside what they know themselves

	// work is held by whoever writes the new file; it is taken before a memtable's mu.
	work struct {
		sync.Mutex
		failed error // the new file is of no use any more
		over   bool  // it has been finished or discarded
		file   *copiedFile
		stage  copyStage
		at     int  // of the sources, the one that the stage is at
		level  bool // little is left, or was when the last round had been copied and has not doubled since
	}
}

var errCopyOver = errors.New("it has been finished or discarded")

// begin makes the new file, and pins the present moment.
func (c *copier) begin(file *copiedFile) error {
	c.work.file = file
	file.mmap = min(fillMmap, file.opt.InitialMmapSize)
	if err := file.open(); err != nil {
		return c.fault(err)
	}
	c.beginLocked()
	return nil
}

// beginLocked pins the present moment and goes to the beginning of the first copy.
func (c *copier) beginLocked() {
	w := &c.work
	w.stage, w.at = copyFirst, 0
	settle, swept := int64(math.MaxInt64), int64(math.MaxInt64)
	for _, src := range c.sources {
		src.begin()
		settle, swept = min(settle, src.pin.settle), min(swept, src.pin.compact)
	}
	w.file.settle, w.file.swept = max(settle, c.settle), swept
	for i, src := range c.sources {
		if mutate.On(mutate.SplitHistory) || i > 0 && mutate.On(mutate.MergeHistory) {
			src.round.from = w.file.settle + 1
		}
	}
	switch {
	case mutate.On(mutate.MergeSwept):
		w.file.swept = max(c.sources[0].pin.compact, c.sources[len(c.sources)-1].pin.compact)
	case mutate.On(mutate.MergeSettle) && len(c.sources) > 1:
		w.file.settle = max(c.settle, c.sources[0].pin.last)
	}
}

func (c *copier) fault(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mvcc: %s: %w", c.what, err)
}

// Left is about how many bytes have been written to what is copied that are not in the new file yet; math.MaxInt64
// during the first copy.
func (c *copier) Left() int64 {
	c.work.Lock()
	defer c.work.Unlock()
	return c.sources.left()
}

// Keys is the number of live keys in the new file, once Finish has returned.
func (c *copier) Keys() int64 {
	c.work.Lock()
	defer c.work.Unlock()
	return c.keysLocked()
}

func (c *copier) keysLocked() (sum int64) {
	for i, src := range c.sources {
		if i == 0 || !mutate.On(mutate.MergeCount) {
			sum += src.first.keys + src.pin.tap.moreKeys()
		}
	}
	return sum
}

// Step copies about budget versions, and at most a few MiB, in one transaction, or makes durable what was copied. spare says that there
// is time for what only saves time later, when the new file is opened: settling what has been copied of the log. more says that another
// step is due now; false that less than 4 MiB are left, which other writes will change again. After an error the copy can only be
// discarded.
func (c *copier) Step(budget int, spare bool) (more bool, err error) {
	c.work.Lock()
	defer c.work.Unlock()
	if err := c.usableLocked(); err != nil {
		return false, err
	}
	if err := c.stepLocked(max(budget, 1), spare); err != nil {
		return false, c.failLocked(err)
	}
	c.judgeLocked()
	return c.work.stage != copyWait || c.sources.left() >= copyRest || c.settlesLocked(spare), nil
}

// Level reports whether so little is left that Finish would be quick.
func (c *copier) Level() bool {
	c.work.Lock()
	defer c.work.Unlock()
	c.judgeLocked()
	return c.work.level
}

// judgeLocked works out whether the copy is level. It stays so while a round is copied that has begun in time.
func (c *copier) judgeLocked() {
	bound := int64(copyRest)
	if c.work.level {
		bound *= 2
	}
	c.work.level = c.sources.left() < bound
}

// settlesLocked reports whether settling is worth it: each pass writes most pages of the base once, however much it brings.
func (c *copier) settlesLocked(spare bool) bool {
	least := c.work.file.opt.steps.settle
	if spare {
		least /= 4
	}
	return c.work.file.pass != nil || c.work.file.unsettled >= least
}

func (c *copier) usableLocked() error {
	if c.work.over {
		return c.fault(fmt.Errorf("%w: %w", shard.ErrStopped, errCopyOver))
	}
	return c.work.failed
}

func (c *copier) failLocked(err error) error {
	c.work.failed = c.fault(err)
	return c.work.failed
}

func (c *copier) stepLocked(budget int, spare bool) (err error) {
	w := &c.work
	if c.sources.lost() {
		return c.againLocked()
	}
	if w.file.unsynced >= copyUnsynced {
		return w.file.sync()
	}
	end := true
	switch w.stage {
	case copyFirst:
		end, err = w.file.copyFirst(c.sources[w.at], budget)
		end = end && c.lastLocked()
	case copyLog:
		end, err = w.file.copyRound(c.sources[w.at], budget)
		end = end && c.lastLocked()
	case copySettle:
		if c.settlesLocked(spare) {
			end, err = w.file.settleTo(c.targetLocked(), budget)
		}
	case copySync:
		if err = w.file.sync(); err == nil {
			for _, src := range c.sources {
				src.pin.tap.copied()
			}
		}
	default:
		if end = false; c.sources.left() >= copyRest {
			c.takeLocked()
		} else if c.settlesLocked(spare) {
			w.stage = copySettle
		}
	}
	if end && err == nil {
		w.stage++
	}
	return err
}

// lastLocked goes on to the next source. It reports whether the one before was the last.
func (c *copier) lastLocked() bool {
	c.work.at = (c.work.at + 1) % len(c.sources)
	return c.work.at == 0
}

// targetLocked is how far the round that has been copied may be settled.
func (c *copier) targetLocked() int64 {
	target := int64(math.MaxInt64)
	for _, src := range c.sources {
		target = min(target, src.round.settle)
	}
	return target
}

// takeLocked begins a round.
func (c *copier) takeLocked() {
	for _, src := range c.sources {
		src.round = src.pin.tap.take()
	}
	c.work.stage, c.work.at = copyLog, 0
}

// againLocked begins anew, because so much has been written since the last step that it was not remembered.
func (c *copier) againLocked() error {
	c.unpinLocked()
	err := c.work.file.reset()
	c.beginLocked()
	return err
}

func (c *copier) unpinLocked() {
	for _, src := range c.sources {
		src.s.mem.unpin(src.pin)
	}
}

// finish copies what is left, everything where nothing has been copied yet, and writes what the new file says about
// itself. When the file is durable and closed, place puts it where it belongs.
func (c *copier) finish(pos Position, state []StateUpdate, place func(path string) error) error {
	c.work.Lock()
	defer c.work.Unlock()
	if err := c.usableLocked(); err != nil {
		return err
	}
	if err := c.finishLocked(pos, state, place); err != nil {
		return c.failLocked(err)
	}
	return nil
}

func (c *copier) finishLocked(pos Position, state []StateUpdate, place func(path string) error) error {
	w := &c.work
	for _, src := range c.sources {
		if err := src.served(); err != nil {
			return err
		}
	}
	for w.stage < copySettle || c.sources.lost() || c.sources.since() >= 2*copyRest {
		if w.stage >= copySettle { // settling under way is left to the new store
			c.takeLocked()
		}
		if err := c.stepLocked(copyAll, false); err != nil {
			return err
		}
	}
	c.takeLocked()
	if err := w.file.finish(c.sources, c.progressLocked(pos), state); err != nil {
		return err
	}
	if err := place(w.file.path); err != nil {
		return err
	}
	c.overLocked()
	return nil
}

// progressLocked is what the new file says about itself.
func (c *copier) progressLocked(pos Position) progress {
	f := c.work.file
	p := progress{pos: pos, swept: f.swept, keys: c.keysLocked()}
	for _, src := range c.sources {
		p.last, p.compact = max(p.last, src.s.LastRevision()), max(p.compact, src.s.CompactRevision())
	}
	if mutate.On(mutate.MergeCompact) {
		p.compact = c.sources[0].s.CompactRevision()
	}
	// What comes next is above what has come, and may be at or below what nothing comes to any more: the caller says so
	// of the sources.
	p.settle = min(f.settle, max(p.last, p.compact))
	if mutate.On(mutate.MergeBeyond) {
		p.settle = f.settle
	}
	return p
}

func (c *copier) overLocked() {
	c.work.over = true
	c.unpinLocked()
}

// Discard ends the copy and removes its file. It does nothing after Finish has made one.
func (c *copier) Discard() error {
	c.work.Lock()
	defer c.work.Unlock()
	if c.work.over {
		return nil
	}
	c.overLocked()
	return c.fault(errors.Join(c.work.file.close(), removeFile(c.work.file.path)))
}
