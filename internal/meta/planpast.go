package meta

import (
	"time"

	"pontoon/placement"
	"pontoon/shard"
)

const (
	// pastMax bounds the ranges of which is remembered what was done to them lately: at the highest pace that is more than an hour's.
	pastMax = 1 << 16
	// pastKept is for how long, in seconds: longer than any cooldown.
	pastKept placement.Seconds = 3600
	// splitBackoff is how long a range is left alone, in seconds, whose split was given up, or which no key parts.
	splitBackoff = placement.Seconds(10 * time.Minute / time.Second)
	// Other things that failed are tried again after so long, twice as long each time.
	vainMin, vainMax         placement.Seconds = 10, 600
	vainLeadMin, vainLeadMax placement.Seconds = 1, 120
	// A merge that was given up has let requests wait.
	vainMergeMin, vainMergeMax placement.Seconds = 60, 3600
	sizesEpoch                                   = 1_577_836_800 // where the seconds of snapshots begin, in Unix time: 2020
)

// secondsOf turns Unix time in milliseconds into a time of a snapshot.
func secondsOf(ms int64) placement.Seconds { return placement.Seconds(ms/1000 - sizesEpoch) }

// deed is what was done to a range lately. Times are those of snapshots; 0 is never.
type deed struct {
	moved, led, cut               placement.Seconds
	vainSplit, vainMove, vainLead tries
	vainMerge                     tries
	aligned                       bool              // its last move brought it to where its left neighbour is
	merged                        bool              // its last cut was a merge
	whole                         bool              // no key parts it, as it was found when its split was tried
	backoff                       placement.Seconds // it is unsplittable for its load until then
	backoffFor                    placement.Seconds
}

// tries are attempts in vain, one after the other.
type tries struct {
	n     int
	until placement.Seconds // there is none before
}

func (t *tries) failed(now, least, most placement.Seconds) {
	t.until = now + min(least<<min(t.n, 16), most)
	t.n++
}

// past has what was done to ranges lately.
type past map[shard.RangeID]deed

// note changes what is remembered of a range.
func (p past) note(id shard.RangeID, change func(*deed)) {
	d, known := p[id]
	if !known && len(p) >= pastMax {
		return
	}
	change(&d)
	p[id] = d
}

// ended is told that an op is over.
func (p past) ended(op *shard.Op) {
	at, done := secondsOf(op.Ended), op.Outcome() == shard.OpDone
	switch {
	case op.Kind == shard.OpSplit && done:
		p.note(op.Range, func(d *deed) { d.cut, d.merged, d.vainSplit, d.whole = at, false, tries{}, false })
		p.note(op.Child, func(d *deed) { d.cut = at })
	case op.Kind == shard.OpSplit:
		p.note(op.Range, func(d *deed) { d.vainSplit.until = at + splitBackoff })
	case op.Kind == shard.OpMerge && done: // a split would undo it
		p.note(op.Range, func(d *deed) { d.cut, d.merged, d.vainMerge = at, true, tries{} })
		delete(p, op.Child)
	case op.Kind == shard.OpMerge:
		p.note(op.Range, func(d *deed) { d.vainMerge.failed(at, vainMergeMin, vainMergeMax) })
	case op.Kind == shard.OpMove && done:
		p.note(op.Range, func(d *deed) { d.moved, d.vainMove, d.aligned = at, tries{}, ruleOf(op.Reason) == placement.RuleAlign })
	case op.Kind == shard.OpMove:
		p.note(op.Range, func(d *deed) {
			d.moved, d.aligned = at, false
			d.vainMove.failed(at, vainMin, vainMax)
		})
	}
}

// led is told that the lead of a range has changed, or that somebody has tried to hand it over.
func (p past) led(id shard.RangeID, now placement.Seconds) {
	p.note(id, func(d *deed) { d.led = now })
}

// failed is told that something could not even begin.
func (p past) failed(id shard.RangeID, kind placement.Kind, now placement.Seconds) {
	p.note(id, func(d *deed) {
		switch kind {
		case placement.KindSplit:
			d.vainSplit.failed(now, vainMin, vainMax)
		case placement.KindMove:
			d.vainMove.failed(now, vainMin, vainMax)
		case placement.KindTransfer:
			d.vainLead.failed(now, vainLeadMin, vainLeadMax)
		case placement.KindMerge: // it has not begun
			d.vainMerge.failed(now, vainMin, vainMax)
		}
	})
}

// worked is told that a lead was handed over: what failed before is forgotten.
func (p past) worked(id shard.RangeID, _ placement.Kind) {
	p.note(id, func(d *deed) { d.vainLead = tries{} })
}

// undivided is told that no key parts a range, and reports whether that is news.
func (p past) undivided(id shard.RangeID, now placement.Seconds) (news bool) {
	p.note(id, func(d *deed) {
		news = !d.whole
		d.whole, d.vainSplit.until = true, now+splitBackoff
	})
	return news
}

// backOff is told that a range is unsplittable for its load.
func (p past) backOff(id shard.RangeID, op *placement.Op) {
	p.note(id, func(d *deed) { d.backoff, d.backoffFor = op.Until, op.For })
}

// unsplittable counts the ranges that nothing parts.
func (p past) unsplittable(now placement.Seconds) (n int) {
	for _, d := range p {
		if d.whole && now < d.vainSplit.until || now < d.backoff {
			n++
		}
	}
	return n
}

// last is when something of a deed counted last.
func (d *deed) last() placement.Seconds {
	return max(d.moved, d.led, d.cut, d.vainSplit.until, d.vainMove.until, d.vainLead.until, d.vainMerge.until, d.backoff+d.backoffFor)
}

// recent forgets what is long ago, and returns a copy of the rest.
func (p past) recent(now placement.Seconds) past {
	out := make(past, len(p))
	for id, d := range p {
		if now-d.last() > pastKept {
			delete(p, id)
			continue
		}
		out[id] = d
	}
	return out
}
