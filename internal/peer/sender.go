package peer

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/patience"
	"pontoon/internal/pb"
)

// Stream is an open stream as a Sender uses it.
type Stream struct {
	// Send sends what there is to send in one message, and reports false if there was nothing. It may block; it
	// fails once the stream is broken.
	Send func() (sent bool, err error)
	// Broken is closed when the stream has ended by itself, so that a dead peer is noticed
	// without sending to it.
	Broken <-chan struct{}
	// Err says why the stream has ended. Valid once Broken is closed.
	Err func() error
	// Close ends the stream and waits for whatever Open has started.
	Close func()
}

// SenderConfig configures a Sender.
type SenderConfig struct {
	// Open opens the stream and returns once the far side has accepted it.
	Open func(ctx context.Context) (Stream, error)
	// Idle reports that there is nothing to send: no stream is opened for that.
	Idle func() bool
	// Down is called on the sender's goroutine when the stream could not be opened, or was opened and has broken.
	// After one that could not be opened the sender rests for as long as it says.
	Down func(err error, opened bool) (rest time.Duration)
}

// Sender keeps a stream to one peer: it opens one when there is something to send, sends, and opens it again after it
// broke. What is sent is its owner's, and waits there.
type Sender struct {
	cfg  SenderConfig
	wake chan struct{}
}

// NewSender returns a sender, which Run starts.
func NewSender(cfg SenderConfig) *Sender {
	return &Sender{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Wake says that there is something to send. It never blocks.
func (s *Sender) Wake() { patience.Wake(s.wake) }

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		if s.cfg.Idle() {
			continue
		}
		stream, err := s.cfg.Open(ctx)
		if err == nil {
			err = Pump(ctx, s.wake, stream)
			stream.Close()
			if errors.Is(err, io.EOF) { // a send that found the stream ended; why is known to the receiver
				err = stream.Err()
			}
			if ctx.Err() == nil {
				s.cfg.Down(err, true)
				s.Wake() // what was not sent gets one more stream
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if rest := s.cfg.Down(err, false); rest > 0 && !sleep(ctx, rest) {
			return
		}
	}
}

// sleep waits, and reports false if ctx has ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Pump sends on an open stream, whenever it is woken, until that breaks or ctx ends, and returns why.
func Pump(ctx context.Context, wake <-chan struct{}, s Stream) error {
	for {
		runtime.Gosched() // who is ready to run goes first: one message carries what they all have
		sent, err := s.Send()
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		select {
		case <-wake:
		case <-s.Broken:
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// OneWay is the link of an accepted stream on which the far side sends nothing. cancel ends it.
func OneWay[T any](stream grpc.ClientStream, cancel context.CancelFunc, send func(items []T) error) Link[T] {
	broken := make(chan struct{})
	var why error
	go func() { // a receive returns when the stream ends
		defer close(broken)
		for why == nil {
			why = stream.RecvMsg(new(pb.Empty))
		}
	}()
	return Link[T]{
		Send:   send,
		Broken: broken,
		Err:    func() error { return why },
		Close:  func() { cancel(); <-broken },
	}
}
