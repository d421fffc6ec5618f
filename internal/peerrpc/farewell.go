package peerrpc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/patience"
	"pontoon/internal/peer"
)

// A node that stops would leave those in doubt whose calls it has received: they cannot tell what was begun from what was not.
// So it says farewell before it closes its port: from then on it begins nothing, answers what it has begun, and says on each stream, behind
// the last answer, that this was all. Who hears that ends the stream, so the node knows that it was heard.

// farewell is where the mesh of a node that stops stands with that.
type farewell struct {
	said  chan struct{}   // closed when it is said
	begun atomic.Bool     // the same, for the hot path
	over  <-chan struct{} // nobody is waited for any more; valid once it is said
	mu    struct {
		sync.Mutex
		streams int           // that are served
		ended   chan struct{} // for who waits for the end of the last
	}
}

func (f *farewell) init() {
	f.said = make(chan struct{})
	f.mu.ended = make(chan struct{}, 1)
}

func (f *farewell) was() bool { return f.begun.Load() }

func (f *farewell) enter() {
	f.mu.Lock()
	f.mu.streams++
	f.mu.Unlock()
}

func (f *farewell) leave() {
	f.mu.Lock()
	f.mu.streams--
	last := f.mu.streams == 0
	f.mu.Unlock()
	if last {
		patience.Wake(f.mu.ended)
	}
}

// served is the number of streams.
func (f *farewell) served() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.streams
}

// TakesCalls implements peer.CallService.
func (m *Mesh) TakesCalls() error {
	if m.farewell.was() {
		return peer.ErrLeft
	}
	return nil
}

// Farewell answers the calls of others that are being served, takes no more, and ends their streams such that what was not begun is certain. It waits for
// that until ctx ends; calls that are not answered then are in doubt. Calls to others go on. It may be called once.
func (m *Mesh) Farewell(ctx context.Context) {
	f := &m.farewell
	f.over = ctx.Done()
	f.begun.Store(true)
	close(f.said)
	for f.served() > 0 {
		select {
		case <-f.mu.ended:
		case <-ctx.Done():
			return
		}
	}
}

// leaveLook is how often a stream that is to end looks whether its last answer is on its way.
const leaveLook = time.Millisecond

// sayFarewell waits until all that the stream has begun is answered, says so, and waits until the far side has heard it. It returns
// what the stream ends with.
func (s *served) sayFarewell(received <-chan error) error {
	look := time.NewTicker(leaveLook)
	defer look.Stop()
	asked := look.C
	for {
		select {
		case err := <-received:
			return err
		case <-s.m.farewell.over:
			return context.Canceled
		case <-asked:
			if s.calls.Load() == 0 { // its answers are queued
				s.mu.Lock()
				s.mu.left = s.mu.answers.Len() == 0
				if s.mu.left {
					asked = nil
				}
				s.mu.Unlock()
				patience.Wake(s.wake)
			}
		}
	}
}
