package front

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/link"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// A feed that is not to be had is looked for again after feedRetry. A node whose link has broken is not asked again for that long, twice as
// long after each further attempt in vain, and at most feedRetryMax.
const (
	feedRetry    = 100 * time.Millisecond
	feedRetryMax = 2 * time.Second
	// starvedAfter is for how long a feed is looked for before that is told.
	starvedAfter = 3 * link.Interval
)

// feeds connects the feeds of ranges with the hub: those that are held in this process come from the backend,
// the others by links from nodes, one to each.
//
// Locks are taken in the order inlet.mu, feeds.mu.
type feeds struct {
	backend *backend.Backend
	chain   *chain // nil: this is no gateway
	publish func(shard.RangeID, shard.FeedItem)
	log     *slog.Logger

	ctx    context.Context // of the links
	cancel context.CancelFunc
	wg     sync.WaitGroup
	broken atomic.Uint64 // times that a link broke, or did not open
	flow   flow
	look   chan struct{} // a source is wanted for a feed
	moves  *moves
	heads  heads
	narrow *narrows
	here   *inlet // stands for the replicas in this process, as a source

	mu      sync.Mutex
	local   map[shard.RangeID]bool        // held in this process, as far as the hub listens
	remote  map[shard.RangeID]*remoteFeed // at most one a range, and none of those in local
	seeking map[shard.RangeID]*remoteFeed // of remote, those without a link
	inlets  map[shard.NodeID]*inlet
	shaky   map[shard.NodeID]*failure // nodes to which the last link broke
}

// remoteFeed is a feed of a range that is not held here.
type remoteFeed struct {
	from  *inlet    // nil: it is looked for
	heir  bool      // it came behind a border, and the hub has not asked for it yet
	tries int       // nodes that were asked so far
	after time.Time // from when on it is looked for
	since time.Time // since when nothing has come of it, while it does not; zero: it comes
	told  time.Time // when that was told last; zero: it was not
	stay  time.Time // until when it is not moved
}

// failure is how often in a row a node's link has broken, and until when it is left alone.
type failure struct {
	times int
	until time.Time
}

var _ backend.Subscriber = (*feeds)(nil)

func newFeeds(b *backend.Backend, c *chain, log *slog.Logger, publish func(shard.RangeID, shard.FeedItem)) *feeds {
	f := &feeds{
		backend: b, chain: c, publish: publish, log: log, look: make(chan struct{}, 1), local: map[shard.RangeID]bool{}, remote: map[shard.RangeID]*remoteFeed{},
		seeking: map[shard.RangeID]*remoteFeed{}, inlets: map[shard.NodeID]*inlet{}, shaky: map[shard.NodeID]*failure{},
		heads: heads{find: b.Cluster.Range, byID: map[shard.RangeID]*head{}},
	}
	f.here = newInlet(f, b.Identity.Node)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.moves, f.narrow = newMoves(f), newNarrows(f)
	f.wg.Go(f.seek)
	f.wg.Go(func() { f.narrow.run(f.ctx) })
	f.wg.Go(f.moves.run)
	f.wg.Go(f.moves.replays.run)
	return f
}

// close ends the feeds from nodes.
func (f *feeds) close() {
	f.cancel()
	f.wg.Wait()
}

// subscribe is the hub's hook: its first watcher needs the range's feed.
func (f *feeds) subscribe(id shard.RangeID) {
	f.heads.begin(id)
	f.backend.Feeds.Subscribe(id, f)
}

// unsubscribe is the hub's hook: its last watcher of the range is gone.
func (f *feeds) unsubscribe(id shard.RangeID) {
	f.backend.Feeds.Unsubscribe(id)
	f.endRemote(id, false)
	f.heads.end(id)
	f.narrow.end(id)
}

// Publish implements backend.Subscriber.
func (f *feeds) Publish(id shard.RangeID, item shard.FeedItem) { f.moves.publish(f.here, id, item) }

