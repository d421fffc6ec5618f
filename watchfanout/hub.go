package watchfanout

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"pontoon/shard"
)

// Hub is the fan-out of one node.
type Hub struct {
	cfg           Config
	ctx           context.Context // ends with Close
	cancel        context.CancelFunc
	wg            sync.WaitGroup
	dispatchers   []*dispatcher
	readers       *pool // reads of history
	clerk         *pool // one worker: Current, Subscribe, Unsubscribe
	nextStream    atomic.Uint64
	rangeMap      atomic.Pointer[shard.Map] // what the dispatchers were told last
	lookingForMap atomic.Bool               // a look at Config.Map is on its way
	mapMu         sync.Mutex                // one change of the map at a time; taken before all others

	mu struct {
		sync.RWMutex
		feeds  map[shard.RangeID]*feed
		begun  []*feed         // to find out from where on they are whole; each once
		starts waiters[*watch] // to find out whether their starts have been compacted away
	}
	compacted atomic.Int64 // the highest compaction revision that an answer of Config.Current named

	stats struct {
		streams, watchers, slow, lanes atomic.Int64
		queued, taken                  atomic.Int64 // events
		demoted, reads, late           atomic.Int64
	}
}

// NewHub starts a hub; Close stops it. It panics if cfg.Validate reports an error.
func NewHub(cfg Config) *Hub {
	h := newHub(cfg)
	h.readers = newPool(h.cfg.Readers)
	h.clerk = newPool(1)
	for _, d := range h.dispatchers {
		h.wg.Go(func() { d.run(h.ctx) })
	}
	return h
}

// newHub makes a hub without goroutines.
func newHub(cfg Config) *Hub {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	h := &Hub{cfg: cfg.withDefaults()}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.mu.feeds = make(map[shard.RangeID]*feed)
	m := h.cfg.Map()
	h.rangeMap.Store(m)
	for range h.cfg.Dispatchers {
		h.dispatchers = append(h.dispatchers, newDispatcher(h, m))
	}
	return h
}

// Close stops the hub's goroutines and waits for them. Streams deliver nothing more.
func (h *Hub) Close() {
	h.cancel()
	h.readers.close()
	h.clerk.close()
	h.wg.Wait()
}

// Publish hands the next item of a range's feed to the hub, per range from one goroutine at a
// time. It never blocks: what the dispatchers have no room for is read from history later.
func (h *Hub) Publish(id shard.RangeID, item Item) {
	h.mu.RLock()
	f := h.mu.feeds[id]
	h.mu.RUnlock()
	if f == nil {
		h.mu.Lock()
		f = h.feedLocked(id)
		h.mu.Unlock()
	}
	h.published(f, f.publish(item, &h.rangeMap))
}

func (h *Hub) published(f *feed, p passed) {
	if p.late > 0 {
		h.stats.late.Add(int64(p.late))
		h.cfg.Logger.Error("events of a range came after their revision had been closed; watchers miss them", "range", f.id, "events", p.late)
	}
	if p.begun {
		h.findWhole(f)
	}
	if p.parked && h.lookingForMap.CompareAndSwap(false, true) {
		h.cfg.AfterFunc(h.cfg.RetryDelay, func() {
			h.lookingForMap.Store(false)
			h.clerk.add(always(h.lookForMap))
		})
	}
}

// lookForMap is for items that wait for a map of which nobody has told the hub.
func (h *Hub) lookForMap() {
	h.MapChanged()
	h.mapMu.Lock()
	defer h.mapMu.Unlock()
	m := h.rangeMap.Load()
	for _, f := range h.feeds() {
		h.published(f, f.unpark(m))
	}
}

func (h *Hub) feeds() []*feed {
	h.mu.RLock()
	defer h.mu.RUnlock()
	feeds := make([]*feed, 0, len(h.mu.feeds))
	for _, f := range h.mu.feeds {
		feeds = append(feeds, f)
	}
	return feeds
}

func (h *Hub) feedLocked(id shard.RangeID) *feed {
	f := h.mu.feeds[id]
	if f == nil {
		f = newFeed(id)
		if d := descriptorIn(h.rangeMap.Load(), id); d != nil {
			f.mu.since = d.Generation
		}
		h.mu.feeds[id] = f
	}
	return f
}

// acquire returns the feed of a range for one more listener.
func (h *Hub) acquire(id shard.RangeID) *feed {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feedLocked(id)
	if f.users++; f.users == 1 && h.cfg.Subscribe != nil {
		f.detach()
		h.clerk.add(always(func() {
			f.detach() // once more: after an Unsubscribe that was still to run
			h.cfg.Subscribe(id)
		}))
	}
	return f
}

// release is the opposite.
func (h *Hub) release(f *feed, d *dispatcher) {
	f.leave(d)
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.users--; f.users == 0 && h.cfg.Unsubscribe != nil {
		h.clerk.add(always(func() { h.cfg.Unsubscribe(f.id) }))
	}
}

