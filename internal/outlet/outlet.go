package outlet

import (
	"context"
	"errors"
	"sync"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
)

var (
	// errGreedy ends a link whose other end asks for more than there can be.
	errGreedy = errors.New("more feeds are asked for than a link takes")
	// errStray ends a link whose other end names keys of what it does not ask for.
	errStray = errors.New("spans are named of a feed that is not subscribed to with them")
	// errMany refuses a link.
	errMany = errors.New("as many links are served as one process takes: have gateways stand behind gateways, with --upstream")
)

// linksMax bounds the links that a process serves: each may have link.Limits.Bytes waiting.
const linksMax = 4096

// Feeds are what links have feeds of. No method blocks.
type Feeds interface {
	// Attach lets a link listen to a range, or ends the range's feed there.
	Attach(o *Outlet, id shard.RangeID)
	// Detach lets it listen no more, also on the link itself.
	Detach(o *Outlet, id shard.RangeID)
	// Forget lets it listen to nothing any more, wherever it does: the link is over.
	Forget(o *Outlet)
}

// Outlets are the links that a process serves.
type Outlets struct {
	feeds  Feeds
	limits link.Limits

	mu      sync.Mutex
	open    map[*Outlet]struct{}
	leaving bool
	way     *pb.LinkWay // nil: this process is a member
	drops   int64       // of links that have ended
}

// New makes what serves links. way is how the feeds of a gateway come; nil: they are a member's own.
func New(feeds Feeds, limits link.Limits, way *pb.LinkWay) *Outlets {
	return &Outlets{feeds: feeds, limits: limits, open: map[*Outlet]struct{}{}, way: way}
}

// Links is how many there are.
func (s *Outlets) Links() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Drops is how many items have found no room on a link.
func (s *Outlets) Drops() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.drops
	for o := range s.open {
		n += o.drops()
	}
	return n
}

// SetWay says by which way a gateway's feeds come from here on. It is not written any more.
func (s *Outlets) SetWay(way *pb.LinkWay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.way = way
	for o := range s.open {
		o.change(func(o *Outlet) { o.way = way })
	}
}

// retireLook is how often it is looked whether feeds have moved.
const retireLook = 5 * time.Millisecond

// Leave says on every link that this process is about to stop, so that feeds are had elsewhere from then on.
func (s *Outlets) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	for o := range s.open {
		o.change(func(o *Outlet) { o.leaving = true })
	}
}

// leftPatience bounds how long others are waited for who do not take their feeds elsewhere: they lose nothing, and have a gap.
const leftPatience = 2 * time.Second

// AwaitLeft returns when nobody has feeds from here any more that are to be had elsewhere, or with ctx, or when that takes too long. Leave was called.
func (s *Outlets) AwaitLeft(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leftPatience)
	defer cancel()
	look := time.NewTicker(retireLook)
	defer look.Stop()
	for s.waited() && ctx.Err() == nil {
		select {
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// waited reports whether somebody still has feeds from here and moves them.
func (s *Outlets) waited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range s.open {
		if o.moves() {
			return true
		}
	}
	return false
}

// Outlet is a link to another process, which wants feeds from here. No method blocks: what waits is bounded, and is sent by Outlets.Serve alone.
type Outlet struct {
	wake chan struct{} // something is to be sent

	mu      sync.Mutex
	source  *link.Source
	greedy  bool
	over    bool // it listens to nothing any more
	leaving bool // is to be said
	stays   bool // the other end moves nothing
	way     *pb.LinkWay
}

var _ link.Listener = (*Outlet)(nil)

// change changes what is to be sent.
func (o *Outlet) change(how func(*Outlet)) {
	o.mu.Lock()
	how(o)
	o.mu.Unlock()
	patience.Wake(o.wake)
}

func (o *Outlet) drops() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.source.Drops()
}

// moves reports whether it is waited for before this process stops.
func (o *Outlet) moves() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.source.Feeds() > 0 && !o.stays
}

