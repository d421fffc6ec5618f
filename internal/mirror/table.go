package mirror

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/mirror/runs"
	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/shard"
)

// table is the parts of a Set. Its lock guards them, and nothing is read or asked for under it.
type table struct {
	cfg     *Config
	chooser *chooser
	wake    chan struct{}

	builds, voids atomic.Int64

	mu struct {
		sync.Mutex
		parts    parts
		building int   // how many
		full     bool  // it was said that there is no room
		notes    notes // for whoever holds the lock
		heard    map[shard.RangeID]heard
	}
}

// heard is what the feed of a range that is subscribed to has said last, whether a part listened or not: a range that is closed already says nothing when it is
// asked to be.
type heard struct {
	gen    shard.Generation
	closed int64
}

func (h *heard) take(item *shard.FeedItem) {
	if item.Gap || item.Generation != h.gen {
		*h = heard{gen: item.Generation}
	}
	if item.Closed > h.closed {
		h.closed = item.Closed
	}
	if item.Border != nil {
		*h = heard{}
	}
}

// forgetFeed is for a range whose feed has ended.
func (t *table) forgetFeed(id shard.RangeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.mu.heard, id)
}

// notes are what is to be done when the lock is free again.
type notes struct {
	voids    []voided
	children []shard.RangeID
	newer    bool // the map is to be fetched
}

// voided is a part that was given up.
type voided struct {
	id   shard.RangeID
	span shard.Span
	auto bool
	why  error
}

// unlock frees the lock, and does what was noted under it.
func (t *table) unlock() {
	todo := t.mu.notes
	t.mu.notes = notes{}
	t.mu.Unlock()
	for _, v := range todo.voids {
		t.cfg.Logger.Info("a mirror is void and will be built anew", "range", v.id.String(), "span", v.span.String(), "reason", v.why)
		if v.auto {
			t.chooser.voided(v.id)
		}
	}
	for _, child := range todo.children {
		if !t.cfg.Expect(child) {
			t.missed(child)
		}
	}
	if todo.newer && t.cfg.AskMap != nil {
		t.cfg.AskMap()
	}
}

// missed gives up what is mirrored of a child, of whose feed something may have passed.
func (t *table) missed(id shard.RangeID) {
	t.mu.Lock()
	defer t.unlock()
	for _, p := range t.mu.parts.byID[id] {
		if p.state != nil {
			t.voidLocked(p, errGap)
		}
	}
}

func newTable(cfg *Config, c *chooser) *table {
	t := &table{cfg: cfg, chooser: c, wake: make(chan struct{}, 1)}
	t.mu.parts.byID = map[shard.RangeID][]*part{}
	t.mu.heard = map[shard.RangeID]heard{}
	return t
}

func (t *table) stats() (st Stats) {
	st.BuildsTotal, st.VoidTotal = t.builds.Load(), t.voids.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.mu.parts.all {
		if p.state == nil {
			st.PartsVoid++
			continue
		}
		st.Parts++
		st.Bytes += int64(p.state.Bytes())
		st.HistoryBytes += int64(p.state.HistoryBytes())
		st.Keys += int64(p.state.Keys())
	}
	return st
}

func (t *table) kick() { patience.Wake(t.wake) }

// publish takes the next item of a range's feed.
func (t *table) publish(id shard.RangeID, item *shard.FeedItem) {
	t.mu.Lock()
	defer t.unlock()
	if of := t.mu.heard[id]; !mutate.On(mutate.MirrorDeaf) {
		of.take(item)
		t.mu.heard[id] = of
	}
	for _, p := range slices.Clone(t.mu.parts.byID[id]) {
		got := p.take(item)
		switch {
		case got.void != nil:
			t.voidLocked(p, got.void)
		case item.Border != nil && p.state != nil:
			t.cutLocked(p, item.Border)
			t.advancedLocked(p)
		case got.closed:
			t.advancedLocked(p)
		}
		t.mu.notes.newer = t.mu.notes.newer || got.newer
	}
}

