package watchfanout

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// current asks what is current (Config.Current), one question at a time: for feeds, to know from where on
// they are whole, and for watches, to know whether their starts have been compacted away. What comes while
// a question is under way shares the next.
type current struct {
	h *Hub

	mu struct {
		sync.Mutex
		feeds  []*feed // each once
		starts waiters[*watch]
		asked  bool // ask is on its way, and has not begun
	}
	compacted atomic.Int64 // the highest compaction revision that an answer named
}

// findWhole finds out from which revision on a feed that has begun lacks nothing: from any
// revision that is current after its first item.
func (c *current) findWhole(f *feed) {
	c.mu.Lock()
	if slices.Contains(c.mu.feeds, f) { // it has begun anew before that was found out
		c.mu.Unlock()
		return
	}
	c.mu.feeds = append(c.mu.feeds, f)
	first := !c.mu.asked
	c.mu.asked = true
	c.mu.Unlock()
	if first {
		c.h.clerk.add(always(c.ask))
	}
}

// checkStart has the watch's dispatcher told of every compaction that was acknowledged before.
func (c *current) checkStart(w *watch) {
	c.mu.Lock()
	c.mu.starts.add(w)
	first := !c.mu.asked
	c.mu.asked = true
	c.mu.Unlock()
	if first {
		c.h.clerk.add(always(c.ask))
	}
}

// ask asks once for all that wait.
func (c *current) ask() {
	c.mu.Lock()
	feeds, starts := c.mu.feeds, c.mu.starts.take()
	c.mu.feeds, c.mu.asked = nil, false
	c.mu.Unlock()
	turns := make([]uint64, len(feeds))
	for i, f := range feeds {
		turns[i] = f.turn()
	}
	ctx, cancel := context.WithTimeout(c.h.ctx, readTimeout)
	now, err := c.h.cfg.Current(ctx)
	cancel()
	if err != nil {
		if c.h.ctx.Err() == nil {
			c.h.cfg.Logger.Debug("asking for the current revision failed, will try again", "err", err)
			c.h.cfg.AfterFunc(c.h.cfg.RetryDelay, func() { c.again(feeds, starts) })
		}
		return
	}
	for i, f := range feeds {
		f.setWhole(turns[i], now.Revision)
	}
	c.compacted.Store(max(c.compacted.Load(), now.CompactRevision)) // nobody else stores
	for _, w := range starts {
		w.st.d.in.post(message{kind: msgChecked, w: w, rev: now.CompactRevision})
	}
}

func (c *current) again(feeds []*feed, starts []*watch) {
	for _, f := range feeds {
		c.findWhole(f)
	}
	for _, w := range starts {
		if !w.abandoned() {
			c.checkStart(w)
		}
	}
}