// bring publishes the next item of a feed, from wherever it has come. What the events have come to is learned before the hub has them: it
// will ask that everything be closed there, which a node does at the newest revision that it knows.
func (f *feeds) bring(id shard.RangeID, item shard.FeedItem) {
	f.heads.take(id, &item)
	if n := len(item.Events); n > 0 {
		f.backend.Cluster.Learn(item.Events[n-1].Rev(), item.Epoch)
	}
	f.publish(id, item)
}

// Held implements backend.Subscriber.
func (f *feeds) Held(id shard.RangeID, held bool) {
	if held {
		f.endRemote(id, true)
	} else {
		f.moves.lost(f.here, id)
		f.beginRemote(id)
	}
}

// comesFrom reports whether a source brings a feed. The caller holds mu.
func (f *feeds) comesFrom(in *inlet, id shard.RangeID) bool {
	if in == f.here {
		return f.local[id]
	}
	r := f.remote[id]
	return r != nil && r.from == in
}

// beginRemote has a feed from another node, which may be coming already, behind a border.
func (f *feeds) beginRemote(id shard.RangeID) {
	f.mu.Lock()
	delete(f.local, id)
	r := f.remote[id]
	if r == nil {
		r = &remoteFeed{since: time.Now()}
		f.remote[id], f.seeking[id] = r, r
		f.mu.Unlock()
		patience.Wake(f.look)
		return
	}
	heir, from := r.heir, r.from
	r.heir = false
	f.mu.Unlock()
	if heir && !from.confirm(id) {
		f.lost(from, id)
	}
}

// endRemote ends the feed from another node, if there is one. Nothing of it is published when it has returned: an item that was late would
// come between those of the next feed.
func (f *feeds) endRemote(id shard.RangeID, local bool) {
	defer f.moves.cancel(id)
	f.mu.Lock()
	if delete(f.local, id); local {
		f.local[id] = true
	}
	r := f.remote[id]
	delete(f.remote, id)
	delete(f.seeking, id)
	var from *inlet
	if r != nil {
		from = r.from
	}
	f.mu.Unlock()
	if from != nil {
		from.unsubscribe(id)
	}
}

// inherit says whether a link may bring the feed of a child behind the border of its parent's.
func (f *feeds) inherit(parent, child shard.RangeID, from *inlet) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.remote[parent]; f.remote[child] != nil || f.local[child] || r == nil || r.from != from {
		return false
	}
	f.remote[child] = &remoteFeed{from: from, heir: true}
	return true
}

// lost says that a link does not bring a range's feed any more. It is looked for elsewhere, if the hub wants it.
func (f *feeds) lost(from *inlet, id shard.RangeID) {
	f.moves.lost(from, id)
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.remote[id]
	if r == nil || r.from != from {
		return
	}
	if r.heir {
		delete(f.remote, id)
		return
	}
	now := time.Now()
	r.from, r.after = nil, now.Add(feedRetry)
	if r.since.IsZero() { // else it was asked for, in vain
		r.since = now
	}
	f.seeking[id] = r
	patience.Wake(f.look)
}

// seek finds sources for the feeds that have none.
func (f *feeds) seek() {
	for f.ctx.Err() == nil {
		var due <-chan time.Time
		if f.seekNow() > 0 {
			due = time.After(feedRetry)
		}
		select {
		case <-f.ctx.Done():
		case <-f.look:
			if patience.Pause(f.ctx, time.Millisecond) != nil { // for others: a hub that begins wants many at once
				return
			}
		case <-due:
		}
	}
}

// seekNow assigns what can be assigned, and returns how many feeds are left without a source.
func (f *feeds) seekNow() int {
	now := time.Now()
	f.mu.Lock()
	var found []*inlet
	var starved []shard.RangeID
	ids := make(map[*inlet][]shard.RangeID)
	for id, r := range f.seeking {
		if now.Sub(r.since) > starvedAfter && now.Sub(r.told) > starvedAfter { // again and again: others may have come who wait for it
			r.told = now
			starved = append(starved, id)
		}
		if r.after.After(now) {
			continue
		}
		node, ok := f.choose(id, r.tries, now)
		if r.tries++; !ok {
			r.after = now.Add(feedRetry)
			continue
		}
		in := f.openTo(node)
		r.from = in
		delete(f.seeking, id)
		if ids[in] == nil {
			found = append(found, in)
		}
		ids[in] = append(ids[in], id)
	}
	left := len(f.seeking)
	f.mu.Unlock()
	for _, in := range found {
		in.subscribe(ids[in])
	}
	for _, id := range starved {
		f.chain.starved(id)
	}
	return left
}

