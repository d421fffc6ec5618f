package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// far is the other end of a queue: it opens links, and keeps what is sent over them.
type far struct {
	queue *SendQueue[int]

	mu      sync.Mutex
	refuse  error // what opening fails with
	hang    bool  // opening takes for ever
	stall   chan struct{}
	sendErr error
	link    *farLink // the one that is open
	opened  int
	got     []int
	batches int
	downs   []string
}

type farLink struct {
	broken chan struct{}
	why    error
	closed bool
}

func (f *far) open(ctx context.Context) (Link[int], error) {
	f.mu.Lock()
	hang, refuse := f.hang, f.refuse
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return Link[int]{}, ctx.Err()
	}
	if refuse != nil {
		return Link[int]{}, refuse
	}
	l := &farLink{broken: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	f.link = l
	return Link[int]{
		Send:   f.send,
		Broken: l.broken,
		Err:    func() error { return l.why },
		Close: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			l.closed = true
		},
	}, nil
}

func (f *far) send(items []int) error {
	f.mu.Lock()
	stall, err := f.stall, f.sendErr
	if err == nil {
		f.got = append(f.got, items...)
		f.batches++
	}
	f.mu.Unlock()
	if stall != nil {
		<-stall
	}
	return err
}

func (f *far) down(err error, lost int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.downs = append(f.downs, fmt.Sprintf("%v, %d lost", err, lost))
}

// set changes the far end.
func (f *far) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// snapBack ends the open link as the network does.
func (f *far) snapBack(why error) {
	f.set(func() {
		f.link.why = why
		close(f.link.broken)
	})
}

func (f *far) expect(t *testing.T, got []int, downs ...string) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.got, got) {
		t.Errorf("arrived: %v, want %v", f.got, got)
	}
	if !slices.Equal(f.downs, downs) {
		t.Errorf("told: %q, want %q", f.downs, downs)
	}
	f.got, f.downs = nil, nil
}

// onSendQueue runs fn with a queue of at most 3 items or 100 bytes, on a virtual clock.
func onSendQueue(t *testing.T, f *far, fn func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		f.queue = NewSendQueue(SendQueueConfig[int]{Open: f.open, Down: f.down, ItemsMax: 3, BytesMax: 100})
		fn(t)
		f.queue.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.link != nil && !f.link.closed {
			t.Error("the link was left open")
		}
	})
}

func TestSendQueueSendsInOrderOverOneLink(t *testing.T) {
	f := &far{}
	onSendQueue(t, f, func(t *testing.T) {
		synctest.Wait()
		if f.opened != 0 {
			t.Error("a link was opened for nothing")
		}
		for i := 1; i <= 5; i++ {
			if !f.queue.Send(i, 10) {
				t.Fatalf("no room for %d", i)
			}
			synctest.Wait()
		}
		f.expect(t, []int{1, 2, 3, 4, 5})
		if f.opened != 1 {
			t.Errorf("%d links", f.opened)
		}
	})
}

// What is queued while a send is under way goes with the next one, and slices are used again
// without being written while they are sent.
func TestSendQueueGathers(t *testing.T) {
	f := &far{}
	onSendQueue(t, f, func(t *testing.T) {
		for round := range 3 {
			stall := make(chan struct{})
			f.set(func() { f.stall, f.batches = stall, 0 })
			f.queue.Send(10*round, 1)
			synctest.Wait()
			for i := range 3 {
				f.queue.Send(10*round+i+1, 1)
			}
			close(stall)
			f.set(func() { f.stall = nil })
			f.expect(t, []int{10 * round, 10*round + 1, 10*round + 2, 10*round + 3})
			if f.batches != 2 {
				t.Errorf("%d batches", f.batches)
			}
		}
	})
}

func TestSendQueueLimits(t *testing.T) {
	f := &far{hang: true}
	onSendQueue(t, f, func(t *testing.T) {
		full := func(what string, item, bytes int, want bool) {
			t.Helper()
			if got := f.queue.Send(item, bytes); got != want {
				t.Errorf("%s: taken %v, want %v", what, got, want)
			}
		}
		full("anything into an empty queue", 1, 1000, true)
		full("too many bytes", 2, 1, false)
	})
	f = &far{hang: true}
	onSendQueue(t, f, func(t *testing.T) {
		for i, want := range []bool{true, true, true, false, false} {
			if got := f.queue.Send(i, 1); got != want {
				t.Errorf("item %d: taken %v, want %v", i, got, want)
			}
		}
	})
}

