package watchfanout

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pontoon/shard"
)

type askLog struct{ asks []string }

func (a *askLog) AskClose(rev int64, ranges []shard.RangeID) {
	what := "all"
	if ranges != nil {
		what = fmt.Sprint(ranges)
	}
	a.asks = append(a.asks, fmt.Sprintf("%d %s", rev, what))
}

// TestClosingAsks: for what lanes require, once, and only of their ranges that are not closed there; again after a tick as long as it is not
// released; and not for lanes that are there no more.
func TestClosingAsks(t *testing.T) {
	var log askLog
	var c closing
	var in inbox
	ticks := 0
	in.init(1, 1)
	c.init(&Config{Closer: &log, AfterFunc: func(time.Duration, func()) { ticks++ }}, &in)
	laneOf := func(closed map[shard.RangeID]int64) *lane {
		l := &lane{}
		var feeds []mergerFeed
		for id, rev := range closed {
			l.ports = append(l.ports, &port{feed: newFeed(id, &ringTable{})})
			feeds = append(feeds, mergerFeed{closed: rev})
		}
		l.m = newMerger(feeds, 0)
		return l
	}
	a, b := laneOf(map[shard.RangeID]int64{1: 5, 2: 6, 3: 20}), laneOf(map[shard.RangeID]int64{2: 3})
	check := func(what string, wantTicks int, want ...string) {
		t.Helper()
		if !slices.Equal(log.asks, want) || ticks != wantTicks {
			t.Errorf("%s: asked for %v in %d ticks, want %v in %d", what, log.asks, ticks, want, wantTicks)
		}
		log.asks, ticks = nil, 0
	}
	c.require(a, 5)
	c.ask(false)
	check("what is released already", 0)
	c.ask(true)
	check("a tick for somebody else", 1)
	c.require(a, 9)
	c.ask(false)
	check("its ranges that are not closed", 0, "9 [r1 r2]")
	c.require(b, 8)
	c.require(b, 7)
	c.ask(false)
	check("another lane, though somebody has asked for more", 0, "8 [r2]")
	c.ask(false)
	check("the same again", 0)
	c.onTick()
	c.ask(false)
	check("after a tick", 1, "9 [r1 r2]")
	b.m.advance(0, 8)
	b.m.release(1)
	c.released(b)
	c.onTick()
	c.ask(false)
	check("one of two is released", 1, "9 [r1 r2]")
	c.renew(a)
	c.renew(b)
	c.ask(false)
	check("a lane that has other ranges now", 0, "9 [r1 r2]")
	c.require(a, 10)
	c.forget(a)
	c.onTick()
	c.ask(false)
	check("nobody is left", 0)

	many := map[shard.RangeID]int64{}
	for id := range shard.RangeID(askRangesMax) {
		many[id+1] = 0
	}
	c.require(laneOf(many), 3)
	c.ask(false)
	if len(log.asks) != 1 || log.asks[0] == "3 all" {
		t.Errorf("as many as may be named: %.80q", log.asks)
	}
	log.asks = nil
	many[askRangesMax+1] = 0
	c.require(laneOf(many), 3)
	c.ask(false)
	check("more than are named", 0+ticks, "3 all")
}
