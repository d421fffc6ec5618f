package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"pontoon/internal/backend"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// What waits for a hub on another node is bounded in items and in bytes; beyond either the feed has a gap. One
// item of any size is let in where nothing waits.
const (
	feedQueueItems = 4096
	feedQueueBytes = 32 << 20
)

// feeds is the source of the feeds of the ranges that are held here: for a hub of this process, and for streams
// of other nodes.
type feeds struct {
	ranges *ranges

	mu   sync.Mutex
	byID map[shard.RangeID]*feedFan // as many as ranges were ever listened to here

	heirs heirs
	gaps  atomic.Int64 // items that found no room on their way to another node
}

// feedFan is who listens to the feed of one range. Its lock keeps items in order.
type feedFan struct {
	turn sync.Mutex // one change of what follows at a time; taken before mu

	mu      sync.Mutex
	to      backend.Subscriber // nil: nobody in this process
	held    bool               // to was told, or will be when it asks, that the items come from here
	heir    bool               // to was put in place behind the border of the range's parent
	begin   bool               // the next item begins the feed anew
	streams map[*feedStream]struct{}
}

func newFeeds(rs *ranges) *feeds {
	return &feeds{ranges: rs, byID: map[shard.RangeID]*feedFan{}}
}

func (f *feeds) fan(id shard.RangeID, create bool) *feedFan {
	f.mu.Lock()
	defer f.mu.Unlock()
	fan := f.byID[id]
	if fan == nil && create {
		fan = &feedFan{streams: map[*feedStream]struct{}{}}
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
	if item.Border != nil {
		f.bequeath(fan, &item)
	}
	if fan.held || len(fan.streams) > 0 {
		item.Gap, fan.begin = item.Gap || fan.begin, false
	}
	if fan.held {
		fan.to.Publish(id, item)
	}
	for st := range fan.streams {
		if !st.offer(item) {
			f.gaps.Add(1)
		}
	}
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
	if !held {
		for st := range fan.streams {
			st.end()
			delete(fan.streams, st)
		}
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
	fan.held, fan.begin = true, true
	fan.mu.Unlock()
	rep.Resync()
}

// errNoReplica ends a stream: the range may be had from another node.
var errNoReplica = errors.New("the range has no replica on this node")

// serve answers a hub of another node until its stream ends.
func (f *feeds) serve(ctx context.Context, req *pb.FeedRequest, send func(*pb.FeedFrame) error) error {
	if req.Parent != 0 {
		if kept, err := f.serveHeir(ctx, req, send); kept {
			return err
		}
	}
	id := shard.RangeID(req.RangeId)
	rep, ok := f.ranges.get(id)
	if !ok {
		return errNoReplica
	}
	st := newFeedStream()
	st.name = req.Name
	fan := f.fan(id, true)
	fan.mu.Lock()
	fan.streams[st] = struct{}{}
	fan.mu.Unlock()
	defer fan.leave(st)
	if now, ok := f.ranges.get(id); !ok || now != rep {
		return errNoReplica // it has left meanwhile
	}
	rep.Resync()
	return st.run(ctx, send)
}

// leave takes a stream out.
func (fan *feedFan) leave(st *feedStream) {
	fan.mu.Lock()
	defer fan.mu.Unlock()
	delete(fan.streams, st)
}

// feedStream is a hub of another node. It loses what it has no room for, and says so itself: no further item
// need come for that.
type feedStream struct {
	wake  chan struct{} // something is to be sent
	ended chan struct{} // closed when the replica is not here any more
	name  uint64        // what the hub calls it; guarded by its fan's lock

	base       int64            // of a child's: the revision behind which it begins
	generation shard.Generation // and its generation there

	mu       sync.Mutex
	itemsMax int
	bytesMax int
	queue    []shard.FeedItem
	bytes    int
	lost     bool           // items were dropped behind the queue
	last     shard.FeedItem // what the dropped ones came to, without their events
}

func newFeedStream() *feedStream {
	return &feedStream{wake: make(chan struct{}, 1), ended: make(chan struct{}), itemsMax: feedQueueItems, bytesMax: feedQueueBytes}
}

// widen gives the queue the room that a hub has which takes from it.
func (st *feedStream) widen() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.itemsMax, st.bytesMax = feedQueueItems, feedQueueBytes
}

func (st *feedStream) end() { close(st.ended) }

// offer never blocks. false: the item is lost, and the stream will say so.
func (st *feedStream) offer(item shard.FeedItem) bool {
	size := itemBytes(&item)
	st.mu.Lock()
	n := len(st.queue)
	fits := n == 0 || n < st.itemsMax && st.bytes+size <= st.bytesMax
	if !fits {
		item.Events = nil
		if st.lost {
			item.Closed = closedOf(&item, &st.last)
		}
		st.lost, st.last = true, item
	} else {
		st.takeLost(&item)
		st.queue = append(st.queue, item)
		st.bytes += size
	}
	st.mu.Unlock()
	peer.Wake(st.wake)
	return fits
}

// takeLost lets an item tell of what was dropped before it.
func (st *feedStream) takeLost(item *shard.FeedItem) {
	if st.lost {
		item.Gap, item.Closed = true, closedOf(item, &st.last)
		st.lost, st.last = false, shard.FeedItem{}
	}
}

// closedOf is what an item and one that was dropped before it have closed: what another generation has closed may speak
// for fewer keys.
func closedOf(item, dropped *shard.FeedItem) int64 {
	if item.Generation != dropped.Generation {
		return item.Closed
	}
	return max(item.Closed, dropped.Closed)
}

// next takes the next item; false: there is none now.
func (st *feedStream) next() (item shard.FeedItem, ok bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.queue) > 0 {
		item = st.queue[0]
		st.queue[0] = shard.FeedItem{}
		if st.queue = st.queue[1:]; len(st.queue) == 0 {
			st.queue = nil
		}
		st.bytes -= itemBytes(&item)
		return item, true
	}
	if st.lost {
		item = st.last
		st.takeLost(&item)
		return item, true
	}
	return item, false
}

// run sends until the stream ends.
func (st *feedStream) run(ctx context.Context, send func(*pb.FeedFrame) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-st.ended:
			return errNoReplica
		case <-st.wake:
		}
		for item, ok := st.next(); ok; item, ok = st.next() {
			if err := send(itemToFrame(item)); err != nil {
				return err
			}
		}
	}
}

// eventBytes is what an event takes besides its keys and values.
const eventBytes = 128

func itemBytes(item *shard.FeedItem) (n int) {
	for _, e := range item.Events {
		n += eventBytes + e.DataBytes()
	}
	return n
}

func itemToFrame(item shard.FeedItem) *pb.FeedFrame {
	fr := &pb.FeedFrame{Closed: item.Closed, Epoch: uint64(item.Epoch), Index: item.Index, Generation: uint64(item.Generation), Gap: item.Gap, Events: pb.FromEvents(item.Events)}
	if b := item.Border; b != nil {
		fr.Border = &pb.FeedBorder{At: b.At, Child: uint64(b.Child), Generation: uint64(b.Generation)}
	}
	return fr
}
