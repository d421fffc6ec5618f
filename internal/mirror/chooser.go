package mirror

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"pontoon/internal/mirror/auto"
	"pontoon/shard"
)

// want is keys that are to be mirrored.
type want struct {
	span shard.Span
	auto shard.RangeID // the range that is mirrored by itself; 0: the operator has named it
	room int           // bytes that such a range may have while it is read
}

// chooser has ranges mirrored that are listed often.
type chooser struct {
	cfg   *Config
	named []shard.Span // disjoint, in order

	mu      sync.Mutex
	choice  *auto.Choice // nil: only what is named is mirrored
	taken   []auto.Range
	covered []shard.Span // by what is named and what is taken, disjoint, in order
	decided time.Time
	known   *shard.Map // that was followed
}

func newChooser(cfg *Config, named []shard.Span) *chooser {
	c := &chooser{cfg: cfg, named: named, covered: named}
	if cfg.AutoSize > 0 {
		c.choice = auto.New(cfg.AutoFloor)
	}
	return c
}

// covers reports whether all keys of a span are to be mirrored.
func (c *chooser) covers(span shard.Span) bool {
	c.mu.Lock()
	covered := c.covered // is never changed
	c.mu.Unlock()
	return contains(covered, span)
}

// contains reports whether one of several spans has all of another one's keys.
func contains(spans []shard.Span, span shard.Span) bool {
	for _, o := range spans {
		if o.ContainsSpan(span) {
			return true
		}
	}
	return false
}

// listed counts what a list has got of a range. What is named is mirrored anyway.
func (c *chooser) listed(id shard.RangeID, span shard.Span, bytes, sofar int) {
	if c.choice == nil || span.IsPoint() || contains(c.named, span) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.choice.Listed(id, bytes, sofar, time.Now())
}

// voided says that the mirror of a range is read again, or could not be read.
func (c *chooser) voided(id shard.RangeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.choice.Voided(id, time.Now())
}

// tooLarge says that a range has more bytes than it may have.
func (c *chooser) tooLarge(id shard.RangeID, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.choice.TooLarge(id, bytes, time.Now())
}

func (c *chooser) figures() (taken int, took, gaveUp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.choice == nil {
		return 0, 0, 0
	}
	return c.choice.Figures()
}

// wants lists what is to be mirrored by a map. Once in lookEvery it is decided anew which ranges are: held tells what there is.
func (c *chooser) wants(m *shard.Map, now time.Time, held func() (named int, autos map[shard.RangeID]auto.Held)) []want {
	if c.choice != nil && m != nil {
		c.decide(m, now, held)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []want
	for _, span := range c.named {
		out = append(out, want{span: span})
	}
	for _, r := range c.taken {
		for _, piece := range without(r.Span, c.named) {
			out = append(out, want{span: piece, auto: r.ID, room: r.Room})
		}
	}
	return out
}

func (c *chooser) decide(m *shard.Map, now time.Time, held func() (int, map[shard.RangeID]auto.Held)) {
	due := now.Sub(c.decided) >= lookEvery // only whoever asks for wants writes these two
	if !due && m == c.known {
		return
	}
	var room int
	var autos map[shard.RangeID]auto.Held
	if due {
		var named int
		named, autos = held()
		room = min(c.cfg.AutoSize, max(0, c.cfg.SizeMax-named))
	}
	before := c.taken
	c.mu.Lock()
	if m != c.known {
		c.choice.Follow(m, now)
		c.known = m
	}
	if due {
		c.decided = now
		c.choice.Decide(m, room, autos, now)
	}
	taken := c.choice.Taken()
	covered := slices.Clone(c.named)
	for _, r := range taken {
		covered = append(covered, r.Span)
	}
	c.taken, c.covered = taken, disjoint(covered)
	c.mu.Unlock()
	c.tell(before, taken, "a range is listed so often that it is mirrored")
	c.tell(taken, before, "a range is not mirrored any more")
}

// tell logs what is in after and not in before.
func (c *chooser) tell(before, after []auto.Range, what string) {
	for _, r := range after {
		if !slices.ContainsFunc(before, func(o auto.Range) bool { return o.ID == r.ID }) {
			c.cfg.Logger.Info(what, "range", r.ID.String(), "span", r.Span.String())
		}
	}
}

// without is a span without the keys of others, which are disjoint and in order.
func without(span shard.Span, others []shard.Span) (out []shard.Span) {
	for _, o := range others {
		if !o.Overlaps(span) {
			continue
		}
		if bytes.Compare(span.Start, o.Start) < 0 {
			out = append(out, shard.Span{Start: span.Start, End: o.Start})
		}
		if o.Unbounded() || !endsBehind(span, o.End) {
			return out
		}
		span.Start = o.End
	}
	return append(out, span)
}
