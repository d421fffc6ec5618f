package auto

import (
	"cmp"
	"slices"
	"time"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Rules of a Choice.
const (
	// takeAt and keepAt are how often its size a range is to be listed in a minute to be taken, and to be kept.
	takeAt = 2.0
	keepAt = 0.5
	// better is how many times as much a range is to be listed as those together whose place it takes.
	better = 2.0
	// stay is for how long a range is kept at least, unless there is no room or its mirror does not hold.
	stay = 20 * time.Second
	// A range that was given up is tried again after a pause, which doubles, unless it has stood for as long as pauseMax between.
	pauseMin = time.Minute
	pauseMax = 30 * time.Minute
	// voidsMax is how many times a mirror may become void within about voidSpan.
	voidsMax = 3.5
	voidSpan = 5 * time.Minute
	// sizeSpan is after what time half of what is known of the size of a range that is not mirrored is forgotten: it may have got smaller.
	sizeSpan = 10 * time.Minute
	// sameSize is how much of what was known a list has to show so that it is remembered.
	sameSize = 0.9
	// rangesMax is how many ranges lists are counted of; when there are as many, the coldest quarter is forgotten. takenMax is how many are mirrored at most.
	rangesMax = 1024
	takenMax  = 256
	// leastHeat is the bytes a minute below which a range is not remembered.
	leastHeat = 64
)

// DefaultFloor is as large as the smallest range counts.
const DefaultFloor = 64 << 10

// Choice is what is known of ranges, and which of them are taken. It is not safe for concurrent use.
type Choice struct {
	floor  float64
	ranges map[shard.RangeID]*known
	taken  int // of them, that are taken

	tookTotal, gaveUpTotal int64
}

// known is what is known of a range.
type known struct {
	id    shard.RangeID
	heat  decaying // bytes of lists a minute
	least float64  // bytes that it has, at least
	sized time.Time

	taken bool
	span  shard.Span // where it is taken: its keys
	since time.Time  // that it was taken
	room  float64    // bytes that its mirror may have while it is read
	whole bool       // it stands, and has least bytes
	stood bool       // it has, since it was taken

	voids decaying
	until time.Time // not before is it taken
	pause time.Duration
}

// Range is a range that is mirrored by itself.
type Range struct {
	ID   shard.RangeID
	Span shard.Span
	Room int // bytes that its mirror may have
}

// Held is what there is of a range that is taken.
type Held struct {
	Bytes int
	Whole bool // all of it; otherwise it is being read
}

// New makes a Choice of nothing. A range that is smaller than floor, in bytes, counts as if it were as large; 0: DefaultFloor.
func New(floor int) *Choice {
	if floor <= 0 {
		floor = DefaultFloor
	}
	return &Choice{floor: float64(floor), ranges: map[shard.RangeID]*known{}}
}

// Figures are how many ranges are taken, and how many have been taken and given up.
func (c *Choice) Figures() (taken int, took, gaveUp int64) {
	return c.taken, c.tookTotal, c.gaveUpTotal
}

// Listed counts a page of a list. sofar is what the list has got of this range with it.
func (c *Choice) Listed(id shard.RangeID, bytes, sofar int, now time.Time) {
	k := c.ranges[id]
	if k == nil {
		if len(c.ranges) >= rangesMax || bytes <= 0 { // the next decision makes room
			return
		}
		k = &known{id: id}
		c.ranges[id] = k
	}
	k.heat.add(float64(bytes), time.Minute, now)
	if size := float64(sofar); !k.taken && size > sameSize*k.least {
		k.least, k.sized = max(size, k.least), now
	}
}

// Voided says that the mirror of a range that is taken was given up, and is read again, or could not be read.
func (c *Choice) Voided(id shard.RangeID, now time.Time) {
	k := c.ranges[id]
	if k == nil || !k.taken {
		return
	}
	if k.whole = false; k.stood {
		k.room = c.size(k)
	}
	if k.voids.add(1, voidSpan, now); k.voids.at(voidSpan, now) > voidsMax && !mutate.On(mutate.AutoStubborn) {
		c.giveUp(k, now, true)
	}
}

// TooLarge says that a range that is taken has more bytes than it may have.
func (c *Choice) TooLarge(id shard.RangeID, bytes int, now time.Time) {
	if k := c.ranges[id]; k != nil && k.taken {
		k.least, k.sized = max(k.least, float64(bytes)), now
		c.giveUp(k, now, true)
	}
}

// Follow takes a new range map. What a range has given to others by splits stays mirrored there, and is taken to be listed in equal parts; one that has grown,
// or is not there any more, is given up: its mirror is void anyway.
func (c *Choice) Follow(m *shard.Map, now time.Time) {
	for _, k := range c.inOrder() {
		if !k.taken {
			continue
		}
		d, ok := m.Get(k.id)
		switch {
		case !ok:
			c.giveUp(k, now, false)
			delete(c.ranges, k.id)
		case d.Span.Equal(k.span):
		case !k.span.ContainsSpan(d.Span):
			c.giveUp(k, now, false)
		default:
			c.split(k, d.Span, m)
		}
	}
}

// split follows a range that has got smaller.
func (c *Choice) split(k *known, span shard.Span, m *shard.Map) {
	var children []shard.Descriptor
	for d := range m.Overlapping(k.span) {
		if d.ID != k.id && k.span.ContainsSpan(d.Span) && (c.ranges[d.ID] == nil || !c.ranges[d.ID].taken) {
			children = append(children, d)
		}
	}
	n := float64(1 + len(children))
	k.heat.value /= n
	k.least /= n
	k.room /= n
	k.span = span
	for _, d := range children {
		if c.taken >= takenMax || len(c.ranges) >= rangesMax {
			return
		}
		child := *k
		child.id, child.span = d.ID, d.Span
		if has := c.ranges[d.ID]; has != nil { // lists of it have come before the map
			child.heat.value += has.heat.at(time.Minute, child.heat.when)
		}
		c.ranges[d.ID] = &child
		c.taken++
		c.tookTotal++
	}
}

// Decide gives up what is not worth its room, or has none, and takes what is. room is how many bytes all that are taken may have together; held is what there
// is of each.
func (c *Choice) Decide(m *shard.Map, room int, held map[shard.RangeID]Held, now time.Time) {
	for id, h := range held {
		if k := c.ranges[id]; k != nil && k.taken {
			if k.whole = h.Whole; h.Whole {
				k.least, k.sized, k.stood = float64(h.Bytes), now, true
			}
		}
	}
	c.forget(now)
	for _, k := range c.inOrder() {
		least := keepAt
		if mutate.On(mutate.AutoNarrow) {
			least = takeAt
		}
		if k.taken && now.Sub(k.since) >= stay && k.heat.at(time.Minute, now) < least*c.size(k) {
			c.giveUp(k, now, false)
		}
	}
	taken := c.byWorth(true, now)
	left := float64(room)
	for _, k := range taken {
		left -= c.needs(k)
	}
	for ; left < 0 && len(taken) > 0; taken = taken[:len(taken)-1] {
		worst := taken[len(taken)-1]
		left += c.needs(worst)
		c.giveUp(worst, now, true)
	}
	for _, k := range c.byWorth(false, now) {
		if now.Before(k.until) || k.heat.at(time.Minute, now) <= takeAt*c.size(k) {
			continue
		}
		if d, ok := m.Get(k.id); ok {
			left = c.take(k, d.Span, left, now)
		}
	}
	c.again(left)
}

// take takes a range if there is room, or what is worth much less has some. It returns the room that is left.
func (c *Choice) take(k *known, span shard.Span, left float64, now time.Time) float64 {
	size := c.size(k)
	out, free, ok := c.instead(k, left, now)
	if !ok {
		return left
	}
	for _, o := range out {
		c.giveUp(o, now, true)
	}
	k.taken, k.span, k.since, k.whole, k.stood = true, span, now, false, false
	k.room = max(size, min(free, k.heat.at(time.Minute, now)/takeAt))
	if mutate.On(mutate.AutoGreedy) {
		k.room = max(size, k.heat.at(time.Minute, now))
	}
	k.voids = decaying{}
	c.taken++
	c.tookTotal++
	return free - k.room
}

// again gives those that are read again room for what they had, and for some more, as far as there is any left.
func (c *Choice) again(left float64) {
	for _, k := range c.inOrder() {
		if !k.taken || !k.stood || k.whole {
			continue
		}
		more := min(max(0, left), c.size(k)/4)
		left -= more
		k.room = c.size(k) + more
	}
}

// instead is what has to go so that a range has room, and what is left then. false: it has not enough for that, or is not listed enough.
func (c *Choice) instead(k *known, left float64, now time.Time) (out []*known, free float64, ok bool) {
	size := c.size(k)
	fits := func(free float64, fewer int) bool { return free >= size && c.taken-fewer < takenMax }
	free = left
	for _, o := range slices.Backward(c.byWorth(true, now)) {
		if fits(free, len(out)) {
			break
		}
		if now.Sub(o.since) >= stay {
			out = append(out, o)
			free += c.needs(o)
		}
	}
	heat := 0.0
	var needed []*known
	for i, o := range slices.Backward(out) { // what is worth most may stay where a larger one goes as well
		if rest := len(needed) + i; fits(free-c.needs(o), rest) {
			free -= c.needs(o)
			continue
		}
		needed = append(needed, o)
		heat += o.heat.at(time.Minute, now)
	}
	return needed, free, fits(free, len(needed)) && (len(needed) == 0 || mutate.On(mutate.AutoFlaps) || heat*better < k.heat.at(time.Minute, now))
}

// giveUp ends that a range is taken. pauses: it is not to be tried again at once.
func (c *Choice) giveUp(k *known, now time.Time, pauses bool) {
	k.taken, k.whole = false, false
	c.taken--
	c.gaveUpTotal++
	if now.Sub(k.since) > pauseMax {
		k.pause = 0
	}
	if pauses && !mutate.On(mutate.AutoHasty) {
		k.pause = min(max(2*k.pause, pauseMin), pauseMax)
		k.until = now.Add(k.pause)
	}
}

// size is as large as a range counts.
func (c *Choice) size(k *known) float64 { return max(k.least, c.floor) }

// needs is the room that a range has which is taken.
func (c *Choice) needs(k *known) float64 {
	if k.whole {
		return k.least
	}
	return k.room
}

// worth is how many times its size a range is listed in a minute.
func (c *Choice) worth(k *known, now time.Time) float64 {
	return k.heat.at(time.Minute, now) / c.size(k)
}

// byWorth are those that are taken, or the others, those first that are worth most.
func (c *Choice) byWorth(taken bool, now time.Time) (out []*known) {
	for _, k := range c.ranges {
		if k.taken == taken {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *known) int {
		return cmp.Or(cmp.Compare(c.worth(b, now), c.worth(a, now)), cmp.Compare(a.id, b.id))
	})
	return out
}

func (c *Choice) inOrder() []*known {
	out := make([]*known, 0, len(c.ranges))
	for _, k := range c.ranges {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b *known) int { return cmp.Compare(a.id, b.id) })
	return out
}

