package watchfanout

import "sort"

// recent remembers the last events that a lane has delivered, so that a watcher which is
// only a little behind, or many that come back at once, need no read of history. Pure.
type recent struct {
	evs                 []*Event
	head                int
	bytes               int
	eventsMax, bytesMax int
	from                int64 // every delivered event above it is here
}

// add appends delivered events and forgets the oldest revisions beyond the limits.
func (r *recent) add(evs []*Event) {
	for _, e := range evs {
		r.bytes += e.weight()
	}
	r.evs = append(r.evs, evs...)
	for r.head < len(r.evs) && (len(r.evs)-r.head > r.eventsMax || r.bytes > r.bytesMax) {
		r.from = r.evs[r.head].Rev()
		for r.head < len(r.evs) && r.evs[r.head].Rev() == r.from {
			r.bytes -= r.evs[r.head].weight()
			r.evs[r.head] = nil
			r.head++
		}
	}
	if r.head > len(r.evs)/2 {
		n := copy(r.evs, r.evs[r.head:])
		clear(r.evs[n:])
		r.evs, r.head = r.evs[:n], 0
	}
}

// after returns the remembered events above rev, which must be at or above from.
func (r *recent) after(rev int64) []*Event {
	evs := r.evs[r.head:]
	i := sort.Search(len(evs), func(i int) bool { return evs[i].Rev() > rev })
	return evs[i:]
}
