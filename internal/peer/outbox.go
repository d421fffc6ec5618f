package peer

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"
)

// Link is one open stream as an Outbox uses it.
type Link[T any] struct {
	// Send sends items in order. It may block; it fails once the stream is broken.
	Send func(items []T) error
	// Broken is closed when the stream has ended by itself, so that a dead peer is noticed
	// without sending to it.
	Broken <-chan struct{}
	// Err says why the stream has ended. Valid once Broken is closed.
	Err func() error
	// Close ends the stream and waits for whatever Open has started.
	Close func()
}

// OutboxConfig configures an Outbox.
type OutboxConfig[T any] struct {
	// Open opens the stream and returns once the far side has accepted it.
	Open func(ctx context.Context) (Link[T], error)
	// Down is called on the outbox's goroutine when the stream could not be opened (lost
	// items were queued and are dropped) or has broken (some that were sent may be lost).
	Down func(err error, lost int)
	// ItemsMax and BytesMax bound the queue; beyond them Send refuses. One item of any size
	// is always taken by an empty queue.
	ItemsMax, BytesMax int
}

// Outbox queues items for one peer and sends them over a stream that it opens on demand and
// opens again when it breaks. It delivers at most once, in order.
type Outbox[T any] struct {
	cfg    OutboxConfig[T]
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{}
	mu     struct {
		sync.Mutex
		items []T
		spare []T
		bytes int
	}
}

// NewOutbox starts an outbox.
func NewOutbox[T any](cfg OutboxConfig[T]) *Outbox[T] {
	o := &Outbox[T]{cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	go o.run()
	return o
}

// Send queues an item and reports whether there was room. It never blocks.
func (o *Outbox[T]) Send(item T, bytes int) bool {
	o.mu.Lock()
	full := len(o.mu.items) > 0 && (len(o.mu.items) >= o.cfg.ItemsMax || o.mu.bytes+bytes > o.cfg.BytesMax)
	if !full {
		o.mu.items = append(o.mu.items, item)
		o.mu.bytes += bytes
	}
	o.mu.Unlock()
	if full {
		return false
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return true
}

// Close drops what is queued, ends the stream and waits for the goroutine.
func (o *Outbox[T]) Close() {
	o.cancel()
	<-o.done
}

func (o *Outbox[T]) run() {
	defer close(o.done)
	for {
		select {
		case <-o.wake:
		case <-o.ctx.Done():
			return
		}
		link, err := o.cfg.Open(o.ctx)
		if o.ctx.Err() != nil {
			if err == nil {
				link.Close()
			}
			return
		}
		if err != nil {
			o.cfg.Down(err, len(o.take()))
			if !o.pause(Backoff(err)) {
				return
			}
			continue
		}
		err = o.pump(link)
		link.Close()
		if o.ctx.Err() != nil {
			return
		}
		if errors.Is(err, io.EOF) { // a send that found the stream ended; why is known to the receiver
			err = link.Err()
		}
		o.cfg.Down(err, 0) // what is queued has woken the next turn already
	}
}

// pump sends until the link breaks.
func (o *Outbox[T]) pump(link Link[T]) error {
	for {
		runtime.Gosched() // who is ready to run goes first: one frame carries what they all have
		if items := o.take(); len(items) > 0 {
			if err := link.Send(items); err != nil {
				return err
			}
			o.recycle(items)
			continue
		}
		select {
		case <-o.wake:
		case <-link.Broken:
			return link.Err()
		case <-o.ctx.Done():
			return o.ctx.Err()
		}
	}
}

// take empties the queue.
func (o *Outbox[T]) take() []T {
	o.mu.Lock()
	defer o.mu.Unlock()
	items := o.mu.items
	o.mu.items, o.mu.spare, o.mu.bytes = o.mu.spare[:0], nil, 0
	return items
}

// recycle keeps the slice for the next turn, unless a burst made it large.
func (o *Outbox[T]) recycle(items []T) {
	const keepMax = 1024
	if cap(items) > keepMax {
		return
	}
	clear(items)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.spare = items[:0]
}

func (o *Outbox[T]) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-o.ctx.Done():
		return false
	}
}
