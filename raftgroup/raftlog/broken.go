package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pontoon/shard"
)

// breakage is what is known of a write that has failed for good, or of a file that is damaged. Pebble tells of it through its
// logger, on whatever goroutine it happens, and counts on that call never to return. So whatever writes does
// it on a goroutine of the store's own, the writer, which may end for that.
type breakage struct {
	onFatal func(error)
	once    sync.Once
	why     error         // valid once ch is closed
	ch      chan struct{} // closed when nothing can be saved any more
	dead    chan struct{} // closed when a goroutine of Pebble's has ended over it
	killed  sync.Once

	work chan func() error // to the writer, one at a time
	done chan error        // from it
}

func newBreakage(onFatal func(error)) *breakage {
	b := &breakage{
		onFatal: onFatal, ch: make(chan struct{}), dead: make(chan struct{}),
		work: make(chan func() error), done: make(chan error, 1),
	}
	go func() { // until stop, or until something that it does has failed for good
		for fn := range b.work {
			b.done <- fn()
		}
	}()
	return b
}

// stop ends the writer. Nothing is guarded after it.
func (b *breakage) stop() { close(b.work) }

// fatal notes the failure and ends the goroutine that met it.
func (b *breakage) fatal(err error) {
	b.tell(err)
	b.killed.Do(func() { close(b.dead) })
	runtime.Goexit()
}

// stuck reports whether Pebble may wait for ever for a goroutine that has ended.
func (b *breakage) stuck() bool {
	select {
	case <-b.dead:
		return true
	default:
		return false
	}
}

// damaged notes that a file does not hold what was written to it. Whoever ran into it gets an error,
// and may be in the middle of something: it must go on.
func (b *breakage) damaged(info pebble.DataCorruptionInfo) {
	b.tell(fmt.Errorf("%w: %s: %v", shard.ErrCorrupt, info.Path, info.Details))
}

func (b *breakage) tell(err error) {
	b.once.Do(func() {
		b.why = err
		close(b.ch)
		if b.onFatal != nil {
			b.onFatal(err)
		}
	})
}

// err returns the failure, nil while there is none.
func (b *breakage) err() error {
	select {
	case <-b.ch:
		return b.why
	default:
		return nil
	}
}

// guard runs fn on the writer, which fn may end, or let wait for ever for another goroutine that has ended.
// What fn works on is lost then. Not to be called by two at a time.
func (b *breakage) guard(fn func() error) error {
	if err := b.err(); err != nil {
		return err
	}
	select {
	case b.work <- fn:
	case <-b.dead:
		return b.why
	}
	select {
	case err := <-b.done:
		return errors.Join(err, b.err())
	case <-b.dead:
		return b.why
	}
}

// openPebble opens the database; a write may fail even then.
func openPebble(dir string, o *pebble.Options, b *breakage) (db *pebble.DB, err error) {
	err = b.guard(func() error {
		var err error
		db, err = pebble.Open(dir, o)
		return err
	})
	if err != nil && !b.stuck() && db != nil {
		err = errors.Join(err, db.Close()) // it was found damaged as it was opened
	}
	return db, err
}

// pebbleLogger passes on what Pebble has to say: its chatter only to those who debug.
type pebbleLogger struct {
	l      *slog.Logger
	broken *breakage
}

// Infof implements pebble.Logger.
func (p pebbleLogger) Infof(format string, args ...any) {
	p.l.Debug("pebble: " + fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (p pebbleLogger) Errorf(format string, args ...any) {
	p.l.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger. It is called for the error of a write, often in the background.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.broken.fatal(fmt.Errorf(format, args...))
}