// A refused item changes nothing: what was queued before it is sent, and there is room again.
func TestSendQueueHasRoomAgain(t *testing.T) {
	f := &far{}
	onSendQueue(t, f, func(t *testing.T) {
		stall := make(chan struct{})
		f.set(func() { f.stall = stall })
		f.queue.Send(0, 1)
		synctest.Wait() // on its way: it fills the queue no more
		for i := 1; i <= 2; i++ {
			if !f.queue.Send(i, 50) {
				t.Errorf("no room for %d", i)
			}
		}
		if f.queue.Send(3, 1) {
			t.Error("101 bytes were taken")
		}
		close(stall)
		f.set(func() { f.stall = nil })
		f.expect(t, []int{0, 1, 2})
		if !f.queue.Send(4, 100) {
			t.Error("no room in an empty queue")
		}
		f.expect(t, []int{4})
	})
}

func TestSendQueueDropsWhatCouldNotBeSent(t *testing.T) {
	f := &far{refuse: errors.New("nobody there")}
	onSendQueue(t, f, func(t *testing.T) {
		f.queue.Send(1, 1)
		f.expect(t, nil, "nobody there, 1 lost")
		f.queue.Send(2, 1)
		f.queue.Send(3, 1)
		f.expect(t, nil) // it pauses
		<-time.After(100 * time.Millisecond)
		f.expect(t, nil, "nobody there, 2 lost")
		f.set(func() { f.refuse = nil })
		f.queue.Send(4, 1)
		<-time.After(100 * time.Millisecond)
		f.expect(t, []int{4})
	})
}

func TestSendQueuePausesLongerAfterARefusal(t *testing.T) {
	f := &far{refuse: refuse("another cluster")}
	onSendQueue(t, f, func(t *testing.T) {
		f.queue.Send(1, 1)
		f.expect(t, nil, f.refuse.Error()+", 1 lost")
		f.queue.Send(2, 1)
		<-time.After(999 * time.Millisecond)
		f.expect(t, nil)
		<-time.After(1001 * time.Millisecond)
		f.expect(t, nil, f.refuse.Error()+", 1 lost")
	})
}

func TestSendQueueOpensAgain(t *testing.T) {
	f := &far{}
	onSendQueue(t, f, func(t *testing.T) {
		f.queue.Send(1, 1)
		f.expect(t, []int{1})
		first := f.link
		f.snapBack(errors.New("reset"))
		f.expect(t, nil, "reset, 0 lost") // noticed without sending
		if !first.closed || f.opened != 1 {
			t.Errorf("closed %v, %d links: want the old one closed and no new one before it is needed", first.closed, f.opened)
		}
		f.queue.Send(2, 1)
		f.expect(t, []int{2})
		if f.opened != 2 {
			t.Errorf("%d links", f.opened)
		}
	})
}

// A send that finds the stream ended knows no reason; the receiver does. What was handed over may
// be lost; what is still queued is not.
func TestSendQueueLosesOnlyWhatWasHandedOver(t *testing.T) {
	f := &far{}
	onSendQueue(t, f, func(t *testing.T) {
		f.queue.Send(1, 1)
		f.expect(t, []int{1})
		stall := make(chan struct{})
		f.set(func() { f.stall, f.sendErr, f.link.why = stall, io.EOF, errors.New("stopped there") })
		f.queue.Send(2, 1)
		synctest.Wait()
		f.queue.Send(3, 1)
		f.set(func() { f.stall, f.sendErr = nil, nil })
		close(stall)
		f.expect(t, []int{3}, "stopped there, 0 lost")
	})
}

func TestSendQueueCloses(t *testing.T) {
	for name, f := range map[string]*far{
		"idle":              {},
		"while opening":     {hang: true},
		"while it pauses":   {refuse: refuse("no")},
		"with an open link": {},
	} {
		t.Run(name, func(t *testing.T) {
			onSendQueue(t, f, func(t *testing.T) {
				if name != "idle" {
					f.queue.Send(1, 1)
				}
				synctest.Wait()
				f.queue.Close()
				f.set(func() { f.downs = nil })
				if f.queue.Send(2, 1); f.opened > 1 {
					t.Error("a link was opened after Close")
				}
				f.set(func() { f.got = nil })
				f.expect(t, nil)
			})
		})
	}
}
