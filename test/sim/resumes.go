package sim

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/link"
	"pontoon/shard"
)

// resumeTries is how often history is asked for what a feed lacks before it begins anew, with a gap.
const resumeTries = 40

// resumeTry bounds a call: who is asked may be halted.
const resumeTry = time.Second

// resumes lets feeds that come by links go on without a gap when these break. They belong to the loop.
type resumes struct {
	x     *links
	heads map[shard.RangeID]*link.Head // of what was given to all who want it here
	under map[shard.RangeID]*resume
}

// resume is a feed that another link begins anew.
type resume struct {
	r     *resumes
	id    shard.RangeID
	rule  *link.Move
	taken bool // it goes on
	tries int
}

func (r *resumes) init(x *links) {
	r.x, r.heads, r.under = x, map[shard.RangeID]*link.Head{}, map[shard.RangeID]*resume{}
}

// bring gives an item to all who want it.
func (r *resumes) bring(id shard.RangeID, item shard.FeedItem) {
	if r.heads[id] == nil {
		r.heads[id] = &link.Head{}
	}
	h := r.heads[id]
	if h.Take(&item); h.LacksKeys() {
		if d, known := r.x.f.l.find(id); known {
			h.Learn(&d)
		}
	}
	if !h.Cover().Whole() {
		item.Cover = h.Cover()
		r.x.world().stats.Narrow++
	}
	r.x.f.deliver(id, item)
}

// forget says that what comes next of a feed does not follow what came.
func (r *resumes) forget(id shard.RangeID) {
	delete(r.heads, id)
	delete(r.under, id)
}

// broke says that the link has gone which brings a feed: nothing of what was kept is published.
func (r *resumes) broke(id shard.RangeID) { delete(r.under, id) }

// publish takes the next item by a link.
func (r *resumes) publish(id shard.RangeID, item shard.FeedItem) {
	u := r.under[id]
	switch {
	case u == nil && item.Gap:
		r.begin(id, item)
	case u == nil:
		r.bring(id, item)
	case u.taken:
		if out, says := u.rule.After(item); says {
			r.bring(id, out)
		}
		u.settle()
	default:
		u.rule.New(item)
		u.turn()
		if !u.rule.Failed() {
			return
		}
		if delete(r.under, id); item.Gap {
			r.begin(id, item)
			return
		}
		r.bring(id, u.rule.Abandon())
		r.bring(id, item)
	}
}

// begin takes the first item of another link.
func (r *resumes) begin(id shard.RangeID, item shard.FeedItem) {
	head := r.heads[id]
	if head == nil {
		r.bring(id, item)
		return
	}
	if l := r.x.f.l; l.n.forgets && l.n.w.roll(0.7) { // as if history were not to be had
		l.n.w.stats.Abandoned++
		r.bring(id, item)
		return
	}
	rule := head.Resume(item)
	if rule == nil {
		r.bring(id, item)
		return
	}
	u := &resume{r: r, id: id, rule: rule}
	r.under[id] = u
	if u.turn(); u.taken {
		return
	}
	l := r.x.f.l
	u.call("ask from where on", func(ctx context.Context) func() {
		now, err := l.client.Current(ctx)
		return func() {
			if err != nil {
				u.abandon()
				return
			}
			rule.Whole(now.Revision)
			if u.turn(); !u.taken {
				l.closer.AskClose(now.Revision, []shard.RangeID{id})
				u.read()
			}
		}
	})
}

// call does something that takes a while, and what follows from it if nothing has come between.
func (u *resume) call(what string, do func(ctx context.Context) (then func())) {
	f := u.r.x.f
	f.wg.Go(func() {
		ctx, cancel := context.WithTimeout(f.l.ctx, resumeTry)
		then := do(ctx)
		cancel()
		f.l.n.w.post(fmt.Sprintf("%s of %d at %d", what, u.id, f.l.n.id), 0, func() {
			f.l.n.receive(func(now *life) {
				if now == f.l && now.alive && u.r.under[u.id] == u && !u.taken {
					then()
				}
			})
		})
	})
}

// read asks history for what is missing.
func (u *resume) read() {
	l := u.r.x.f.l
	from, to := u.rule.Missing()
	d, known := l.find(u.id)
	if u.tries++; u.tries > resumeTries {
		u.abandon()
		return
	}
	if !known || d.Generation != u.rule.Generation() {
		l.client.RefreshFunc(func(error) {})
		u.again()
		return
	}
	if !u.rule.Keys(&d) {
		u.abandon()
		return
	}
	if u.turn(); u.taken {
		return
	}
	spans := u.rule.Spans(d.Span)
	if len(spans) == 0 {
		spans = []shard.Span{shard.Point(d.Span.Start)}
	}
	u.call("read what is missing", func(ctx context.Context) func() {
		evs, next, err := history{l}.Read(ctx, u.id, spans, from, to, 256)
		return func() {
			if err != nil || next <= from {
				l.closer.AskClose(to, []shard.RangeID{u.id})
				u.again()
				return
			}
			item := u.rule.Read(evs, next)
			u.r.bring(u.id, item)
			u.rule.Old(&item)
			if u.turn(); !u.taken {
				u.read()
			}
		}
	})
}

// again reads once more, after a pause.
func (u *resume) again() {
	l := u.r.x.f.l
	l.after(20*time.Millisecond, func() {
		if u.r.under[u.id] == u && !u.taken && l.alive {
			u.read()
		}
	})
}

// turn lets the feed go on, if it can.
func (u *resume) turn() {
	items, done := u.rule.Done()
	if !done {
		return
	}
	u.taken = true
	u.r.x.world().stats.Resumed++
	for _, item := range items {
		u.r.bring(u.id, item)
	}
	u.settle()
}

func (u *resume) settle() {
	if u.rule.Settled() && u.r.under[u.id] == u {
		delete(u.r.under, u.id)
	}
}

// abandon lets the feed begin anew, with a gap.
func (u *resume) abandon() {
	delete(u.r.under, u.id)
	u.r.x.world().stats.Abandoned++
	u.r.bring(u.id, u.rule.Abandon())
}
