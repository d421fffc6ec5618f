package watchfanout

import (
	"context"
	"sync"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// looksPerRetry is how often in a RetryDelay the hub asks and looks for a map for which items wait: events are late by
// as long as it does not come.
const looksPerRetry = 4

// Hub is the fan-out of one node.
type Hub struct {
	cfg         Config
	ctx         context.Context // ends with Close
	cancel      context.CancelFunc
	wg          sync.WaitGroup
	dispatchers []*dispatcher
	readers     *pool // reads of history
	clerk       *pool // one worker: Current, Subscribe, Unsubscribe, AskMap
	nextStream  atomic.Uint64
	feeds       feedTable
	current     current
	budget      budget
	stats       counters

	lookingForMap atomic.Bool // a look at Config.Map is on its way
	mapMu         sync.Mutex  // one change of the map at a time; taken before all others
	base          *shard.Map  // the newest of Config.Map; guarded by mapMu
	waitBounded   bool        // somebody is to look at what waits for feeds; guarded by mapMu
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
	h.current.h = h
	h.budget.init(h.cfg.DeliveryBytes)
	m := h.cfg.Map()
	h.base = m
	h.feeds.init(h, m)
	for range h.cfg.Dispatchers {
		h.dispatchers = append(h.dispatchers, newDispatcher(h, m))
	}
	return h
}

// Close stops the hub's goroutines and waits for them. Streams deliver nothing more.
func (h *Hub) Close() {
	h.cancel()
	h.feeds.rings.close()
	h.readers.close()
	h.clerk.close()
	h.wg.Wait()
}

// Publish hands the next item of a range's feed to the hub, per range from one goroutine at a
// time. It never blocks: what the dispatchers have no room for is read from history later. The first item of
// all, and the first after Subscribe, count as if they had Gap. An item of a generation above the one in
// Config.Map waits until MapChanged brings it, so that the two halves of a split are never taken for one.
//
// An item with a Border cuts the range at once, whatever Config.Map says: watches go on in both parts. The child's first
// item follows it, with Gap if that is not the child's first of all. Before Publish returns nothing may come of the child.
func (h *Hub) Publish(id shard.RangeID, item shard.FeedItem) {
	f := h.feeds.get(id)
	p := f.publish(item, &h.feeds.rangeMap)
	h.published(f, p)
	if !p.parked {
		return
	}
	h.feeds.notePark(f)
	if p.border || h.feeds.waiting.Load() > 0 {
		h.mapMu.Lock()
		defer h.mapMu.Unlock()
		h.settle()
		f.noteWait()
	}
}

func (h *Hub) published(f *feed, p forwarded) {
	if p.late > 0 {
		h.stats.late.Add(int64(p.late))
		h.cfg.Logger.Error("events of a range came after their revision had been closed; watchers miss them", "range", f.id, "events", p.late)
	}
	if p.anew {
		h.current.findWhole(f)
	}
	if p.short {
		h.widen(f)
	}
	if p.parked && h.lookingForMap.CompareAndSwap(false, true) {
		if h.cfg.AskMap != nil && !mutate.On(mutate.MapNotAsked) {
			h.clerk.add(always(h.cfg.AskMap))
		}
		h.cfg.AfterFunc(h.cfg.RetryDelay/looksPerRetry, func() {
			h.lookingForMap.Store(false)
			h.clerk.add(always(h.lookForMap))
		})
	}
}

// lookForMap is for items that wait for a map of which nobody has told the hub. It is asked for again if they still do.
func (h *Hub) lookForMap() {
	h.mapMu.Lock()
	defer h.mapMu.Unlock()
	h.takeMap()
	h.settle()
}

// MapChanged tells the hub that Config.Map may have a newer version.
func (h *Hub) MapChanged() {
	h.mapMu.Lock()
	defer h.mapMu.Unlock()
	if h.takeMap() {
		h.settle()
	}
}

// takeMap reports whether there is a newer map. The caller holds mapMu.
func (h *Hub) takeMap() bool {
	m := h.cfg.Map()
	if m == nil || h.base != nil && m.Version() <= h.base.Version() {
		return false
	}
	h.base = m
	return true
}

// settle brings what the dispatchers know into line with the newest map and with what feeds tell of it, and passes on
// what has waited for that. The caller holds mapMu.
func (h *Hub) settle() {
	for again := true; again; {
		again = h.base != nil && h.feeds.adopt(h.base)
		for _, f := range h.feeds.allParked() {
			p, changed := h.feeds.advance(f, h.base)
			for _, child := range p.children {
				h.current.findWhole(child)
			}
			for _, child := range p.narrow {
				h.widen(child)
			}
			h.published(f, p.forwarded)
			again = again || changed
		}
	}
	h.boundWait()
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
	if known := h.feeds.rangeMap.Load(); known == nil || known.Version() < m.Version() { // it has the version of Config.Map
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
	s := h.stats.read()
	s.RingBytes = int64(h.feeds.rings.held())
	s.DeliveryBytes, s.DeliveryBytesMax = h.budget.held(), h.budget.max
	return s
}

// counters are what Stats shows.
type counters struct {
	streams, watchers, slow, lanes atomic.Int64
	queued, taken                  atomic.Int64 // events
	demoted, reads, late, cut      atomic.Int64
	spared, parked, shed           atomic.Int64
}

func (c *counters) read() Stats {
	taken := c.taken.Load() // before queued: what was taken has been queued
	queued := c.queued.Load()
	return Stats{
		Streams: c.streams.Load(), Watchers: c.watchers.Load(), SlowWatchers: c.slow.Load(),
		Lanes: c.lanes.Load(), PendingEvents: max(0, queued-taken), EventsTotal: queued,
		DemotedTotal: c.demoted.Load(), ReadsTotal: c.reads.Load(), LateTotal: c.late.Load(), CutTotal: c.cut.Load(), SparedTotal: c.spared.Load(),
		ParkedWatchers: c.parked.Load(), ShedTotal: c.shed.Load(),
	}
}