// choose picks a node to have a range's feed from. The caller holds mu. false: there is none now.
func (f *feeds) choose(id shard.RangeID, tries int, now time.Time) (shard.NodeID, bool) {
	nodes, _ := f.sources(id, now)
	if len(nodes) == 0 {
		return 0, false
	}
	return nodes[tries%len(nodes)], true
}

// sources are the nodes that a range's feed may be had from, in the order in which they are asked: gateways above come first. The caller holds mu.
func (f *feeds) sources(id shard.RangeID, now time.Time) (nodes []shard.NodeID, gateways int) {
	d, ok := f.backend.Cluster.Range(id)
	if !ok {
		return nil, 0
	}
	self := f.backend.Identity.Node
	nodes = f.chain.upstreams(make([]shard.NodeID, 0, len(d.Replicas)))
	n := len(nodes)
	for _, r := range d.Replicas {
		nodes = append(nodes, r.Node)
	}
	unfit := func(node shard.NodeID) bool {
		bad := f.shaky[node]
		return node == self || bad != nil && now.Before(bad.until)
	}
	above, members := slices.DeleteFunc(nodes[:n:n], unfit), slices.DeleteFunc(nodes[n:], unfit)
	link.Rank(self, id, above)
	link.Rank(self, id, members)
	return append(above, members...), len(above)
}

// leavesFor is for how long no feed is asked for at a node that is about to stop.
const leavesFor = 5 * time.Second

// leaves says that a source is about to stop: its feeds are had elsewhere before.
func (f *feeds) leaves(in *inlet) {
	in.leaving.Store(true)
	f.mu.Lock()
	f.forgetShaky()
	f.shaky[in.node] = &failure{times: 1, until: time.Now().Add(leavesFor)}
	f.mu.Unlock()
	patience.Wake(f.moves.wake)
}

// openTo begins a link to a node, if there is none. The caller holds mu.
func (f *feeds) openTo(node shard.NodeID) *inlet {
	in := f.inlets[node]
	if in == nil {
		in = newInlet(f, node)
		f.inlets[node] = in
		f.wg.Go(in.run)
	}
	return in
}

// from is how many feeds come from a node.
func (f *feeds) from(node shard.NodeID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	in := f.inlets[node]
	n := 0
	for _, r := range f.remote {
		if r.from != nil && r.from == in {
			n++
		}
	}
	return n
}

// starved is how many ranges there are of whose feeds nothing has been heard for so long that it is told.
func (f *feeds) starved() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.remote {
		if !r.told.IsZero() {
			n++
		}
	}
	return n
}

// comes says that a range's feed has begun.
func (f *feeds) comes(from *inlet, id shard.RangeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.remote[id]; r != nil && r.from == from {
		r.since, r.told = time.Time{}, time.Time{}
	}
}

// over says that a link has ended, and why; nil: nobody needs it.
func (f *feeds) over(in *inlet, wanted []shard.RangeID, err error) {
	f.mu.Lock()
	delete(f.inlets, in.node)
	if err != nil && f.ctx.Err() == nil {
		f.broken.Add(1)
		bad := f.shaky[in.node]
		if bad == nil {
			bad = &failure{}
			f.forgetShaky()
			f.shaky[in.node] = bad
		}
		pause := min(feedRetry<<min(bad.times, 10), feedRetryMax)
		bad.times, bad.until = bad.times+1, time.Now().Add(pause)
		level := slog.LevelDebug
		if bad.times == 1 { // a node that is down is for long
			level = slog.LevelWarn
		}
		f.log.Log(f.ctx, level, "a link to another node broke", "node", in.node.String(), "ranges", len(wanted), "error", err)
	}
	f.mu.Unlock()
	if err != nil {
		f.chain.broke(in.node)
	}
	for _, id := range wanted {
		f.lost(in, id)
	}
}

