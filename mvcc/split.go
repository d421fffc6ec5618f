package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// splitRest is how much of what was written since the last round a Split leaves to Finish, in bytes.
const splitRest = 4 << 20

// splitAll is the budget of a step that only the size of its transaction bounds.
const splitAll = 1 << 30

// splitStage is what the next step of a Split does.
type splitStage int

const (
	splitBase   splitStage = iota // the first copy: base, lease index, live keys
	splitLog                      // of a round: its part of the log, and of the lease index
	splitSettle                   // of a round: what may be settled, within the new file
	splitSync
	splitWait // until enough has been written for another round
)

// Split copies the right part of a store into a file of its own, while the store is written to, and makes it the
// store of another range. It copies what is there at its beginning, then in rounds what has been written since, and
// Finish brings the rest. Until Finish or Discard the store deletes nothing that was compacted after BeginSplit.
// Methods may be called from any goroutine, and beside reads, writes and Maintenance of the store; Step, Finish and
// Discard wait for each other. The store is closed only after.
type Split struct {
	s    *Store
	span shard.Span // the right part

	// work is held by whoever writes the new file; it is taken before the memtable's mu.
	work struct {
		sync.Mutex
		failed error // the new file is of no use any more
		over   bool  // it has been finished or discarded
		pin    *pin  // the moment of the first copy
		file   *splitFile
		base   splitWalk
		round  splitRound
		stage  splitStage
	}
}

var errSplitOver = errors.New("it has been finished or discarded")

// BeginSplit begins to copy what the store serves from at on into a new file at path, for the range child. A file that
// is there is replaced; path's directory exists. at lies in what is served, and is not its first key.
func BeginSplit(s *Store, at []byte, child shard.RangeID, path string) (*Split, error) {
	served := s.Span()
	sp := &Split{s: s, span: shard.Span{Start: bytes.Clone(at), End: served.End}}
	if !served.PartedBy(at) {
		return nil, sp.fault(fmt.Errorf("%w: not within %v", shard.ErrInvalid, served))
	}
	file, err := newSplitFile(path, child, s)
	if err != nil {
		return nil, sp.fault(err)
	}
	sp.work.file = file
	sp.beginLocked()
	return sp, nil
}

// beginLocked pins the present moment and goes to the beginning of the first copy.
func (sp *Split) beginLocked() {
	w := &sp.work
	w.pin = newTap(&sp.s.mem, sp.span)
	w.stage = splitBase
	w.file.settle, w.file.swept = w.pin.settle, w.pin.compact
	w.base = splitWalk{walk: versionWalk{s: sp.s, p: w.pin, span: sp.span}, keep: survivors{compact: w.pin.compact}}
	// As in any store: everything from the compaction revision on, and what is not settled.
	w.round = splitRound{settle: w.pin.settle, from: max(1, min(w.pin.compact, w.pin.settle+1)), to: w.pin.last}
	if mutate.On(mutate.SplitHistory) {
		w.round.from = w.pin.settle + 1
	}
}

func (sp *Split) fault(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mvcc: split of %v at %q: %w", sp.s.opt.RangeID, sp.span.Start[:min(len(sp.span.Start), 64)], err)
}

// Left is about how many bytes have been written to the right part that are not in the new file yet; math.MaxInt64
// during the first copy.
func (sp *Split) Left() int64 {
	sp.work.Lock()
	defer sp.work.Unlock()
	return sp.leftLocked()
}

func (sp *Split) leftLocked() int64 { return sp.work.pin.tap.left() }

// Keys is the number of live keys in the new file, once Finish has returned: what the Cut takes from the store.
func (sp *Split) Keys() int64 {
	sp.work.Lock()
	defer sp.work.Unlock()
	return sp.keysLocked()
}

func (sp *Split) keysLocked() int64 { return sp.work.base.keys + sp.work.pin.tap.moreKeys() }

