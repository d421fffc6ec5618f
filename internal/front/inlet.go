package front

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

// errSilent ends a link whose source says nothing.
var errSilent = errors.New("it has said nothing for three intervals")

// idleTicks is for how many intervals a link stays open that brings no feed.
const idleTicks = 10

// inlet is the link to one node, by which feeds come. It ends for good when it breaks; another one takes its place.
type inlet struct {
	feeds *feeds
	node  shard.NodeID
	wake  chan struct{} // something is to be asked for

	leaving atomic.Bool // the source is about to stop

	mu    sync.Mutex
	sink  *link.Sink
	over  bool
	stays bool // is to be said: nothing more is had elsewhere
}

func newInlet(f *feeds, node shard.NodeID) *inlet {
	return &inlet{feeds: f, node: node, wake: make(chan struct{}, 1), sink: link.NewSink()}
}

// subscribe wants the feeds of ranges that are looked for no longer, because this link is to bring them.
func (in *inlet) subscribe(ids []shard.RangeID) {
	spans := make([][]shard.Span, len(ids))
	for i, id := range ids {
		spans[i] = in.feeds.narrow.spans(id)
	}
	in.mu.Lock()
	over := in.over
	if !over {
		in.feeds.mu.Lock()
		for i, id := range ids {
			if r := in.feeds.remote[id]; r != nil && r.from == in {
				in.sink.Subscribe(id, spans[i]...)
			}
		}
		in.feeds.mu.Unlock()
	}
	in.mu.Unlock()
	if over {
		for _, id := range ids {
			in.feeds.lost(in, id)
		}
	}
	patience.Wake(in.wake)
}

// confirm wants a feed that comes behind a border. false: it does not, or not any more.
func (in *inlet) confirm(id shard.RangeID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return !in.over && in.sink.Confirm(id)
}

// unsubscribe returns when nothing of a range's feed is being published any more.
func (in *inlet) unsubscribe(id shard.RangeID) {
	in.mu.Lock()
	in.sink.Unsubscribe(id)
	in.mu.Unlock()
	patience.Wake(in.wake)
}

// Publish implements link.Taker.
func (in *inlet) Publish(id shard.RangeID, item shard.FeedItem) {
	if item.Gap { // as every feed begins that does not follow from another one
		in.feeds.comes(in, id)
	}
	in.feeds.moves.publish(in, id, item)
}

// Inherit implements link.Taker.
func (in *inlet) Inherit(parent, child shard.RangeID) bool {
	return in.feeds.inherit(parent, child, in)
}

// widen wants a feed of other spans, which it may bring already.
func (in *inlet) widen(id shard.RangeID, spans []shard.Span) (anew bool) {
	in.mu.Lock()
	anew = !in.over && in.sink.Widen(id, spans)
	in.mu.Unlock()
	if anew {
		patience.Wake(in.wake)
	}
	return anew
}

// leavable is the rule by which a feed moves away from this link; nil: it does not come by it yet.
func (in *inlet) leavable(id shard.RangeID) *link.Move {
	in.mu.Lock()
	defer in.mu.Unlock()
	generation, closed, attached := in.sink.Reached(id)
	if !attached {
		return nil
	}
	return link.NewMove(generation, closed, in.sink.Cover(id))
}

// also wants a feed that another link still brings. false: this link is over.
func (in *inlet) also(id shard.RangeID) bool {
	spans := in.feeds.narrow.spans(id)
	in.mu.Lock()
	over := in.over
	if !over {
		in.sink.Subscribe(id, spans...)
	}
	in.mu.Unlock()
	patience.Wake(in.wake)
	return !over
}

// stay says that nobody need wait for what is left here.
func (in *inlet) stay() {
	in.mu.Lock()
	in.stays = true
	in.mu.Unlock()
	patience.Wake(in.wake)
}

// run keeps the link open until it breaks, or nobody needs it.
func (in *inlet) run() {
	ctx, cancel := context.WithCancelCause(in.feeds.ctx)
	var ticking sync.WaitGroup
	ticking.Go(func() { in.tick(ctx, cancel) })
	err := in.feeds.backend.Peers.OpenLink(ctx, in.node, in.use)
	cancel(nil)
	ticking.Wait()
	in.mu.Lock()
	in.over = true
	wanted := in.sink.Wanted()
	for _, id := range wanted {
		in.sink.Unsubscribe(id)
	}
	in.mu.Unlock()
	if errors.Is(err, errIdle) {
		err = nil
	}
	in.feeds.over(in, wanted, err)
}

// errIdle ends a link that nobody needs.
var errIdle = errors.New("nobody needs it")

// tick sees that a link does not stay in silence, from before it is open, nor for nothing.
func (in *inlet) tick(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(link.Interval)
	defer tick.Stop()
	idle := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		in.mu.Lock()
		gone, dead := in.sink.Tick()
		newest, _ := in.feeds.backend.Cluster.Newest()
		in.feeds.flow.heard.note(time.Now(), newest)
		if idle++; in.sink.Feeds() > 0 {
			idle = 0
		}
		in.over = in.over || dead || idle > idleTicks
		in.mu.Unlock()
		for _, id := range gone {
			in.feeds.lost(in, id)
		}
		patience.Wake(in.wake)
		switch {
		case dead:
			end(errSilent)
		case idle > idleTicks:
			end(errIdle)
		}
	}
}

// use asks and takes until the link breaks.
func (in *inlet) use(ctx context.Context, l peerrpc.Link) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() { in.ask(ctx, l) })
	err := in.take(l)
	cancel()
	asking.Wait()
	return err
}

// ask says what is wanted. Once that has failed, receiving fails too, and says why.
func (in *inlet) ask(ctx context.Context, l peerrpc.Link) {
	for {
		in.mu.Lock()
		req := in.sink.Ask()
		if in.stays {
			if req == nil {
				req = &pb.LinkRequest{}
			}
			req.Stays, in.stays = true, false
		}
		in.mu.Unlock()
		if req != nil {
			if l.Send(req) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-in.wake:
		}
	}
}

// take publishes what comes.
func (in *inlet) take(l peerrpc.Link) error {
	for first := true; ; first = false {
		fr, err := l.Recv()
		if err != nil {
			return err
		}
		if first {
			in.feeds.steady(in.node)
		}
		if err := in.takeFrame(fr); err != nil {
			return err
		}
	}
}

func (in *inlet) takeFrame(fr *pb.LinkFrame) error {
	if err := in.feeds.chain.learn(in.node, fr.Way); err != nil {
		return err
	}
	if fr.Leaving {
		in.feeds.leaves(in)
	}
	in.mu.Lock()
	gone, err := in.sink.Take(fr, in)
	counts := in.sink.Counts()
	in.mu.Unlock()
	in.feeds.flow.add(counts)
	for _, id := range gone {
		in.feeds.lost(in, id)
	}
	if len(gone) > 0 {
		patience.Wake(in.wake) // they are taken back
	}
	return err
}
