package host

import (
	"context"
	"errors"
	"sync"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

// errGreedy ends a link whose other end asks for more than there can be.
var errGreedy = errors.New("more feeds are asked for than a link takes")

// outlet is a link to another process, which wants feeds from here. No method blocks: what waits is bounded, and is sent by serve alone.
type outlet struct {
	feeds *feeds
	wake  chan struct{} // something is to be sent

	mu     sync.Mutex
	source *link.Source
	greedy bool
	over   bool // it listens to nothing any more
}

func newOutlet(f *feeds, limits link.Limits) *outlet {
	return &outlet{feeds: f, wake: make(chan struct{}, 1), source: link.NewSource(limits)}
}

// change changes what is to be sent.
func (o *outlet) change(how func(*link.Source)) {
	o.mu.Lock()
	before := o.source.Drops()
	how(o.source)
	dropped := o.source.Drops() - before
	o.mu.Unlock()
	if dropped > 0 {
		o.feeds.drops.Add(dropped)
	}
	peer.Wake(o.wake)
}

// publish gives it the next item of a range. The caller holds the lock that orders those.
func (o *outlet) publish(id shard.RangeID, it *link.Item) {
	o.change(func(s *link.Source) { s.Publish(id, it) })
}

// publishBorder is publish for an item with a border, and reports whether the child's items are to come here, too.
func (o *outlet) publishBorder(id shard.RangeID, it *link.Item) (inherits bool) {
	o.change(func(s *link.Source) { inherits = s.PublishBorder(id, it) && !o.over })
	return inherits
}

func (o *outlet) attach(id shard.RangeID, begin shard.FeedItem) {
	o.change(func(s *link.Source) { o.greedy = !s.Attach(id, begin) || o.greedy })
}

func (o *outlet) detach(id shard.RangeID) { o.change(func(s *link.Source) { s.Detach(id) }) }

func (o *outlet) end(id shard.RangeID) {
	o.change(func(s *link.Source) { o.greedy = !s.End(id) || o.greedy })
}

// isOver reports whether it listens to nothing any more.
func (o *outlet) isOver() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over
}

// finish lets it listen to nothing any more.
func (o *outlet) finish() {
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	o.feeds.forget(o)
}

// next cuts the next frame; nil: nothing is to be sent.
func (o *outlet) next() (*pb.LinkFrame, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.greedy {
		return nil, errGreedy
	}
	return o.source.Next()
}

// serveLink answers another process until its link ends.
func (f *feeds) serveLink(ctx context.Context, in peerrpc.LinkSource) error {
	o := newOutlet(f, link.Limits{})
	f.links.Add(1)
	asking := make(chan error, 1)
	go func() { asking <- o.listen(in) }() // it ends with the stream, which ends when this returns
	defer f.links.Add(-1)
	defer o.finish()
	tick := time.NewTicker(link.Interval)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-asking:
			return err
		case <-tick.C:
			if !said {
				if err := in.Send(&pb.LinkFrame{}); err != nil {
					return err
				}
			}
			said = false
		case <-o.wake:
			sent, err := o.drain(in)
			if err != nil {
				return err
			}
			said = said || sent
		}
	}
}

// drain sends what waits.
func (o *outlet) drain(in peerrpc.LinkSource) (sent bool, err error) {
	for {
		fr, err := o.next()
		if fr == nil || err != nil {
			return sent, err
		}
		if err := in.Send(fr); err != nil {
			return sent, err
		}
		sent = true
	}
}

// listen does what the other end asks for, until the link ends.
func (o *outlet) listen(in peerrpc.LinkSource) error {
	for {
		req, err := in.Recv()
		if err != nil {
			return err
		}
		for _, id := range pb.ToRangeIDs(req.Unsubscribe) {
			o.feeds.detach(o, id)
		}
		for _, id := range pb.ToRangeIDs(req.Subscribe) {
			o.feeds.attach(o, id)
		}
	}
}

// register tells how links fare.
func (f *feeds) register(gauge, counter func(name, help string, fn func() float64)) {
	counter("pontoon_feed_items_dropped_total", "Items of feeds that another node or a gateway did not take in time; its watchers read them from history.", func() float64 { return float64(f.drops.Load()) })
	gauge("pontoon_links_served", "Links by which other nodes and gateways have feeds from this node.", func() float64 { return float64(f.links.Load()) })
}
