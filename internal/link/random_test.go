package link

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pontoon/shard"
)

// published is what the range of a random run has published, by the index of the item, and how far the listener of its feed has come.
type published struct {
	index   uint64 // of the last item
	closed  int64
	gen     shard.Generation
	events  map[uint64]int64           // revisions by index
	most    map[shard.Generation]int64 // what was closed at most in each generation
	wanted  bool
	started bool
	heard   uint64 // everything up to this index has come, or lies before a gap
	told    int64  // closed
}

// run is a random run of both ends: ranges that are written to, closed, cut and changed, subscribed to and left, over a link that is narrow at times.
type run struct {
	t      *testing.T
	rng    *rand.Rand
	b      *both
	ranges map[shard.RangeID]*published
	ids    []shard.RangeID
	at     map[shard.RangeID]bool // the source is fed with these
	heirs  int
}

func newPublished(gen shard.Generation, closed int64) *published {
	return &published{closed: closed, gen: gen, events: map[uint64]int64{}, most: map[shard.Generation]int64{gen: closed}}
}

// Publish implements Taker: whatever the feed lets believe is true.
func (r *run) Publish(id shard.RangeID, it shard.FeedItem) {
	p := r.ranges[id]
	if !p.wanted {
		r.t.Fatalf("range %v: an item of a feed that nobody wants", id)
	}
	switch {
	case it.Gap:
		if len(it.Events) == 0 {
			p.heard = it.Index
		}
		p.started = true
	case !p.started:
		r.t.Fatalf("range %v: the feed begins without a gap", id)
	}
	if n := len(it.Events); n > 0 {
		if rev := p.events[it.Index]; rev != it.Events[0].Rev() {
			r.t.Fatalf("range %v: item %d has event %d, not %d", id, it.Index, it.Events[0].Rev(), rev)
		}
		for i, rev := range p.events {
			if i > p.heard && i < it.Index && !it.Gap {
				r.t.Fatalf("range %v: event %d is missing before %d", id, rev, it.Events[0].Rev())
			}
		}
		p.heard = it.Index
	}
	if it.Closed > p.most[it.Generation] {
		r.t.Fatalf("range %v: closed at %d in generation %d, which never was more than at %d", id, it.Closed, it.Generation, p.most[it.Generation])
	}
	for i, rev := range p.events {
		if i > p.heard && rev <= it.Closed {
			r.t.Fatalf("range %v: closed at %d, and event %d has not come", id, it.Closed, rev)
		}
	}
	p.told = it.Closed
	if b := it.Border; b != nil {
		if it.Closed != 0 && it.Closed > p.most[it.Generation] {
			r.t.Fatalf("range %v: a border closed at %d", id, it.Closed)
		}
	}
}

// Inherit implements Taker.
func (r *run) Inherit(_, child shard.RangeID) bool {
	p := r.ranges[child]
	if p.wanted {
		return false
	}
	p.wanted, p.started, p.heard = true, true, 0
	r.heirs++
	return true
}

func (r *run) some() shard.RangeID { return r.ids[r.rng.IntN(len(r.ids))] }

// publish brings an item to the source, as a driver does.
func (r *run) publish(id shard.RangeID, it shard.FeedItem) {
	p := r.ranges[id]
	p.index++
	it.Index, it.Generation, it.Closed = p.index, p.gen, p.closed
	for _, e := range it.Events {
		p.events[p.index] = e.Rev()
	}
	p.most[p.gen] = max(p.most[p.gen], p.closed)
	if it.Border == nil {
		r.b.source.Publish(id, NewItem(it))
		return
	}
	if r.b.source.PublishBorder(id, NewItem(it)) != r.b.source.Has(it.Border.Child) {
		r.t.Fatal("an heir that is none")
	}
}

func (r *run) add(gen shard.Generation, closed int64) shard.RangeID {
	id := shard.RangeID(len(r.ids) + 2)
	r.ids = append(r.ids, id)
	r.ranges[id] = newPublished(gen, closed)
	return id
}