// findWhole finds out from which revision on a feed that has begun lacks nothing: from any
// revision that is current after its first item.
func (h *Hub) findWhole(f *feed) {
	h.mu.Lock()
	if slices.Contains(h.mu.begun, f) { // it has begun anew before that was found out
		h.mu.Unlock()
		return
	}
	h.mu.begun = append(h.mu.begun, f)
	first := len(h.mu.begun)+h.mu.starts.len() == 1
	h.mu.Unlock()
	if first {
		h.clerk.add(always(h.askCurrent))
	}
}

// checkStart has the watch's dispatcher told of every compaction that was acknowledged before.
func (h *Hub) checkStart(w *watch) {
	h.mu.Lock()
	h.mu.starts.add(w)
	first := len(h.mu.begun)+h.mu.starts.len() == 1
	h.mu.Unlock()
	if first {
		h.clerk.add(always(h.askCurrent))
	}
}

// askCurrent asks once for all feeds and watches that wait for an answer.
func (h *Hub) askCurrent() {
	h.mu.Lock()
	feeds, starts := h.mu.begun, h.mu.starts.take()
	h.mu.begun = nil
	h.mu.Unlock()
	turns := make([]uint64, len(feeds))
	for i, f := range feeds {
		turns[i] = f.turn()
	}
	ctx, cancel := context.WithTimeout(h.ctx, readTimeout)
	now, err := h.cfg.Current(ctx)
	cancel()
	if err != nil {
		if h.ctx.Err() == nil {
			h.cfg.Logger.Debug("asking for the current revision failed, will try again", "err", err)
			h.cfg.AfterFunc(h.cfg.RetryDelay, func() {
				for _, f := range feeds {
					h.findWhole(f)
				}
				for _, w := range starts {
					if !w.over() {
						h.checkStart(w)
					}
				}
			})
		}
		return
	}
	for i, f := range feeds {
		f.setWhole(turns[i], now.Revision)
	}
	h.compacted.Store(max(h.compacted.Load(), now.CompactRevision)) // nobody else stores
	for _, w := range starts {
		w.st.d.in.post(message{kind: msgChecked, w: w, rev: now.CompactRevision})
	}
}

// MapChanged tells the hub that Config.Map may have a newer version.
func (h *Hub) MapChanged() {
	h.mapMu.Lock()
	defer h.mapMu.Unlock()
	m, old := h.cfg.Map(), h.rangeMap.Load()
	if m == nil || old != nil && m.Version() <= old.Version() {
		return
	}
	h.adopt(old, m)
	for _, f := range h.feeds() {
		h.published(f, f.unpark(m))
		h.forgetFeed(f, m)
	}
}

// adopt tells everybody of a map. No feed is made meanwhile, and the dispatchers hear of it
// before any item that has waited for it.
func (h *Hub) adopt(old, m *shard.Map) {
	h.mu.Lock()
	defer h.mu.Unlock()
	grown := make(map[shard.RangeID]bool)
	for id, f := range h.mu.feeds {
		if now, ok := m.Get(id); ok && f.adopt(descriptorIn(old, id), now) {
			grown[id] = true
		}
	}
	for _, d := range h.dispatchers {
		d.in.post(message{kind: msgMap, more: mapChange{rangeMap: m, grown: grown}})
	}
	h.rangeMap.Store(m)
}

func descriptorIn(m *shard.Map, id shard.RangeID) *shard.Descriptor {
	if m == nil {
		return nil
	}
	d, ok := m.Get(id)
	if !ok {
		return nil
	}
	return &d
}

// forgetFeed drops what is kept of a range that is no more.
func (h *Hub) forgetFeed(f *feed, m *shard.Map) {
	if _, ok := m.Get(f.id); ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.users == 0 {
		delete(h.mu.feeds, f.id)
	}
}

// admit counts one more watcher, if the hub takes any.
func (h *Hub) admit() error {
	if h.ctx.Err() != nil {
		return shard.ErrStopped
	}
	m := h.cfg.Map()
	if m == nil {
		return shard.ErrUnavailable
	}
	if known := h.rangeMap.Load(); known == nil || known.Version() < m.Version() {
		h.MapChanged()
	}
	if h.stats.watchers.Add(1) > int64(h.cfg.WatchersMax) {
		h.stats.watchers.Add(-1)
		return shard.ErrTooManyRequests
	}
	return nil
}

// Stats returns the hub's counters.
func (h *Hub) Stats() Stats {
	s := &h.stats
	taken := s.taken.Load()
	queued := s.queued.Load()
	return Stats{
		Streams: s.streams.Load(), Watchers: s.watchers.Load(), SlowWatchers: s.slow.Load(),
		Lanes: s.lanes.Load(), PendingEvents: max(0, queued-taken), EventsTotal: queued,
		DemotedTotal: s.demoted.Load(), ReadsTotal: s.reads.Load(), LateTotal: s.late.Load(),
	}
}