// Taken are the ranges that are to be mirrored now, in the order of their ids.
func (c *Choice) Taken() (out []Range) {
	for _, k := range c.inOrder() {
		if k.taken {
			out = append(out, Range{ID: k.id, Span: k.span, Room: int(k.room)})
		}
	}
	return out
}

// forget forgets ranges that are listed no more, and of many the coldest.
func (c *Choice) forget(now time.Time) {
	for id, k := range c.ranges {
		if k.taken {
			continue
		}
		if k.heat.at(time.Minute, now) < leastHeat && !now.Before(k.until.Add(pauseMax)) {
			delete(c.ranges, id)
			continue
		}
		if now.Sub(k.sized) > sizeSpan {
			k.least, k.sized = k.least/2, now
		}
	}
	if len(c.ranges) < rangesMax {
		return
	}
	others := c.byHeat(now)
	for _, k := range others[:min(len(others), rangesMax/4)] {
		delete(c.ranges, k.id)
	}
}

// byHeat are those that are not taken, the coldest first.
func (c *Choice) byHeat(now time.Time) (out []*known) {
	for _, k := range c.ranges {
		if !k.taken {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *known) int {
		return cmp.Or(cmp.Compare(a.heat.at(time.Minute, now), b.heat.at(time.Minute, now)), cmp.Compare(a.id, b.id))
	})
	return out
}
