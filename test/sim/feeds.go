package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// fans connects the feeds of ranges with the hub of this node and, by links, with those of others.
type fans struct {
	l   *life
	hub *watchfanout.Hub
	wg  sync.WaitGroup
	links

	mirrors *mirrors // nil: lists are not answered from memory

	mu     sync.Mutex
	wanted map[shard.RangeID]share            // by whom here
	joined map[shard.RangeID]bool             // whose feed has begun at a border, before anybody asks for it
	fresh  map[shard.RangeID][]shard.FeedItem // published, and not handed to links yet
	closed chan struct{}                      // closed when a closed revision has risen
}

// share is who wants a feed: several are a sum.
type share uint8

const (
	ofHub share = 1 << iota
	ofMirror
	ofLinks // of a gateway, which passes it on
)

func newFans(l *life) *fans {
	f := &fans{l: l, wanted: map[shard.RangeID]share{}, joined: map[shard.RangeID]bool{}, closed: make(chan struct{})}
	f.links.init(f)
	return f
}

func (f *fans) openHub() {
	l := f.l
	f.hub = watchfanout.NewHub(watchfanout.Config{
		History: history{l}, Closer: l.closer, Map: l.client.Map,
		Current:   l.client.Current,
		Subscribe: f.subscribe, Unsubscribe: f.unsubscribe, Widen: f.widen, AfterFunc: l.after,
		Dispatchers: 1, Readers: 1, InboxEvents: 256, PendingEvents: 64, RecentEvents: 16, RingBytes: 16 << 10, FeedLinger: time.Second,
	})
	f.wg.Go(func() {
		for {
			changed := l.client.Changed()
			f.hub.MapChanged()
			select {
			case <-changed:
			case <-l.ctx.Done():
				return
			}
		}
	})
}

// Publish implements replica.FeedSink.
func (f *fans) Publish(id shard.RangeID, item shard.FeedItem) {
	f.l.n.w.orders.observe(f.l, id, &item)
	f.mu.Lock()
	if item.Closed > 0 {
		close(f.closed)
		f.closed = make(chan struct{})
	}
	wanted := f.wanted[id]&ofHub != 0
	if b := item.Border; b != nil && wanted && f.wanted[b.Child] == 0 { // who listens here listens to the child from its first item, unless it has asked before
		f.wanted[b.Child], f.joined[b.Child] = ofHub, true
	}
	if f.fresh == nil {
		f.fresh = map[shard.RangeID][]shard.FeedItem{}
		f.l.n.w.post(fmt.Sprintf("feeds of %d", f.l.n.id), 0, f.handOut)
	}
	f.fresh[id] = append(f.fresh[id], item)
	f.mu.Unlock()
	if wanted {
		f.publish(id, item)
	}
}

// publish gives an item to the own hub, when the node knows what its events have come to.
func (f *fans) publish(id shard.RangeID, item shard.FeedItem) {
	if n := len(item.Events); n > 0 {
		f.l.learn(item.Events[n-1].Rev(), uint64(item.Epoch))
	}
	f.hub.Publish(id, item)
}

// changed is closed when a closed revision rises.
func (f *fans) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *fans) subscribe(id shard.RangeID) {
	f.mu.Lock()
	others := f.wanted[id] &^ ofHub
	f.wanted[id] |= ofHub
	joined := f.joined[id]
	delete(f.joined, id)
	f.mu.Unlock()
	rep, here := f.l.reps.Get(id)
	switch {
	case here && !joined:
		rep.Resync()
		return
	case others != 0 && !joined:
		f.l.n.w.post(fmt.Sprintf("join %d/%d", f.l.n.id, id), 0, func() { f.begin(id, ofHub) })
	}
	f.follow(id, 0)
}

// begin tells who joins a feed that flows where it is, and that something has passed.
func (f *fans) begin(id shard.RangeID, who share) {
	fan := f.served[id]
	if fan == nil || f.wants(id)&who == 0 {
		return
	}
	head := fan.Head()
	switch item, known := head.Begin(); {
	case !known:
	case who == ofHub:
		f.publish(id, item)
	default:
		f.mirrors.set.Publish(id, item)
	}
}