// shakyMax bounds the nodes that are remembered as such: members come and go.
const shakyMax = 1024

func (f *feeds) forgetShaky() {
	if len(f.shaky) >= shakyMax {
		clear(f.shaky)
	}
}

// steady says that a link brings something.
func (f *feeds) steady(node shard.NodeID) {
	f.mu.Lock()
	bad := f.shaky[node]
	delete(f.shaky, node)
	f.mu.Unlock()
	if bad != nil {
		f.log.Info("a link to another node is there again", "node", node.String(), "broken", bad.times)
	}
}

// open is how many links there are.
func (f *feeds) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.inlets)
}

// register tells how they fare.
func (f *feeds) register(gauge, counter func(name, help string, fn func() float64)) {
	counter("pontoon_watch_feed_failures_total", "Times that a link to another node, which brings the feeds of ranges, broke or could not be opened.",
		func() float64 { return float64(f.broken.Load()) })
	gauge("pontoon_links", "Links to other nodes, by which the feeds come of ranges that are watched here and held there.", func() float64 { return float64(f.open()) })
	counter("pontoon_feeds_moved_total", "Feeds that were taken to another source without a gap: from one that was about to stop, or to a gateway above.", func() float64 { return float64(f.moves.moved.Load()) })
	counter("pontoon_feeds_resumed_total", "Feeds that went on without a gap at another source, or anew, after theirs had broken, or their range's replica had come, left or got a snapshot.", func() float64 { return float64(f.moves.replays.resumed.Load()) })
	counter("pontoon_feeds_abandoned_total", "Feeds that began anew with a gap because what had passed could not be read from history.", func() float64 { return float64(f.moves.replays.abandoned.Load()) })
	f.narrow.register(gauge, counter)
	gauge("pontoon_feeds_starved", "Ranges that are watched here, and of whose feeds nothing is heard because nobody who has them is reached.", func() float64 { return float64(f.starved()) })
}

// history implements watchfanout.History: from the replica in this process, else from another node's.
type history struct{ backend *backend.Backend }

// Read implements watchfanout.History.
func (h *history) Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	return h.readAt(ctx, 0, id, spans, from, to, maxBytes)
}

// readAt is Read, which asks a node first that is known to be there, if it has a replica.
func (h *history) readAt(ctx context.Context, first shard.NodeID, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	req := &pb.HistoryRequest{RangeId: uint64(id), Spans: pb.FromSpans(spans), From: from, To: to, MaxBytes: int64(maxBytes), PrevKv: true}
	if evs, next, err := h.backend.Feeds.History(req); !errors.Is(err, shard.ErrUnavailable) {
		return evs, next, err
	}
	d, ok := h.backend.Cluster.Range(id)
	if !ok {
		return nil, 0, shard.ErrUnavailable
	}
	req.Generation = uint64(d.Generation)
	last := shard.ErrUnavailable
	nodes := make([]shard.NodeID, 0, len(d.Replicas))
	for _, rep := range d.Replicas {
		nodes = append(nodes, rep.Node)
	}
	if i := slices.Index(nodes, first); i > 0 {
		nodes[0], nodes[i] = nodes[i], nodes[0]
	}
	for _, node := range nodes {
		evs, next, err := h.ask(ctx, node, req)
		var compacted *shard.CompactedError
		if err == nil || errors.As(err, &compacted) {
			return evs, next, err
		}
		last = err
	}
	return nil, 0, last
}

func (h *history) ask(ctx context.Context, node shard.NodeID, req *pb.HistoryRequest) ([]*shard.Event, int64, error) {
	resp, err := h.backend.Peers.Call(ctx, node, &pb.PeerRequest{History: req})
	if err != nil {
		return nil, 0, err
	}
	if resp.History == nil {
		return nil, 0, shard.ErrUnavailable
	}
	return pb.ToEvents(resp.History.Events), resp.History.Next, nil
}
