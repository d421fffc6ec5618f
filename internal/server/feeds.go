package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/watchfanout"
)

// feedQueueItems bounds what waits for a hub on another node; beyond it the feed tells of a gap.
const feedQueueItems = 4096

// feedRetry is the pause before a remote feed is opened again.
const feedRetry = 100 * time.Millisecond

// feeds connects the feeds of ranges with the hubs that want them: of local replicas with the
// hub of this node and with streams of other nodes, and of ranges that are not held here with
// the hub of this node.
type feeds struct {
	ranges  *ranges
	publish func(shard.RangeID, watchfanout.Item) // to this node's hub
	learn   func(rev int64, epoch uint64)         // what has been handed out
	log     *slog.Logger
	find    func(shard.RangeID) (shard.Descriptor, bool)
	openAt  func(ctx context.Context, node shard.NodeID, req *pb.FeedRequest, recv func(*pb.FeedFrame) error) error

	ctx context.Context // of the remote feeds
	wg  sync.WaitGroup

	mu     sync.Mutex
	byID   map[shard.RangeID]*feedFan
	remote map[shard.RangeID]*remoteFeed
}

// remoteFeed is a feed of a range that is not held here. Once it is over it publishes nothing more: an
// item that was late would come between those of the next feed.
type remoteFeed struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	over   bool
}

// end returns when nothing is being published any more.
func (r *remoteFeed) end() {
	r.cancel()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
}

// feedFan is who listens to the feed of one local replica. Its lock keeps items in order.
type feedFan struct {
	mu      sync.Mutex
	hub     bool
	begin   bool // the hub's next item begins its feed anew
	streams map[*feedStream]struct{}
}

// feedStream is a hub of another node. full says that items were dropped.
type feedStream struct {
	ch   chan replica.FeedItem
	full bool
	gone chan struct{} // closed when the replica is not here any more
}