// Publish implements link.Listener. The caller holds the lock that orders the range's items.
func (o *Outlet) Publish(id shard.RangeID, it *link.Item) {
	o.change(func(o *Outlet) { o.source.Publish(id, it) })
}

// PublishBorder implements link.Listener.
func (o *Outlet) PublishBorder(id shard.RangeID, it *link.Item) (inherits bool) {
	o.change(func(o *Outlet) { inherits = o.source.PublishBorder(id, it) && !o.over })
	return inherits
}

// Attach implements link.Listener.
func (o *Outlet) Attach(id shard.RangeID, begin shard.FeedItem) {
	o.change(func(o *Outlet) { o.greedy = !o.source.Attach(id, begin) || o.greedy })
}

// ask notes of which keys feeds are wanted that are subscribed to.
func (o *Outlet) ask(req *pb.LinkRequest) (err error) {
	if len(req.Spans) == 0 {
		return nil
	}
	wanted := make(map[uint64]struct{}, len(req.Subscribe))
	for _, id := range req.Subscribe {
		wanted[id] = struct{}{}
	}
	o.change(func(o *Outlet) {
		for _, m := range req.Spans {
			if _, ok := wanted[m.RangeId]; !ok {
				err = errStray
			} else if err == nil {
				err = o.source.Ask(m)
			}
		}
	})
	return err
}

// Detach lets nothing of a range's feed be sent any more.
func (o *Outlet) Detach(id shard.RangeID) { o.change(func(o *Outlet) { o.source.Detach(id) }) }

// End implements link.Listener.
func (o *Outlet) End(id shard.RangeID) {
	o.change(func(o *Outlet) { o.greedy = !o.source.End(id) || o.greedy })
}

// IsOver reports whether it listens to nothing any more.
func (o *Outlet) IsOver() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over
}

// next cuts the next frame; nil: nothing is to be sent.
func (o *Outlet) next() (*pb.LinkFrame, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.greedy {
		return nil, errGreedy
	}
	fr, err := o.source.Next()
	if err == nil && (o.leaving || o.way != nil) {
		if fr == nil {
			fr = &pb.LinkFrame{}
		}
		fr.Leaving, fr.Way = o.leaving, o.way
		o.leaving, o.way = false, nil
	}
	return fr, err
}

// begin makes an outlet of those that are served.
func (s *Outlets) begin() (*Outlet, error) {
	o := &Outlet{wake: make(chan struct{}, 1), source: link.NewSource(s.limits)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= linksMax {
		return nil, errMany
	}
	s.open[o] = struct{}{}
	o.leaving, o.way = s.leaving, s.way
	patience.Wake(o.wake)
	return o, nil
}

// finish lets one listen to nothing any more.
func (s *Outlets) finish(o *Outlet) {
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	s.feeds.Forget(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, o)
	s.drops += o.drops()
}

// Serve answers another process until its link ends.
func (s *Outlets) Serve(ctx context.Context, in peerrpc.LinkSource) error {
	o, err := s.begin()
	if err != nil {
		return err
	}
	asking := make(chan error, 1)
	go func() { asking <- s.listen(o, in) }() // it ends with the stream, which ends when this returns
	defer s.finish(o)
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
func (o *Outlet) drain(in peerrpc.LinkSource) (sent bool, err error) {
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
func (s *Outlets) listen(o *Outlet, in peerrpc.LinkSource) error {
	for {
		req, err := in.Recv()
		if err != nil {
			return err
		}
		for _, id := range pb.ToRangeIDs(req.Unsubscribe) {
			s.feeds.Detach(o, id)
		}
		if err := o.ask(req); err != nil {
			return err
		}
		for _, id := range pb.ToRangeIDs(req.Subscribe) {
			s.feeds.Attach(o, id)
		}
		if req.Stays {
			o.change(func(o *Outlet) { o.stays = true })
		}
	}
}
