package linktest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"pontoon/internal/link"
	"pontoon/internal/pb"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

// End is the end of a link that wants feeds. It implements peerrpc.LinkSource, as whoever serves it sees it.
type End struct {
	ctx  context.Context
	to   link.Taker
	asks chan *pb.LinkRequest

	mu      sync.Mutex
	hold    chan struct{} // nil: frames are taken as they come
	sink    *link.Sink
	gone    []shard.RangeID
	idle    int
	leaving int
	levels  []uint32
}

var _ peerrpc.LinkSource = (*End)(nil)

// Serve has an end served until the test ends, or end is called, which returns how that came out. What comes is told to a taker.
func Serve(t testing.TB, serve func(ctx context.Context, in peerrpc.LinkSource) error, to link.Taker) (l *End, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l = &End{ctx: ctx, to: to, asks: make(chan *pb.LinkRequest), sink: link.NewSink()}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l) }()
	synctest.Wait()
	return l, func() error {
		cancel()
		return <-ended
	}
}

// Send implements peerrpc.LinkSource.
func (l *End) Send(fr *pb.LinkFrame) error {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		<-hold
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(fr.Messages) == 0 && fr.Way == nil && !fr.Leaving {
		l.idle++
	}
	if fr.Leaving {
		l.leaving++
	}
	if fr.Way != nil {
		l.levels = append(l.levels, fr.Way.Level)
	}
	gone, err := l.sink.Take(fr, l.to)
	l.gone = append(l.gone, gone...)
	return err
}

// Recv implements peerrpc.LinkSource.
func (l *End) Recv() (*pb.LinkRequest, error) {
	select {
	case req := <-l.asks:
		return req, nil
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
}

// Want subscribes to ranges, and returns when that has been answered.
func (l *End) Want(ids ...shard.RangeID) {
	l.ask(func(k *link.Sink, id shard.RangeID) { k.Subscribe(id) }, ids)
}

// WantOf subscribes to a range for some spans alone, or widens what is wanted of it, and returns when that has been answered.
func (l *End) WantOf(id shard.RangeID, spans ...shard.Span) {
	l.ask(func(k *link.Sink, id shard.RangeID) {
		if !k.Widen(id, spans) {
			k.Subscribe(id, spans...)
		}
	}, []shard.RangeID{id})
}

// Leave wants ranges no more, and returns when the other end knows.
func (l *End) Leave(ids ...shard.RangeID) { l.ask((*link.Sink).Unsubscribe, ids) }

func (l *End) ask(how func(*link.Sink, shard.RangeID), ids []shard.RangeID) {
	l.mu.Lock()
	for _, id := range ids {
		how(l.sink, id)
	}
	req := l.sink.Ask()
	l.mu.Unlock()
	if req != nil {
		l.Say(req)
	}
}

// Say sends a request as it is, and returns when the other end has done what it does.
func (l *End) Say(req *pb.LinkRequest) {
	l.asks <- req
	synctest.Wait()
}

// Hold takes no frame from here on, until it is let: one may be on its way, and no more.
func (l *End) Hold() (let func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	hold := make(chan struct{})
	l.hold = hold
	return func() { close(hold) }
}

// Gone are the ranges that were said to be had elsewhere.
func (l *End) Gone() []shard.RangeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.gone)
}

// Idle is how many frames said nothing.
func (l *End) Idle() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idle
}

// Leaving is how often it was said that the other end is about to stop.
func (l *End) Leaving() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaving
}

// Levels are those of the ways that were told, in order.
func (l *End) Levels() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.levels)
}

// Told is a link.Taker that writes down in words what comes, and has children follow.
type Told struct {
	mu  sync.Mutex
	got []string
}

// Publish implements link.Taker.
func (l *Told) Publish(id shard.RangeID, item shard.FeedItem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, fmt.Sprintf("%d: %d events, gap %v, border %v, c%d", id, len(item.Events), item.Gap, item.Border != nil, item.Closed))
}

// Inherit implements link.Taker.
func (l *Told) Inherit(_, _ shard.RangeID) bool { return true }

// Want checks what has come since it was looked last.
func (l *Told) Want(t testing.TB, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.got, want) {
		t.Errorf("%s: told %q, want %q", what, l.got, want)
	}
	l.got = nil
}
