package watchfanout

import (
	"slices"

	"pontoon/shard"
)

// askRangesMax bounds the ranges that are asked for by name; where more are waited for, every range is: to name them with every event would cost as much
// as it spares.
const askRangesMax = 1 << 12

// closing is about lanes that must be closed at some revision for somebody to go on. It asks Config.Closer
// for the ranges of theirs that are not, once for what a lane requires, and again at every tick as long as it waits.
type closing struct {
	cfg     *Config
	in      *inbox
	waiting map[*lane]struct{} // lanes that require something
	fresh   []*lane            // of these, whose ranges are to be asked for
	ticking bool               // a msgTick is on its way

	ranges []shard.RangeID // scratch of ask
}

func (c *closing) init(cfg *Config, in *inbox) {
	c.cfg, c.in = cfg, in
	c.waiting = make(map[*lane]struct{})
}

// require notes that the lane must be closed at rev.
func (c *closing) require(l *lane, rev int64) {
	if rev > l.m.released && rev > l.required {
		l.required = rev
		c.waiting[l] = struct{}{}
		c.renew(l)
	}
}

// renew has what the lane requires asked for again: it is of other ranges now.
func (c *closing) renew(l *lane) {
	if l.required > 0 && !l.fresh {
		l.fresh = true
		c.fresh = append(c.fresh, l)
	}
}

// released ends what a lane required if that has been released.
func (c *closing) released(l *lane) {
	if l.required > 0 && l.required <= l.m.released {
		c.forget(l)
	}
}

// forget ends what a lane required.
func (c *closing) forget(l *lane) {
	l.required = 0
	delete(c.waiting, l)
}

// onTick lets the round ask again for what is still not closed.
func (c *closing) onTick() {
	c.ticking = false
	for l := range c.waiting {
		c.renew(l)
	}
}

// ask tells the closer what is required. Ticks go on as long as a lane waits, or tick says that somebody
// else waits for one.
func (c *closing) ask(tick bool) {
	if len(c.fresh) > 0 {
		c.askFresh()
	}
	if len(c.waiting) == 0 && !tick {
		return
	}
	if !c.ticking {
		c.ticking = true
		c.cfg.AfterFunc(c.cfg.RetryDelay, func() { c.in.post(message{kind: msgTick}) })
	}
}

// askFresh asks for all that is fresh at once, at the highest revision of it.
func (c *closing) askFresh() {
	var rev int64
	c.ranges = c.ranges[:0]
	for i, l := range c.fresh {
		c.fresh[i], l.fresh = nil, false
		rev = max(rev, l.required) // 0: it has been forgotten meanwhile
		for p := 0; l.required > 0 && p < len(l.ports) && len(c.ranges) <= askRangesMax; p++ {
			if l.m.feeds[p].closed < l.required {
				c.ranges = append(c.ranges, l.ports[p].feed.id)
			}
		}
	}
	c.fresh = c.fresh[:0]
	if len(c.ranges) == 0 {
		return
	}
	slices.Sort(c.ranges) // the order of a map's keys is nobody's
	ranges := slices.Compact(c.ranges)
	if len(c.ranges) > askRangesMax {
		ranges = nil
	}
	c.cfg.Closer.AskClose(rev, ranges)
}
