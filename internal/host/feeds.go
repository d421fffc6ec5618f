package host

import (
	"sync"

	"pontoon/internal/backend"
	"pontoon/internal/link"
	"pontoon/internal/outlet"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// feeds is the source of the feeds of the ranges that are held here: for a hub of this process, and for links to
// other processes.
type feeds struct {
	ranges *ranges

	mu   sync.Mutex
	byID map[shard.RangeID]*feedFan // as many as ranges were ever listened to here

	outlets *outlet.Outlets // the links to other processes
}

var _ outlet.Feeds = (*feeds)(nil)

// feedFan is who listens to the feed of one range. Its lock keeps items in order.
type feedFan struct {
	turn sync.Mutex // one change of what follows at a time; taken before mu

	mu    sync.Mutex
	links link.Fan           // to other processes; nothing is known of a replica that has not published since it came
	to    backend.Subscriber // nil: nobody in this process
	held  bool               // to was told, or will be when it asks, that the items come from here
	heir  bool               // to was put in place behind the border of the range's parent
	begin bool               // the next item begins the feed anew
}

func newFeeds(rs *ranges) *feeds {
	f := &feeds{ranges: rs, byID: map[shard.RangeID]*feedFan{}}
	f.outlets = outlet.New(f, link.Limits{}, nil)
	return f
}

func (f *feeds) fan(id shard.RangeID, create bool) *feedFan {
	f.mu.Lock()
	defer f.mu.Unlock()
	fan := f.byID[id]
	if fan == nil && create {
		fan = &feedFan{}
		f.byID[id] = fan
	}
	return fan
}

// Publish implements replica.FeedSink.
func (f *feeds) Publish(id shard.RangeID, item shard.FeedItem) {
	if len(item.Events) > 0 || item.Gap { // a range that is only closed again has nothing to look after
		f.ranges.touched(id)
	}
	if item.Closed > 0 {
		f.ranges.closed.wake()
	}
	fan := f.fan(id, false)
	if fan == nil {
		return
	}
	fan.mu.Lock()
	defer fan.mu.Unlock()
	if fan.held || fan.links.Len() > 0 {
		item.Gap, fan.begin = item.Gap || fan.begin, false
	}
	fan.links.Take(&item)
	if item.Border != nil && f.bequeath(id, fan, &item) {
		return
	}
	if fan.held {
		fan.to.Publish(id, item)
	}
	fan.links.Hand(id, item)
}

// Subscribe implements backend.Feeds.
func (f *feeds) Subscribe(id shard.RangeID, to backend.Subscriber) {
	fan := f.fan(id, true)
	fan.turn.Lock()
	defer fan.turn.Unlock()
	fan.mu.Lock()
	there := fan.heir && fan.to == to
	fan.to = to
	fan.mu.Unlock()
	if there {
		to.Held(id, true) // it has what has come so far
		return
	}
	f.tell(id, fan)
}

// Unsubscribe implements backend.Feeds.
func (f *feeds) Unsubscribe(id shard.RangeID) {
	fan := f.fan(id, false)
	if fan == nil {
		return
	}
	fan.turn.Lock()
	defer fan.turn.Unlock()
	fan.mu.Lock()
	fan.to, fan.held, fan.heir = nil, false, false
	fan.mu.Unlock()
}

// History implements backend.Feeds.
func (f *feeds) History(req *pb.HistoryRequest) ([]*shard.Event, int64, error) {
	rep, ok := f.ranges.get(shard.RangeID(req.RangeId))
	if !ok {
		return nil, 0, shard.ErrUnavailable
	}
	return rep.History(req)
}

// replicaChanged says that the range's replica has left this node, or is back. The hub of this process is told, and
// hubs of other nodes look elsewhere.
func (f *feeds) replicaChanged(id shard.RangeID) {
	fan := f.fan(id, false)
	if fan == nil {
		return
	}
	fan.turn.Lock()
	defer fan.turn.Unlock()
	_, held := f.ranges.get(id)
	fan.mu.Lock()
	if fan.heir && held { // that is the child's, which its listeners have awaited
		fan.mu.Unlock()
		return
	}
	fan.heir = false
	fan.links.Forget()
	if !held {
		fan.links.End(id)
	}
	fan.mu.Unlock()
	f.tell(id, fan)
}

// tell brings what the subscriber believes into line with what is here now. The caller holds fan.turn. A
// replica that comes or goes meanwhile is told of by replicaChanged, which waits.
func (f *feeds) tell(id shard.RangeID, fan *feedFan) {
	rep, held := f.ranges.get(id)
	fan.mu.Lock()
	to := fan.to
	fan.held = false
	fan.mu.Unlock()
	if to == nil {
		return
	}
	to.Held(id, held)
	if !held {
		return
	}
	fan.mu.Lock()
	fan.held = true
	head := fan.links.Head()
	item, known := head.Begin()
	if known { // nobody else need hear that somebody begins to listen
		to.Publish(id, item)
	} else {
		fan.begin = true
	}
	fan.mu.Unlock()
	if !known {
		rep.Resync()
	}
}

// Attach implements outlet.Feeds.
func (f *feeds) Attach(o *outlet.Outlet, id shard.RangeID) {
	rep, ok := f.ranges.get(id)
	if !ok {
		o.End(id)
		return
	}
	fan := f.fan(id, true)
	fan.mu.Lock()
	known := fan.links.Listen(id, o)
	if o.IsOver() {
		fan.links.Leave(o)
	}
	fan.mu.Unlock()
	if now, ok := f.ranges.get(id); !ok || now != rep { // it has left meanwhile
		f.Detach(o, id)
		o.End(id)
		return
	}
	if !known {
		rep.Resync()
	}
}

// Detach implements outlet.Feeds.
func (f *feeds) Detach(o *outlet.Outlet, id shard.RangeID) {
	if fan := f.fan(id, false); fan != nil {
		fan.mu.Lock()
		fan.links.Leave(o)
		fan.mu.Unlock()
	}
	o.Detach(id)
}

// Forget implements outlet.Feeds.
func (f *feeds) Forget(o *outlet.Outlet) {
	f.mu.Lock()
	fans := make([]*feedFan, 0, len(f.byID))
	for _, fan := range f.byID {
		fans = append(fans, fan)
	}
	f.mu.Unlock()
	for _, fan := range fans {
		fan.mu.Lock()
		fan.links.Leave(o)
		fan.mu.Unlock()
	}
}

// register tells how links fare.
func (f *feeds) register(gauge, counter func(name, help string, fn func() float64)) {
	counter("pontoon_feed_items_dropped_total", "Items of feeds that another node or a gateway did not take in time; its watchers read them from history.", func() float64 { return float64(f.outlets.Drops()) })
	gauge("pontoon_links_served", "Links by which other nodes and gateways have feeds from this node.", func() float64 { return float64(f.outlets.Links()) })
}
