package lease

import (
	"container/heap"
	"sort"
	"time"
)

const (
	// revokesPerSecond bounds how fast leases are found expired, so that a storm of them leaves
	// room for other writes.
	revokesPerSecond = 1000
	// revokesBurst is what may be found at once after a quiet time.
	revokesBurst = revokesPerSecond / 2
)

// MinTTL is the shortest TTL that a lease gets, in seconds: one and a half election timeouts,
// rounded up, so that a change of leader does not outlast a lease.
func MinTTL(election time.Duration) int64 {
	least := election + election/2
	return int64((least + time.Second - 1) / time.Second)
}

// Renewal is the answer to a keep-alive.
type Renewal int

const (
	// Renewed: the lease has its full TTL again.
	Renewed Renewal = iota
	// Gone: there is no such lease.
	Gone
	// Ending: it has expired or is being revoked, and the outcome is still open.
	Ending
)

// timer is the remaining time of one lease.
type timer struct {
	id         int64
	grantIndex uint64
	ttl        time.Duration
	expires    time.Time
	ending     bool // found expired, or being revoked: it is not in the heap
	at         int  // place in the heap
}

// Lessor times leases on the leader of the meta group. It holds no time while it does not lead:
// a new leader gives every lease its full TTL.
type Lessor struct {
	leading bool
	timers  map[int64]*timer
	queue   timerHeap // by expiry
	tokens  float64   // how many may be found expired now
	paced   time.Time // when tokens was right
}

// NewLessor returns a lessor that does not lead.
func NewLessor() *Lessor { return &Lessor{timers: make(map[int64]*timer)} }

// Promote begins to lead: every lease has its full TTL from now on, except those that are being
// revoked, whose end is somebody else's task.
func (l *Lessor) Promote(now time.Time, leases []Lease) {
	l.Demote()
	l.leading, l.tokens, l.paced = true, revokesBurst, now
	for _, le := range leases {
		l.Granted(now, le)
		if le.Revoking {
			l.Revoking(le.ID)
		}
	}
}

// Demote ends the leading: no lease expires, none is known.
func (l *Lessor) Demote() {
	l.leading = false
	l.timers, l.queue = make(map[int64]*timer), nil
}

// Granted starts a lease that has been granted in the log.
func (l *Lessor) Granted(now time.Time, le Lease) {
	if !l.leading {
		return
	}
	l.Forgotten(le.ID)
	ttl := time.Duration(min(max(le.TTL, 0), MaxTTL)) * time.Second
	t := &timer{id: le.ID, grantIndex: le.GrantIndex, ttl: ttl, expires: now.Add(ttl)}
	l.timers[le.ID] = t
	heap.Push(&l.queue, t)
}

// Revoking tells that the log says so: the lease does not expire, and is not renewed, any more.
func (l *Lessor) Revoking(id int64) {
	if t := l.timers[id]; t != nil && !t.ending {
		t.ending = true
		heap.Remove(&l.queue, t.at)
	}
}

// Forgotten removes a lease.
func (l *Lessor) Forgotten(id int64) {
	t := l.timers[id]
	if t == nil {
		return
	}
	if !t.ending {
		heap.Remove(&l.queue, t.at)
	}
	delete(l.timers, id)
}

// Renew gives a lease its full TTL again, unless it has run out by now: from then on only its
// end can follow, since others may have been told so.
func (l *Lessor) Renew(now time.Time, id int64) (ttl int64, r Renewal) {
	t := l.timers[id]
	switch {
	case t == nil:
		return 0, Gone
	case t.ending || !t.expires.After(now):
		return 0, Ending
	}
	t.expires = now.Add(t.ttl)
	heap.Fix(&l.queue, t.at)
	return int64(t.ttl / time.Second), Renewed
}

// Remaining returns what is left of a lease, never below zero.
func (l *Lessor) Remaining(now time.Time, id int64) (time.Duration, bool) {
	t := l.timers[id]
	if t == nil {
		return 0, false
	}
	return max(t.expires.Sub(now), 0), true
}

// Ended is a lease that was found expired; the grant tells it from a later one of the same id.
type Ended struct {
	ID         int64
	GrantIndex uint64
}

// Expired returns leases that have run out, the oldest first, at most limit and not faster than
// the lessor's pace. Each is returned once, unless Retry brings it back.
func (l *Lessor) Expired(now time.Time, limit int) []Ended {
	if since := now.Sub(l.paced); since > 0 {
		l.tokens = min(l.tokens+since.Seconds()*revokesPerSecond, revokesBurst)
		l.paced = now
	}
	var out []Ended
	for len(out) < limit && l.tokens >= 1 && len(l.queue) > 0 && !l.queue[0].expires.After(now) {
		t := heap.Pop(&l.queue).(*timer)
		t.ending = true
		l.tokens--
		out = append(out, Ended{ID: t.id, GrantIndex: t.grantIndex})
	}
	return out
}

// Retry brings back a lease whose end could not be logged: it is found expired again.
func (l *Lessor) Retry(e Ended) {
	if t := l.timers[e.ID]; t != nil && t.ending && t.grantIndex == e.GrantIndex {
		t.ending = false
		heap.Push(&l.queue, t)
	}
}

// Len returns the number of leases that it times, 0 while it does not lead.
func (l *Lessor) Len() int { return len(l.timers) }

// Next returns when the next lease runs out.
func (l *Lessor) Next() (time.Time, bool) {
	if len(l.queue) == 0 {
		return time.Time{}, false
	}
	return l.queue[0].expires, true
}

// ByExpiry lists every lease, the next to expire first.
func (l *Lessor) ByExpiry() []int64 {
	all := make([]*timer, 0, len(l.timers))
	for _, t := range l.timers {
		all = append(all, t)
	}
	sort.Slice(all, func(i, j int) bool {
		if !all[i].expires.Equal(all[j].expires) {
			return all[i].expires.Before(all[j].expires)
		}
		return all[i].id < all[j].id
	})
	ids := make([]int64, len(all))
	for i, t := range all {
		ids[i] = t.id
	}
	return ids
}

// timerHeap orders timers by expiry, then by id, so that nothing depends on map order.
type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if !h[i].expires.Equal(h[j].expires) {
		return h[i].expires.Before(h[j].expires)
	}
	return h[i].id < h[j].id
}
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	t.at = len(*h)
	*h = append(*h, t)
}
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}