// voidLocked gives a part up: it is built anew.
func (t *table) voidLocked(p *part, why error) {
	t.voids.Add(1)
	p.state, p.marks, p.closed = nil, nil, 0
	t.laterLocked(p)
	t.mu.notes.voids = append(t.mu.notes.voids, voided{p.id, p.span, p.auto, why})
	t.advancedLocked(p)
}

// dropLocked ends a part that is not to be mirrored any more.
func (t *table) dropLocked(p *part) {
	if p.build != nil {
		p.build.fail(errUnwanted) // and then it is dropped
		return
	}
	p.state, p.marks, p.closed = nil, nil, 0
	t.mu.parts.remove(p)
	t.advancedLocked(p)
}

// laterLocked has a part built after a pause.
func (t *table) laterLocked(p *part) {
	p.pause = min(max(2*p.pause, pauseMin), pauseMax)
	p.due = time.Now().Add(p.pause)
	time.AfterFunc(p.pause, t.kick)
}

// cutLocked follows a range into its two parts.
func (t *table) cutLocked(p *part, b *shard.Border) {
	if mutate.On(mutate.MirrorBorder) {
		p.gen = b.Generation
		return
	}
	switch {
	case !endsBehind(p.span, b.At): // all of it stays
		p.gen = b.Generation
		return
	case bytes.Compare(b.At, p.span.Start) <= 0: // all of it goes
		t.mu.parts.remove(p)
		p.id, p.gen = b.Child, b.Generation
		t.mu.parts.insert(p)
	default:
		child := &part{
			span: shard.Span{Start: b.At, End: p.span.End}, id: b.Child, gen: b.Generation, auto: p.auto, room: p.room,
			state: p.state.Cut(b.At), closed: p.closed, told: p.told, marks: slices.Clone(p.marks),
		}
		p.span.End, p.gen = b.At, b.Generation
		t.mu.parts.insert(child)
	}
	if !slices.Contains(t.mu.notes.children, b.Child) { // of several parts: it is expected once
		t.mu.notes.children = append(t.mu.notes.children, b.Child)
	}
	t.kick()
}

// reconcile brings the parts into line with what is wanted, and with the map. Those that stand go by their feeds, for a while.
func (t *table) reconcile(wants []want, m *shard.Map, now time.Time) {
	if m == nil {
		return
	}
	t.mu.Lock()
	defer t.unlock()
	t.unwantedLocked(wants)
	ps := &t.mu.parts
	for _, p := range slices.Clone(ps.all) {
		d, ok := m.Get(p.id)
		switch {
		case p.state == nil && p.build == nil:
			if !ok || d.Generation != p.gen || !d.Span.ContainsSpan(p.span) {
				ps.remove(p)
			}
		case ok && d.Generation <= p.gen:
			p.odd = time.Time{}
		case p.odd.IsZero():
			p.odd = now
		case now.Sub(p.odd) > oddMax:
			if p.build != nil {
				p.build.fail(errMoved)
				continue
			}
			t.voidLocked(p, errMoved)
			ps.remove(p)
		}
	}
	for i := range wants {
		w := &wants[i]
		for d := range m.Overlapping(w.span) {
			t.wantLocked(&d, d.Span.Intersect(w.span), w)
		}
	}
}

// unwantedLocked drops the parts of ranges that are mirrored by themselves no more. What a range has given away is kept until the map says so.
func (t *table) unwantedLocked(wants []want) {
	rooms := map[shard.RangeID]int{}
	var spans []shard.Span
	for i := range wants {
		if w := &wants[i]; w.auto != 0 {
			rooms[w.auto] = w.room
			spans = append(spans, w.span)
		}
	}
	for _, p := range slices.Clone(t.mu.parts.all) {
		if !p.auto {
			continue
		}
		room, is := rooms[p.id]
		if is {
			p.room = room
		}
		if !is && !contains(spans, p.span) {
			t.dropLocked(p)
		}
	}
}