// Step copies about budget versions, and at most a few MiB, in one transaction, or makes durable what was copied. more
// says that another step is due now; false that less than 4 MiB are left, which other writes will change again.
// After an error the Split can only be discarded.
func (sp *Split) Step(budget int) (more bool, err error) {
	sp.work.Lock()
	defer sp.work.Unlock()
	if err := sp.usableLocked(); err != nil {
		return false, err
	}
	if err := sp.stepLocked(max(budget, 1)); err != nil {
		return false, sp.failLocked(err)
	}
	return sp.work.stage != splitWait || sp.leftLocked() >= splitRest, nil
}

func (sp *Split) usableLocked() error {
	if sp.work.over {
		return sp.fault(fmt.Errorf("%w: %w", shard.ErrStopped, errSplitOver))
	}
	return sp.work.failed
}

func (sp *Split) failLocked(err error) error {
	sp.work.failed = sp.fault(err)
	return sp.work.failed
}

func (sp *Split) stepLocked(budget int) (err error) {
	w := &sp.work
	if w.pin.tap.isLost() {
		return sp.againLocked()
	}
	if w.file.unsynced >= splitUnsynced {
		return w.file.sync()
	}
	end := true
	switch w.stage {
	case splitBase:
		end, err = w.file.copyBase(&w.base, budget)
	case splitLog:
		end, err = w.file.copyRound(&w.round, sp.s, sp.span, budget)
	case splitSettle:
		end, err = w.file.settleTo(w.round.settle, budget)
	case splitSync:
		if err = w.file.sync(); err == nil {
			w.pin.tap.copied()
		}
	default:
		if end = false; sp.leftLocked() >= splitRest {
			w.round, w.stage = w.pin.tap.take(), splitLog
		}
	}
	if end && err == nil {
		w.stage++
	}
	return err
}

// againLocked begins anew, because so much has been written since the last step that it was not remembered.
func (sp *Split) againLocked() error {
	sp.s.mem.unpin(sp.work.pin)
	err := sp.work.file.reset()
	sp.beginLocked()
	return err
}

// Finish copies what is left, everything where nothing has been copied yet, and writes the child's state and its
// position in its own log. It makes the file durable under its final name, path, over what is there: when Finish
// returns, Open finds the child. It is called by whoever calls Apply, after all that comes before the cut; the Change
// with the Cut comes next. What is compacted and the last revision are the store's. After an error the Split can only
// be discarded.
func (sp *Split) Finish(path string, pos Position, state []StateUpdate) error {
	sp.work.Lock()
	defer sp.work.Unlock()
	if err := sp.usableLocked(); err != nil {
		return err
	}
	if err := sp.finishLocked(path, pos, state); err != nil {
		return sp.failLocked(err)
	}
	return nil
}

func (sp *Split) finishLocked(path string, pos Position, state []StateUpdate) error {
	w := &sp.work
	for w.stage < splitSettle || w.pin.tap.isLost() || w.pin.tap.bytesSince() >= 2*splitRest {
		if w.stage >= splitSettle { // settling under way is left to the child
			w.round, w.stage = w.pin.tap.take(), splitLog
		}
		if err := sp.stepLocked(splitAll); err != nil {
			return err
		}
	}
	round := w.pin.tap.take()
	p := progress{
		pos: pos, last: sp.s.LastRevision(), compact: sp.s.CompactRevision(),
		swept: w.file.swept, settle: w.file.settle, keys: sp.keysLocked(),
	}
	if err := w.file.finish(&round, sp.s, sp.span, p, state); err != nil {
		return err
	}
	if err := durable.Rename(w.file.path, path); err != nil {
		return err
	}
	sp.overLocked()
	return nil
}

func (sp *Split) overLocked() {
	sp.work.over = true
	sp.s.mem.unpin(sp.work.pin)
}

// Discard ends a Split and removes its file. It does nothing after Finish has made the child.
func (sp *Split) Discard() error {
	sp.work.Lock()
	defer sp.work.Unlock()
	if sp.work.over {
		return nil
	}
	sp.overLocked()
	return sp.fault(errors.Join(sp.work.file.close(), removeFile(sp.work.file.path)))
}