func newFeeds(ctx context.Context, rs *ranges, log *slog.Logger, find func(shard.RangeID) (shard.Descriptor, bool),
	openAt func(context.Context, shard.NodeID, *pb.FeedRequest, func(*pb.FeedFrame) error) error) *feeds {
	return &feeds{ctx: ctx, ranges: rs, log: log, find: find, openAt: openAt, byID: map[shard.RangeID]*feedFan{}, remote: map[shard.RangeID]*remoteFeed{}}
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
func (f *feeds) Publish(id shard.RangeID, item replica.FeedItem) {
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
	if fan.hub {
		own := item
		own.Gap, fan.begin = own.Gap || fan.begin, false
		f.hand(id, toHub(own))
	}
	for st := range fan.streams {
		st.offer(item)
	}
}

// hand gives an item to this node's hub. The node learns first what its events have come to: the hub will
// ask that everything be closed there, which this node does at the newest revision that it knows.
func (f *feeds) hand(id shard.RangeID, item watchfanout.Item) {
	if n := len(item.Events); n > 0 {
		f.learn(item.Events[n-1].Rev(), uint64(item.Epoch))
	}
	f.publish(id, item)
}

// offer never blocks: a stream that is full loses the item, and says so with the next one.
func (st *feedStream) offer(item replica.FeedItem) {
	item.Gap = item.Gap || st.full
	select {
	case st.ch <- item:
		st.full = false
	default:
		st.full = true
	}
}

func toHub(item replica.FeedItem) watchfanout.Item {
	out := watchfanout.Item{Closed: item.Closed, Epoch: item.Epoch, Index: item.Index, Generation: item.Generation, Gap: item.Gap}
	if len(item.Events) > 0 {
		out.Events = make([]*watchfanout.Event, len(item.Events))
		for i := range item.Events {
			out.Events[i] = hubEvent(&item.Events[i])
		}
	}
	return out
}

func hubEvent(e *mvcc.Event) *watchfanout.Event {
	ev := &watchfanout.Event{KV: watchfanout.KeyValue(e.KV), Delete: e.Delete, Sub: e.Sub}
	if e.Prev != nil {
		prev := watchfanout.KeyValue(*e.Prev)
		ev.Prev = &prev
	}
	return ev
}

// subscribe is the hub's hook: its first watcher needs the range's feed.
func (f *feeds) subscribe(id shard.RangeID) {
	if rep, ok := f.ranges.get(id); ok {
		fan := f.fan(id, true)
		fan.mu.Lock()
		fan.hub, fan.begin = true, true
		fan.mu.Unlock()
		rep.Resync()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.remote[id] != nil || f.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	r := &remoteFeed{cancel: cancel}
	f.remote[id] = r
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		f.follow(ctx, id, r)
	}()
}

// errNoReplica ends a stream: the range may be had from another node.
var errNoReplica = errors.New("the range has no replica on this node")

// moved says that the range's replica has left this node, or is back. This node's hub goes to
// another node's feed, or comes back to the local one; other nodes' hubs look elsewhere.
func (f *feeds) moved(id shard.RangeID, here bool) {
	if here {
		if f.endRemote(id) {
			f.subscribe(id)
		}
		return
	}
	fan := f.fan(id, false)
	if fan == nil {
		return
	}
	fan.mu.Lock()
	hub := fan.hub
	fan.hub = false
	for st := range fan.streams {
		close(st.gone)
		delete(fan.streams, st)
	}
	fan.mu.Unlock()
	if hub {
		f.subscribe(id)
	}
}

// unsubscribe is the hub's hook: its last watcher of the range is gone.
func (f *feeds) unsubscribe(id shard.RangeID) {
	if fan := f.fan(id, false); fan != nil {
		fan.mu.Lock()
		fan.hub = false
		fan.mu.Unlock()
	}
	f.endRemote(id)
}

// endRemote ends the feed from another node, if there is one.
func (f *feeds) endRemote(id shard.RangeID) bool {
	f.mu.Lock()
	r := f.remote[id]
	delete(f.remote, id)
	f.mu.Unlock()
	if r != nil {
		r.end()
	}
	return r != nil
}

// follow keeps a feed of a range that is not held here open, from one replica or another.
func (f *feeds) follow(ctx context.Context, id shard.RangeID, r *remoteFeed) {
	for try := 0; ctx.Err() == nil; try++ {
		d, ok := f.find(id)
		if ok && len(d.Replicas) > 0 {
			node := d.Replicas[try%len(d.Replicas)].Node
			gap := true // what was missed between two streams
			err := f.openAt(ctx, node, &pb.FeedRequest{RangeId: uint64(id), NodeId: uint64(f.ranges.self)}, func(fr *pb.FeedFrame) error {
				item := frameToHub(fr)
				item.Gap = item.Gap || gap
				gap = false
				r.mu.Lock()
				defer r.mu.Unlock()
				if r.over {
					return context.Canceled
				}
				f.hand(id, item)
				return nil
			})
			if err != nil && ctx.Err() == nil {
				f.log.Warn("a range's feed from another node broke", "range", id.String(), "node", node.String(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(feedRetry):
		}
	}
}

func frameToHub(fr *pb.FeedFrame) watchfanout.Item {
	item := watchfanout.Item{Closed: fr.Closed, Epoch: shard.Epoch(fr.Epoch), Index: fr.Index, Generation: shard.Generation(fr.Generation), Gap: fr.Gap}
	item.Events = hubEvents(fr.Events)
	return item
}

func hubEvents(evs []*pb.Event) []*watchfanout.Event {
	if len(evs) == 0 {
		return nil
	}
	out := make([]*watchfanout.Event, len(evs))
	for i, e := range evs {
		ev := &watchfanout.Event{KV: hubKV(e.Kv), Delete: e.Delete, Sub: e.Sub}
		if e.PrevKv != nil {
			prev := hubKV(e.PrevKv)
			ev.Prev = &prev
		}
		out[i] = ev
	}
	return out
}

func hubKV(kv *pb.KeyValue) watchfanout.KeyValue {
	return watchfanout.KeyValue{
		Key: kv.GetKey(), Value: kv.GetValue(), CreateRevision: kv.GetCreateRevision(),
		ModRevision: kv.GetModRevision(), Version: kv.GetVersion(), Lease: kv.GetLease(),
	}
}

// serve answers a hub of another node until its stream ends.
func (f *feeds) serve(ctx context.Context, req *pb.FeedRequest, send func(*pb.FeedFrame) error) error {
	id := shard.RangeID(req.RangeId)
	rep, ok := f.ranges.get(id)
	if !ok {
		return errNoReplica
	}
	st := &feedStream{ch: make(chan replica.FeedItem, feedQueueItems), gone: make(chan struct{})}
	fan := f.fan(id, true)
	fan.mu.Lock()
	fan.streams[st] = struct{}{}
	fan.mu.Unlock()
	defer func() {
		fan.mu.Lock()
		delete(fan.streams, st)
		fan.mu.Unlock()
	}()
	if now, ok := f.ranges.get(id); !ok || now != rep {
		return errNoReplica // it has left meanwhile
	}
	rep.Resync()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.ctx.Done():
			return shard.ErrStopped
		case <-st.gone:
			return errNoReplica
		case item := <-st.ch:
			if err := send(itemToFrame(item)); err != nil {
				return err
			}
		}
	}
}

func itemToFrame(item replica.FeedItem) *pb.FeedFrame {
	fr := &pb.FeedFrame{Closed: item.Closed, Epoch: uint64(item.Epoch), Index: item.Index, Generation: uint64(item.Generation), Gap: item.Gap}
	for i := range item.Events {
		e := &item.Events[i]
		ev := &pb.Event{Delete: e.Delete, Kv: wireKV(&e.KV), Sub: e.Sub}
		if e.Prev != nil {
			ev.PrevKv = wireKV(e.Prev)
		}
		fr.Events = append(fr.Events, ev)
	}
	return fr
}

func wireKV(kv *mvcc.KeyValue) *pb.KeyValue {
	return &pb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

// close ends the remote feeds and waits for them; f.ctx must have ended.
func (f *feeds) close() { f.wg.Wait() }

// history implements watchfanout.History: from the local replica, else from another node's.
type history struct {
	ranges *ranges
	find   func(shard.RangeID) (shard.Descriptor, bool)
	call   func(ctx context.Context, to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error)
}

// Read implements watchfanout.History.
func (h *history) Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*watchfanout.Event, int64, error) {
	req := &pb.HistoryRequest{RangeId: uint64(id), Spans: pb.FromSpans(spans), From: from, To: to, MaxBytes: int64(maxBytes), PrevKv: true}
	if rep, ok := h.ranges.get(id); ok {
		resp, err := rep.History(req)
		if err != nil {
			return nil, 0, err
		}
		return hubEvents(resp.Events), resp.Next, nil
	}
	d, ok := h.find(id)
	if !ok {
		return nil, 0, shard.ErrUnavailable
	}
	req.Generation = uint64(d.Generation)
	last := shard.ErrUnavailable
	for _, rep := range d.Replicas {
		resp, err := h.call(ctx, rep.Node, &pb.PeerRequest{History: req})
		if err == nil && resp.History != nil {
			return hubEvents(resp.History.Events), resp.History.Next, nil
		}
		var compacted *shard.CompactedError
		if errors.As(err, &compacted) {
			return nil, 0, err
		}
		last = err
	}
	return nil, 0, last
}