// wantLocked has what a range has of a span mirrored, unless some of it is already: then it has not been heard yet what has become of that.
func (t *table) wantLocked(d *shard.Descriptor, span shard.Span, w *want) {
	if over, _ := t.mu.parts.over(span); len(over) == 0 {
		t.mu.parts.insert(&part{span: span, id: d.ID, gen: d.Generation, auto: w.auto != 0, room: w.room})
	}
}

// next is a part that is to be built now. Its feed is listened to from here on.
func (t *table) next(subscribed map[shard.RangeID]bool, now time.Time) *part {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.building >= buildsAtOnce {
		return nil
	}
	for _, p := range t.mu.parts.all {
		if p.state == nil && p.build == nil && subscribed[p.id] && !now.Before(p.due) {
			p.build = &build{wake: make(chan struct{}, 1)}
			if of := t.mu.heard[p.id]; of.gen == p.gen {
				p.build.closed = of.closed
			}
			t.mu.building++
			return p
		}
	}
	return nil
}

// forget gives up what is remembered for too long, and what is too much: of parts that have grown beyond what there may be the largest first.
func (t *table) forget(now time.Time) {
	t.mu.Lock()
	defer t.unlock()
	var standing []*part
	size := 0
	for _, p := range t.mu.parts.all {
		if p.state != nil {
			p.forget(now, t.cfg.History)
			p.size = p.state.Bytes()
			standing = append(standing, p)
			if !p.auto { // others give way by themselves
				size += p.size
			}
		}
	}
	slices.SortFunc(standing, func(a, b *part) int {
		if a.auto != b.auto {
			return cmp.Compare(btoi(b.auto), btoi(a.auto))
		}
		return cmp.Compare(a.size, b.size)
	})
	for size > t.cfg.SizeMax {
		largest := standing[len(standing)-1]
		standing = standing[:len(standing)-1]
		size -= largest.size
		largest.pause = pauseMax
		t.voidLocked(largest, errTooLarge)
	}
	total, n := 0, len(standing)
	for _, p := range standing {
		total += p.state.HistoryBytes()
	}
	if total <= t.cfg.HistoryBytes {
		return
	}
	for _, p := range standing {
		p.state.Shrink(t.cfg.HistoryBytes / n)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// bytes is what a part takes now, or will as far as is known.
func (p *part) bytes() int {
	switch {
	case p.state != nil:
		return p.state.Bytes()
	case p.build != nil:
		return p.size
	}
	return 0
}

// finish makes a part whole, of a state and of what its feed has told behind that. again: the feed has begun anew.
func (t *table) finish(p *part, state *runs.State, turn int) (again bool, err error) {
	for {
		t.mu.Lock()
		b := p.build
		switch {
		case b.err != nil:
			err = b.err
			t.mu.Unlock()
			return false, err
		case b.turn != turn && !mutate.On(mutate.MirrorKeeps):
			t.mu.Unlock()
			return true, nil
		}
		events := b.events
		b.events, b.bytes = nil, 0
		if len(events) <= settled {
			defer t.mu.Unlock()
			if err := follow(state, events); err != nil {
				return false, err
			}
			p.state, p.closed, p.build = state, b.closed, nil
			p.due, p.pause, p.size = time.Time{}, 0, state.Bytes()
			t.builds.Add(1)
			return false, nil
		}
		t.mu.Unlock()
		if err := follow(state, events); err != nil {
			return false, err
		}
	}
}

func (t *table) toAudit() (out []audited) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.mu.parts.all {
		if p.state == nil {
			continue
		}
		if v, ok := p.state.At(p.closed); ok {
			out = append(out, audited{p, p.id, p.span, p.closed, v})
		}
	}
	return out
}
