package watchfanout

import (
	"sort"

	"pontoon/internal/fifo"
	"pontoon/shard"
)

// recent remembers the last events that a lane has delivered, so that a watcher which is
// only a little behind, or many that come back at once, need no read of history. Pure.
type recent struct {
	evs                 fifo.Queue[*shard.Event]
	bytes               int
	eventsMax, bytesMax int
	from                int64 // every delivered event above it is here
}

// add appends delivered events and forgets the oldest revisions beyond the limits.
func (r *recent) add(evs []*shard.Event) {
	for _, e := range evs {
		r.bytes += eventBytes(e)
	}
	r.evs.Push(evs...)
	for r.evs.Len() > 0 && (r.evs.Len() > r.eventsMax || r.bytes > r.bytesMax) {
		r.from = r.evs.Items()[0].Rev()
		for r.evs.Len() > 0 && r.evs.Items()[0].Rev() == r.from {
			e, _ := r.evs.Pop()
			r.bytes -= eventBytes(e)
		}
	}
}

// fork returns another that remembers the same.
func (r *recent) fork() recent {
	f := *r
	f.evs = fifo.Queue[*shard.Event]{}
	f.evs.Push(r.evs.Items()...)
	return f
}

// after returns the remembered events above rev, which must be at or above from.
func (r *recent) after(rev int64) []*shard.Event {
	evs := r.evs.Items()
	i := sort.Search(len(evs), func(i int) bool { return evs[i].Rev() > rev })
	return evs[i:]
}
