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

// feedRetry is the pause before a feed of another node is opened again.
const feedRetry = 100 * time.Millisecond

// fans connects the feeds of ranges with the hub of this node and with those of others.
type fans struct {
	l   *life
	hub *watchfanout.Hub
	wg  sync.WaitGroup

	mu      sync.Mutex
	wanted  map[shard.RangeID]bool // by the own hub
	joined  map[shard.RangeID]bool // whose feed has begun at a border, before the own hub asks for it
	streams map[shard.RangeID][]*feedStream
	closed  chan struct{} // closed when a closed revision has risen
}

// feedStream carries the feed of a range to the hub of another node. It belongs to the loop.
type feedStream struct {
	id       shard.RangeID
	from, to *life
	gap      bool // before the next item that arrives
	broken   bool
	try      int
}

func newFans(l *life) *fans {
	return &fans{l: l, wanted: map[shard.RangeID]bool{}, joined: map[shard.RangeID]bool{}, streams: map[shard.RangeID][]*feedStream{}, closed: make(chan struct{})}
}

func (f *fans) openHub() {
	l := f.l
	f.hub = watchfanout.NewHub(watchfanout.Config{
		History: history{l}, Closer: l.closer, Map: l.client.Map,
		Current:   l.client.Current,
		Subscribe: f.subscribe, Unsubscribe: f.unsubscribe, AfterFunc: l.after,
		Dispatchers: 1, Readers: 1, InboxEvents: 256, PendingEvents: 64, RecentEvents: 16,
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
	wanted, streams := f.wanted[id], f.streams[id]
	if b := item.Border; b != nil { // who listens here listens to the child from its first item
		if wanted {
			f.wanted[b.Child], f.joined[b.Child] = true, true
		}
		for _, st := range streams {
			f.streams[b.Child] = append(f.streams[b.Child], &feedStream{id: b.Child, from: st.from, to: st.to})
		}
	}
	f.mu.Unlock()
	if wanted {
		f.publish(id, item)
	}
	for _, st := range streams {
		f.l.n.w.post(fmt.Sprintf("f/%d>%d/%d", st.from.n.id, st.to.n.id, id), 0, func() { st.send(item) })
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
	f.wanted[id] = true
	joined := f.joined[id]
	delete(f.joined, id)
	f.mu.Unlock()
	if joined {
		return
	}
	if rep, ok := f.l.reps.Get(id); ok {
		rep.Resync()
		return
	}
	f.follow(id, 0, 0)
}

// join notes that a child's feed comes without being asked for.
func (f *fans) join(id shard.RangeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted[id], f.joined[id] = true, true
}

func (f *fans) unsubscribe(id shard.RangeID) {
	f.mu.Lock()
	delete(f.wanted, id)
	f.mu.Unlock()
}

func (f *fans) wants(id shard.RangeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wanted[id]
}

// follow opens the feed of a range that is not held here, at one replica or another.
func (f *fans) follow(id shard.RangeID, try int, pause time.Duration) {
	w := f.l.n.w
	w.post(fmt.Sprintf("follow %d/%d", f.l.n.id, id), pause+time.Millisecond, func() {
		if !f.l.alive || !f.wants(id) || f.l.holds(id) {
			return
		}
		d, known := f.l.find(id)
		if !known {
			f.follow(id, try+1, feedRetry)
			return
		}
		at := w.node(d.Replicas[try%len(d.Replicas)].Node)
		from, to := w.net.link(f.l.n.id, at.id), w.net.link(at.id, f.l.n.id)
		if at.life == nil || at.paused || from.cut || to.cut || !at.life.holds(id) {
			f.follow(id, try+1, feedRetry)
			return
		}
		st := &feedStream{id: id, from: at.life, to: f.l, gap: true, try: try}
		o := at.life.fans
		o.mu.Lock()
		o.streams[id] = append(o.streams[id][:len(o.streams[id]):len(o.streams[id])], st)
		o.mu.Unlock()
		rep, _ := at.life.reps.Get(id)
		rep.Resync()
	})
}

// send brings an item to the other hub, in order with those before it.
func (st *feedStream) send(item shard.FeedItem) {
	w := st.from.n.w
	if st.broken || !st.from.alive {
		return
	}
	l := w.net.link(st.from.n.id, st.to.n.id)
	w.push(later(&l.calls, w.net.delay(l)), "feed", func() {
		if l.cut || !st.to.alive {
			st.end()
			return
		}
		st.to.n.receive(func(to *life) {
			if st.broken || to != st.to {
				return
			}
			in := item
			in.Events = pb.ToEvents(pb.FromEvents(in.Events)) // the other process has its own
			in.Gap = in.Gap || st.gap
			st.gap = false
			if b := in.Border; b != nil {
				to.fans.join(b.Child)
			}
			to.fans.publish(st.id, in)
		})
	})
}

// end breaks a stream; the hub opens another one when it has noticed.
func (st *feedStream) end() {
	if st.broken {
		return
	}
	st.broken = true
	f := st.from.fans
	f.mu.Lock()
	var rest []*feedStream
	for _, o := range f.streams[st.id] {
		if o != st {
			rest = append(rest, o)
		}
	}
	f.streams[st.id] = rest
	f.mu.Unlock()
	if st.to.alive {
		st.to.fans.follow(st.id, st.try+1, st.from.n.w.scaled(time.Millisecond, 4*time.Second))
	}
}

// broken ends every stream that this process serves.
func (f *fans) broken() {
	for _, id := range f.l.held() {
		f.mu.Lock()
		streams := f.streams[id]
		f.mu.Unlock()
		for _, st := range streams {
			st.end()
		}
	}
}

// left ends the streams of a range that is here no more; the own hub looks elsewhere.
func (f *fans) left(id shard.RangeID) {
	f.mu.Lock()
	streams := f.streams[id]
	f.mu.Unlock()
	for _, st := range streams {
		st.end()
	}
	if f.wants(id) {
		f.follow(id, 0, 0)
	}
}

// arrived lets the own hub follow the replica that is here now, in the place of another node's.
func (f *fans) arrived(id shard.RangeID) {
	for _, n := range f.l.n.w.nodes {
		if n.life == nil || n.life == f.l {
			continue
		}
		o := n.life.fans
		o.mu.Lock()
		var rest []*feedStream
		for _, st := range o.streams[id] {
			if st.to == f.l {
				st.broken = true
			} else {
				rest = append(rest, st)
			}
		}
		o.streams[id] = rest
		o.mu.Unlock()
	}
	if rep, ok := f.l.reps.Get(id); ok && f.wants(id) {
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