func (f *fans) unsubscribe(id shard.RangeID) { f.drop(id, ofHub) }

// drop ends one's share of a feed.
func (f *fans) drop(id shard.RangeID, who share) {
	f.mu.Lock()
	if f.wanted[id] &^= who; f.wanted[id] == 0 {
		delete(f.wanted, id)
	}
	f.mu.Unlock()
	f.follow(id, 0)
}

// passes brings the share of links into line with who listens, at a gateway.
func (f *fans) passes(id shard.RangeID) {
	if !f.l.n.front {
		return
	}
	fan := f.served[id]
	listens := fan != nil && fan.Len() > 0
	f.mu.Lock()
	was := f.wanted[id]&ofLinks != 0
	if listens {
		f.wanted[id] |= ofLinks
		delete(f.joined, id) // somebody asks for it
	}
	f.mu.Unlock()
	switch {
	case was && !listens:
		f.drop(id, ofLinks)
	case listens && !was:
		f.follow(id, 0)
		f.widen(id)
	}
}

func (f *fans) wants(id shard.RangeID) share {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wanted[id]
}

// join takes a child's feed that comes behind a border by a link, if it has not been begun otherwise.
func (f *fans) join(parent, child shard.RangeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted[child] != 0 {
		return false
	}
	f.wanted[child], f.joined[child] = f.wanted[parent]&ofHub, true
	return true
}

// leave forgets a child's feed that has not come, if nobody has asked for it, and reports whether somebody has.
func (f *fans) leave(id shard.RangeID) (asked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.joined[id] {
		delete(f.wanted, id)
		delete(f.joined, id)
	}
	return f.wanted[id] != 0
}

// deliver gives an item that has come by a link to all who want it here, the own hub first.
func (f *fans) deliver(id shard.RangeID, item shard.FeedItem) {
	wanted := f.wants(id)
	if wanted&ofHub != 0 || !f.l.n.front {
		f.publish(id, item)
	}
	if !f.l.n.front {
		return
	}
	item, says := f.narrows.take(id, item)
	if !says {
		return
	}
	if wanted&ofMirror != 0 {
		f.mirrors.set.Publish(id, item)
	}
	f.links.publish(id, item)
	if b := item.Border; b != nil {
		f.passes(b.Child)
	}
	f.links.flush()
	f.l.n.w.stats.Passed++
}

// left ends the feeds by links of a range that is here no more; the own hub looks elsewhere.
func (f *fans) left(id shard.RangeID) {
	f.links.left(id)
	f.follow(id, 0)
}

// arrived lets the own hub follow the replica that is here now, in the place of another node's.
func (f *fans) arrived(id shard.RangeID) {
	if fan := f.served[id]; fan != nil {
		fan.Forget()
	}
	f.links.rest(id)
	if rep, ok := f.l.reps.Get(id); ok && f.wants(id) != 0 {
		rep.Resync()
	}
}

func (f *fans) close() {
	f.hub.Close()
	f.wg.Wait()
}

// history implements watchfanout.History.
type history struct{ l *life }

// Read implements watchfanout.History.
func (h history) Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	req := &pb.HistoryRequest{RangeId: uint64(id), Spans: pb.FromSpans(spans), From: from, To: to, MaxBytes: int64(maxBytes), PrevKv: true}
	if rep, ok := h.l.reps.Get(id); ok {
		return rep.History(req)
	}
	d, _ := h.l.find(id)
	req.Generation = uint64(d.Generation)
	last := shard.ErrUnavailable
	for _, rep := range d.Replicas {
		resp, err := h.l.port.Call(ctx, rep.Node, &pb.PeerRequest{History: req})
		var compacted *shard.CompactedError
		switch {
		case err == nil:
			return pb.ToEvents(resp.History.Events), resp.History.Next, nil
		case errors.As(err, &compacted):
			return nil, 0, err
		}
		last = err
	}
	return nil, 0, last
}
