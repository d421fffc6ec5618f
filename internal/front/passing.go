package front

import (
	"context"
	"sync"

	"pontoon/internal/link"
	"pontoon/internal/outlet"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// passing passes the feeds of ranges that come here on to other gateways, as they come: item by item, before anything of different ranges is brought into one
// order, with the marks and the gaps that they have.
type passing struct {
	tee     *tee
	outlets *outlet.Outlets
	wake    chan struct{} // children are to be asked for

	turn sync.Mutex // one change of who listens at a time; taken before those of the tee

	mu       sync.Mutex
	byID     map[shard.RangeID]*passed // as many as ranges that are listened to
	children map[shard.RangeID]struct{}
}

// passed is who listens to one range. Its lock keeps items in order.
type passed struct {
	mu    sync.Mutex
	links link.Fan
}

var _ outlet.Feeds = (*passing)(nil)

func newPassing(t *tee, limits link.Limits, way *pb.LinkWay) *passing {
	p := &passing{tee: t, wake: make(chan struct{}, 1), byID: map[shard.RangeID]*passed{}, children: map[shard.RangeID]struct{}{}}
	p.outlets = outlet.New(p, limits, way)
	return p
}

func (p *passing) get(id shard.RangeID, create bool) *passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byID[id]
	if e == nil && create {
		e = &passed{}
		p.byID[id] = e
	}
	return e
}

// publish takes the next item of a range's feed, from the tee.
func (p *passing) publish(id shard.RangeID, item shard.FeedItem) {
	e := p.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.links.Take(&item)
	if b := item.Border; b != nil && e.links.Len() > 0 && p.tee.inherit(b.Child, ofLinks) {
		child := p.get(b.Child, true)
		child.mu.Lock()
		defer child.mu.Unlock()
		e.links.HandBorder(id, item, &child.links)
		p.mu.Lock()
		p.children[b.Child] = struct{}{}
		p.mu.Unlock()
		patience.Wake(p.wake)
		return
	}
	e.links.Hand(id, item)
}

// run asks for the feeds of children, which come already, so that they go on coming, until ctx ends.
func (p *passing) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		p.mu.Lock()
		children := p.children
		p.children = map[shard.RangeID]struct{}{}
		p.mu.Unlock()
		p.turn.Lock()
		for id := range children {
			p.settle(id)
		}
		p.turn.Unlock()
	}
}

// settle brings the subscription of a range into line with who listens. The caller holds turn.
func (p *passing) settle(id shard.RangeID) {
	e := p.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	n := e.links.Len()
	e.mu.Unlock()
	if n > 0 {
		p.tee.subscribe(id, ofLinks)
		return
	}
	p.tee.unsubscribe(id, ofLinks)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byID, id)
}

// Attach implements outlet.Feeds. A feed that does not come here yet is asked for, and begins on the link with its first item.
func (p *passing) Attach(o *outlet.Outlet, id shard.RangeID) {
	p.turn.Lock()
	defer p.turn.Unlock()
	e := p.get(id, true)
	e.mu.Lock()
	e.links.Listen(id, o)
	if o.IsOver() {
		e.links.Leave(o)
	}
	e.mu.Unlock()
	p.settle(id)
}

// Detach implements outlet.Feeds.
func (p *passing) Detach(o *outlet.Outlet, id shard.RangeID) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.leave(o, id)
	o.Detach(id)
}

// leave lets a link listen to a range no more. The caller holds turn.
func (p *passing) leave(o *outlet.Outlet, id shard.RangeID) {
	e := p.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	listened := e.links.Leave(o)
	e.mu.Unlock()
	if listened { // else nothing has changed of a range, of which a link that ends passes all
		p.settle(id)
	}
}

// Forget implements outlet.Feeds.
func (p *passing) Forget(o *outlet.Outlet) {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.mu.Lock()
	ids := make([]shard.RangeID, 0, len(p.byID))
	for id := range p.byID {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	for _, id := range ids {
		p.leave(o, id)
	}
}

// end says that the feed of a range is not to be had here for now: nobody is found who has it.
func (p *passing) end(id shard.RangeID) {
	p.turn.Lock()
	defer p.turn.Unlock()
	e := p.get(id, false)
	if e == nil {
		return
	}
	e.mu.Lock()
	e.links.End(id)
	e.mu.Unlock()
	p.settle(id)
}
