package peer

import (
	"context"
	"sync"
	"time"

	"pontoon/internal/fifo"
)

// Link is one open stream as a SendQueue uses it: a Stream that is told what to send.
type Link[T any] struct {
	// Send sends items in order. It may block; it fails once the stream is broken. The slice is the queue's.
	Send   func(items []T) error
	Broken <-chan struct{}
	Err    func() error
	Close  func()
}

// SendQueueConfig configures a SendQueue.
type SendQueueConfig[T any] struct {
	// Open opens the stream and returns once the far side has accepted it.
	Open func(ctx context.Context) (Link[T], error)
	// Down is called on the queue's goroutine when the stream could not be opened (lost
	// items were queued and are dropped) or has broken (some that were sent may be lost).
	Down func(err error, lost int)
	// ItemsMax and BytesMax bound the queue; beyond them Send refuses. One item of any size
	// is always taken by an empty queue.
	ItemsMax, BytesMax int
}

// SendQueue queues items for one peer and sends them over a stream that it opens on demand and
// opens again when it breaks. It delivers at most once, in order.
type SendQueue[T any] struct {
	cfg    SendQueueConfig[T]
	sender *Sender
	cancel context.CancelFunc
	done   chan struct{}
	mu     struct {
		sync.Mutex
		items fifo.Batches[T]
		bytes int
	}
}

// sendQueueSpare bounds the room that a queue keeps after a burst.
const sendQueueSpare = 1024

// NewSendQueue starts a queue.
func NewSendQueue[T any](cfg SendQueueConfig[T]) *SendQueue[T] {
	q := &SendQueue[T]{cfg: cfg, done: make(chan struct{})}
	q.mu.items.Spare = sendQueueSpare
	q.sender = NewSender(SenderConfig{Open: q.open, Idle: q.idle, Down: q.down})
	ctx, cancel := context.WithCancel(context.Background())
	q.cancel = cancel
	go func() {
		defer close(q.done)
		q.sender.Run(ctx)
	}()
	return q
}

// Send queues an item and reports whether there was room. It never blocks.
func (q *SendQueue[T]) Send(item T, bytes int) bool {
	q.mu.Lock()
	n := q.mu.items.Len()
	full := n > 0 && (n >= q.cfg.ItemsMax || q.mu.bytes+bytes > q.cfg.BytesMax)
	if !full {
		q.mu.items.Push(item)
		q.mu.bytes += bytes
	}
	q.mu.Unlock()
	if !full {
		q.sender.Wake()
	}
	return !full
}

// Close drops what is queued, ends the stream and waits for the goroutine.
func (q *SendQueue[T]) Close() {
	q.cancel()
	<-q.done
}

func (q *SendQueue[T]) open(ctx context.Context) (Stream, error) {
	link, err := q.cfg.Open(ctx)
	if err != nil {
		return Stream{}, err
	}
	send := func() (bool, error) {
		items := q.take()
		if len(items) == 0 {
			return false, nil
		}
		err := link.Send(items)
		q.recycle(items)
		return true, err
	}
	return Stream{Send: send, Broken: link.Broken, Err: link.Err, Close: link.Close}, nil
}

func (q *SendQueue[T]) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.mu.items.Len() == 0
}

func (q *SendQueue[T]) down(err error, opened bool) time.Duration {
	if opened {
		q.cfg.Down(err, 0)
		return 0
	}
	lost := q.take()
	q.cfg.Down(err, len(lost))
	q.recycle(lost)
	return Backoff(err)
}

// take empties the queue.
func (q *SendQueue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.bytes = 0
	return q.mu.items.Take(q.mu.items.Len())
}

func (q *SendQueue[T]) recycle(items []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.items.Recycle(items)
}
