package meta

import (
	"context"
	"errors"
	"slices"
	"time"

	"pontoon/internal/meta/lease"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// expiredMax is how many leases one look at the clock may find expired; the pace over time
	// is the lessor's.
	expiredMax = 500
	// The pause after a failed attempt to remove a lease from the ranges grows between these.
	endPauseMin = 100 * time.Millisecond
	endPauseMax = 10 * time.Second
)

// ends are the leases that the log says are being revoked, on the leader. Each is removed from
// the ranges that may hold its keys, and then forgotten. Attempts are bounded in number and
// time. One that failed waits, and may use half of the places at most: a range that does not
// answer holds up its own leases only.
type ends struct {
	open    map[int64]*ending
	first   []int64 // to be tried for the first time, in order
	again   []int64 // failed before, and due now
	running int
	retries int // of those that run, how many had failed before
	waiting map[int64][]gone
	asking  bool // expiry waits for a proof
}

// gone is called once, with mu held: when a lease is gone, with the revision at which it ended, which is
// that of the deletes, or the one that was current if there were none, or 0 if nobody knows; or with an
// error if this leadership ends first.
type gone func(rev int64, err error)

type ending struct {
	lease   lease.Lease
	rev     int64 // of the deletes; 0: none that is known of
	unknown bool  // an attempt may have deleted keys, and has not said at which revision
	failed  int
	due     time.Time // of the next attempt; zero: queued, running, or being forgotten
	running bool
	trying  bool          // its keys may be gone: an attempt is running, or has removed them; or a leader before made one
	tried   []func(error) // called with mu held when that is over: nil when the lease is gone or stays
}

// over ends an attempt for those who wait for it.
func (t *ending) over(err error) {
	fns := t.tried
	t.trying, t.tried = false, nil
	for _, fn := range fns {
		fn(err)
	}
}

func (e *ends) reset() {
	*e = ends{open: make(map[int64]*ending), waiting: make(map[int64][]gone), running: e.running, retries: e.retries}
}

// stop forgets the tasks, which the next leader takes up. Attempts under way end by themselves.
func (e *ends) stop(why error) {
	waiting, open := e.waiting, e.open
	e.reset()
	for _, t := range open {
		t.over(why)
	}
	for _, fns := range waiting {
		for _, fn := range fns {
			fn(0, why)
		}
	}
}

// awaitEnd calls fn when the lease is gone.
func (m *Meta) awaitEnd(id int64, fn gone) {
	if _, ok := m.mu.state.Lease(id); !ok {
		fn(m.mu.oracle.Last(), nil)
		return
	}
	m.mu.ends.waiting[id] = append(m.mu.ends.waiting[id], fn)
}

// ended tells that a lease has been forgotten.
func (m *Meta) ended(id int64) {
	e := &m.mu.ends
	rev := m.mu.oracle.Last()
	if t := e.open[id]; t != nil {
		delete(e.open, id)
		if t.rev > 0 || t.unknown {
			rev = t.rev
		}
		t.over(nil)
	}
	fns := e.waiting[id]
	delete(e.waiting, id)
	for _, fn := range fns {
		fn(rev, nil)
	}
	m.startEnds()
}

// afterTry calls fn, with mu held, once it is settled whether a lease's keys are gone: at once if nobody is
// removing them, and with an error if this leadership ends first. Who has seen that they are gone must not
// find the lease.
func (m *Meta) afterTry(id int64, fn func(error)) {
	if t := m.mu.ends.open[id]; t != nil && t.trying {
		t.tried = append(t.tried, fn)
		return
	}
	fn(nil)
}

// endLogged takes up a lease that is marked as revoking; tried tells that an earlier leader may have removed
// its keys already.
func (m *Meta) endLogged(l lease.Lease, tried bool) {
	e := &m.mu.ends
	if e.open[l.ID] != nil {
		return
	}
	e.open[l.ID] = &ending{lease: l, trying: tried, unknown: tried}
	e.first = append(e.first, l.ID)
	m.startEnds()
}

// urgent puts a lease in front: somebody waits for it.
func (m *Meta) urgent(id int64) {
	e := &m.mu.ends
	if i := slices.Index(e.first, id); i > 0 {
		e.first = slices.Insert(slices.Delete(e.first, i, i+1), 0, id)
	}
}

// startEnds begins as many attempts as there are places.
func (m *Meta) startEnds() {
	e := &m.mu.ends
	if m.mu.ranges == nil || !m.mu.begun {
		return
	}
	for e.running < endsMax {
		var id int64
		switch {
		case len(e.first) > 0:
			id, e.first = e.first[0], e.first[1:]
		case len(e.again) > 0 && e.retries < endsMax/2:
			id, e.again = e.again[0], e.again[1:]
		default:
			return
		}
		t := e.open[id]
		if t == nil || t.running {
			continue
		}
		if len(t.lease.Spans) == 0 { // no range holds a key of it
			m.forget(t)
			continue
		}
		m.startEnd(t)
	}
}

func (m *Meta) startEnd(t *ending) {
	e := &m.mu.ends
	t.running, t.trying = true, true
	retry := t.failed > 0
	e.running++
	if retry {
		e.retries++
	}
	ranges := m.mu.ranges
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.ElectionTimeout)
		rev, err := ranges.ExpireLease(ctx, t.lease.ID, t.lease.GrantIndex, t.lease.Spans)
		cancel()
		m.mu.Lock()
		m.mu.ends.running--
		if retry {
			m.mu.ends.retries--
		}
		t.running = false
		if m.mu.ends.open[t.lease.ID] == t { // still this leadership's task
			switch {
			case err == nil:
				t.rev = rev
				m.forget(t)
			default:
				t.unknown = t.unknown || !shard.Retryable(err) && !errors.Is(err, shard.ErrTimeout)
				m.endFailed(t, err)
			}
		}
		m.startEnds()
		m.unlock()
	})
}

// forget logs that a lease is gone from every range.
func (m *Meta) forget(t *ending) {
	l := t.lease
	m.propose(&pb.MetaEntry{Forget: &pb.MetaForget{Id: l.ID, GrantIndex: l.GrantIndex}}, func(r state.Result) {
		if r.Err != nil && m.mu.ends.open[l.ID] == t {
			m.endFailed(t, r.Err)
		}
	})
}

// endFailed lets a lease wait for another attempt.
func (m *Meta) endFailed(t *ending, err error) {
	pause := min(endPauseMin<<min(t.failed, 10), endPauseMax)
	t.failed++
	t.due = m.cfg.Now().Add(pause)
	t.over(nil)
	if t.failed == 5 { // said once: it goes on trying
		id := t.lease.ID
		m.later(func() {
			m.cfg.Logger.Warn("a lease cannot be removed from its ranges yet", "lease", id, "attempts", 5, "error", err)
		})
	}
}

// retryEnds queues what is due again.
func (m *Meta) retryEnds(now time.Time) {
	e := &m.mu.ends
	before := len(e.again)
	for id, t := range e.open {
		if !t.due.IsZero() && !t.due.After(now) {
			t.due = time.Time{}
			e.again = append(e.again, id)
		}
	}
	slices.Sort(e.again[before:])
	m.startEnds()
}
