package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// breakage is what is known of a write that has failed for good. Pebble tells of it through its
// logger, on whatever goroutine it happens, and counts on that call never to return.
type breakage struct {
	onFatal func(error)
	once    sync.Once
	why     error         // valid once ch is closed
	ch      chan struct{} // closed when nothing can be saved any more
}

func newBreakage(onFatal func(error)) *breakage {
	return &breakage{onFatal: onFatal, ch: make(chan struct{})}
}

// fatal notes the failure and ends the goroutine that met it.
func (b *breakage) fatal(err error) {
	b.once.Do(func() {
		b.why = err
		close(b.ch)
		if b.onFatal != nil {
			b.onFatal(err)
		}
	})
	runtime.Goexit()
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

// guard runs fn, which may end its goroutine or wait for ever for another that has ended. What fn
// works on is lost then.
func (b *breakage) guard(fn func() error) error {
	if err := b.err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return errors.Join(err, b.err())
	case <-b.ch:
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
