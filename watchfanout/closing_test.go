package watchfanout

import (
	"slices"
	"testing"
	"time"
)

type askLog struct{ revs []int64 }

func (a *askLog) AskClose(rev int64) { a.revs = append(a.revs, rev) }

// TestClosingAsks: for the highest revision that a lane requires, once; again after a tick as long as it is not
// released; and not for lanes that are there no more.
func TestClosingAsks(t *testing.T) {
	var log askLog
	var c closing
	var in inbox
	ticks := 0
	in.init(1, 1)
	c.init(&Config{Closer: &log, AfterFunc: func(time.Duration, func()) { ticks++ }}, &in)
	laneAt := func(released int64) *lane {
		return &lane{m: newMerger([]mergerFeed{{closed: released}}, 0)}
	}
	a, b := laneAt(5), laneAt(3)
	check := func(what string, wantTicks int, want ...int64) {
		t.Helper()
		if !slices.Equal(log.revs, want) || ticks != wantTicks {
			t.Errorf("%s: asked for %v in %d ticks, want %v in %d", what, log.revs, ticks, want, wantTicks)
		}
		log.revs, ticks = nil, 0
	}
	c.require(a, 5)
	c.ask(false)
	check("what is released already", 0)
	c.ask(true)
	check("a tick for somebody else", 1)
	c.require(a, 7)
	c.require(b, 9)
	c.require(b, 8)
	c.ask(false)
	check("the highest", 0, 9)
	c.ask(false)
	check("the same again", 0)
	c.onTick()
	c.ask(false)
	check("after a tick", 1, 9)
	b.m.advance(0, 9)
	b.m.release(1)
	c.released(b)
	c.onTick()
	c.ask(false)
	check("one of two is released", 1, 7)
	c.forget(a)
	c.onTick()
	c.ask(false)
	check("nobody is left", 0)
}