func (r *run) step() {
	id := r.some()
	p := r.ranges[id]
	switch r.rng.IntN(12) {
	case 0, 1, 2, 3:
		rev := p.closed + 1 + r.rng.Int64N(5)
		for _, was := range p.events {
			rev = max(rev, was+1)
		}
		for _, was := range p.most {
			rev = max(rev, was+1)
		}
		p.closed = max(p.closed, rev-1-r.rng.Int64N(3))
		r.publish(id, shard.FeedItem{Events: events(r.rng.IntN(3000), rev)})
	case 4, 5:
		for _, id := range r.ids { // a round closes them all
			q := r.ranges[id]
			q.closed += r.rng.Int64N(3)
			for _, rev := range q.events {
				q.closed = max(q.closed, rev)
			}
			r.publish(id, shard.FeedItem{})
		}
	case 6:
		if r.rng.IntN(4) == 0 && len(r.ids) < 40 {
			child := r.add(p.gen+1, max(p.closed, 1))
			r.publish(id, shard.FeedItem{Border: &shard.Border{At: []byte("m"), Child: child, Generation: p.gen + 1}})
			p.gen++
			r.publish(id, shard.FeedItem{})
		}
	case 7:
		p.gen++
		p.closed = max(0, p.closed-r.rng.Int64N(10)) // it has been merged with another that was behind
		r.publish(id, shard.FeedItem{Gap: true})
	case 8:
		if p.wanted {
			r.b.sink.Unsubscribe(id)
			p.wanted, p.started = false, false
		} else {
			r.b.sink.Subscribe(id)
			p.wanted = true
		}
	case 9:
		r.ask()
	default:
		r.carry()
	}
}

func (r *run) ask() {
	req := r.b.sink.Ask()
	for _, id := range req.GetUnsubscribe() {
		r.b.source.Detach(shard.RangeID(id))
	}
	for _, n := range req.GetSubscribe() {
		id := shard.RangeID(n)
		p := r.ranges[id]
		r.b.source.Attach(id, shard.FeedItem{Closed: p.closed, Generation: p.gen, Index: p.index})
	}
}

func (r *run) carry() bool {
	fr, err := r.b.source.Next()
	if err != nil {
		r.t.Fatal(err)
	}
	if fr == nil {
		return false
	}
	if _, err := r.b.sink.Take(wired(r.t, fr), r); err != nil {
		r.t.Fatal(err)
	}
	return true
}

// TestRandom: whatever happens at both ends, a listener is never told that something is closed of which it lacks an event, and once
// everything has been brought over it has all that there is.
func TestRandom(t *testing.T) {
	drops, heirs := int64(0), 0
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			l := Limits{Bytes: 4<<10 + rng.IntN(60<<10), Turn: 1 + rng.IntN(4<<10), Frame: 1 + rng.IntN(16<<10)}
			r := &run{t: t, rng: rng, b: newBoth(t, l), ranges: map[shard.RangeID]*published{}}
			for range 4 {
				r.add(1, 1)
			}
			for range 400 {
				r.step()
			}
			for r.ask(); r.carry(); {
			}
			for id, p := range r.ranges {
				if p.wanted && p.told != p.closed {
					t.Errorf("range %v: told that %d is closed, which is at %d", id, p.told, p.closed)
				}
			}
			if s := r.b.source; s.bytes != 0 || s.items != 0 || s.lost != 0 {
				t.Errorf("nothing waits, and %d bytes, %d items, %d lost are counted", s.bytes, s.items, s.lost)
			}
			drops, heirs = drops+r.b.source.Drops(), heirs+r.heirs
		})
	}
	if drops < 100 || heirs < 100 {
		t.Errorf("%d items were dropped and %d children inherited: the runs are too tame", drops, heirs)
	}
}
