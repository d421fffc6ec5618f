package meta

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"pontoon/internal/meta/lease"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// The pause after a failed attempt to remove a lease from the ranges grows between these.
	retryPauseMin = 100 * time.Millisecond
	retryPauseMax = 10 * time.Second
	// waitMax and two election timeouts are the patience of the clients that wait for a lease.
	waitMax = 5 * time.Second
)

// revocations are the leases that the log says are being revoked, on the leader. Each is removed from
// the ranges that may hold its keys, and then forgotten. Attempts are bounded in number and
// time. Those that failed before have half of the places at most, so that a range that does not
// answer delays its own leases only.
//
// Where a client waits for the end of a lease, an attempt lasts as long as the client's patience: the
// revision of the deletes is in the attempt's answer alone, for the next attempt finds nothing to delete.
// Such attempts have places of their own, so that nobody waits behind them. Beyond those they are attempts
// like the others.
//
// Its methods are events, called with the lock held.
type revocations struct {
	env revocationsEnv

	open     map[int64]*revocation
	first    []int64 // to be tried for the first time, in order
	again    []int64 // failed before, and due now
	running  int     // short attempts
	retries  int     // of those that run, how many had failed before
	patient  int     // long attempts, for a client that waits
	expiring bool    // expiry waits for a proof of the lead
	waiting  map[int64][]waiting[revoked]
	waiters  int // in waiting, and in attemptWaiters of all revocations
}

// revocationsEnv is what revocations needs of a leader.
type revocationsEnv struct {
	patience time.Duration // of those who wait
	attempt  time.Duration // the bound of an attempt that nobody waits for
	now      func() time.Time
	last     func() int64 // the current revision
	lease    func(id int64) (lease.Lease, bool)
	propose  func(*pb.MetaEntry, func(state.Result))
	// expire removes a lease from the ranges within limit. done is called once, later, with the lock held.
	expire func(l lease.Lease, limit time.Duration, done func(rev int64, err error))
	warn   func(msg string, attrs ...any)
}

// revoked is called once, with the lock held, when a lease is gone. rev is the revision of the deletes, or the
// one that was current if there were none; 0: nobody knows. err says that this leadership ended first.
type revoked func(rev int64, err error)

// waiting is one who waits for a lease, until ctx ends or the time has come. The time is needed because the
// context of another node's call ends with its stream alone.
type waiting[F any] struct {
	ctx   context.Context
	until time.Time
	fn    F
}

// removeExpired removes those whose patience has ended, and returns them.
func removeExpired[F any](now time.Time, ws *[]waiting[F]) (expired []waiting[F]) {
	*ws = slices.DeleteFunc(*ws, func(w waiting[F]) bool {
		if w.ctx.Err() != nil || !w.until.After(now) {
			expired = append(expired, w)
			return true
		}
		return false
	})
	return expired
}

// revocation is the removal of one lease.
type revocation struct {
	lease          lease.Lease
	rev            int64 // of the deletes; 0: none that is known of
	unknown        bool  // an attempt may have deleted keys, and has not said at which revision
	byClient       bool  // revoked by a client, not by the clock
	failed         int
	due            time.Time // of the next attempt; zero: queued, running, or being forgotten
	running        bool
	since          time.Time              // when the newest attempt began
	trying         bool                   // its keys may be gone: an attempt is in flight, has succeeded, or was an earlier leader's
	attemptWaiters []waiting[func(error)] // called with the lock held when that is over: nil when the lease is gone or stays
}

// endAttempt ends an attempt for those who wait for it.
func (r *revocations) endAttempt(t *revocation, err error) {
	ws := t.attemptWaiters
	t.trying, t.attemptWaiters = false, nil
	r.waiters -= len(ws)
	for _, w := range ws {
		w.fn(err)
	}
}

func newRevocations(m *Meta) revocations {
	r := revocations{env: revocationsEnv{
		patience: waitMax + 2*m.cfg.ElectionTimeout,
		attempt:  m.cfg.ElectionTimeout,
		now:      m.cfg.Now,
		last:     m.revisions.oracle.Last,
		lease:    func(id int64) (lease.Lease, bool) { return m.state.Lease(id) },
		propose:  m.log.propose,
		expire: func(l lease.Lease, limit time.Duration, done func(int64, error)) {
			m.wg.Go(func() {
				ctx, cancel := context.WithTimeout(m.ctx, limit)
				rev, err := m.cfg.Ranges.ExpireLease(ctx, l.ID, l.GrantIndex, l.Spans)
				cancel()
				m.mu.Lock()
				done(rev, err)
				m.mu.unlock()
			})
		},
		warn: func(msg string, attrs ...any) {
			m.mu.later(func() { m.cfg.Logger.Log(context.Background(), slog.LevelWarn, msg, attrs...) })
		},
	}}
	r.reset()
	return r
}

func (r *revocations) reset() {
	r.open, r.waiting = make(map[int64]*revocation), make(map[int64][]waiting[revoked])
	r.first, r.again = nil, nil
}

// stepDown forgets the tasks. The next leader has them in its log. Attempts in flight end by themselves.
func (r *revocations) stepDown(why error) {
	waiting, open := r.waiting, r.open
	r.reset()
	for _, t := range open {
		r.endAttempt(t, why)
	}
	for _, ws := range waiting {
		r.waiters -= len(ws)
		for _, w := range ws {
			w.fn(0, why)
		}
	}
}

// awaitRevoked calls fn when the lease is gone, or with an error if this leadership or ctx ends first.
func (r *revocations) awaitRevoked(ctx context.Context, id int64, fn revoked) {
	switch _, ok := r.env.lease(id); {
	case !ok:
		fn(r.env.last(), nil)
	case r.waiters >= revocationWaitersMax:
		fn(0, shard.ErrTooManyRequests)
	default:
		r.waiters++
		r.waiting[id] = append(r.waiting[id], waiting[revoked]{ctx, r.env.now().Add(r.env.patience), fn})
	}
}

// awaitAttempt calls fn once it is settled whether a lease's keys are gone: at once if nobody is removing them,
// and with an error if this leadership or ctx ends first. Who has seen that they are gone must not find the
// lease.
func (r *revocations) awaitAttempt(ctx context.Context, id int64, fn func(error)) {
	switch t := r.open[id]; {
	case t == nil || !t.trying:
		fn(nil)
	case r.waiters >= revocationWaitersMax:
		fn(shard.ErrTooManyRequests)
	default:
		r.waiters++
		t.attemptWaiters = append(t.attemptWaiters, waiting[func(error)]{ctx, r.env.now().Add(r.env.patience), fn})
	}
}

// logged begins the removal of a lease that is marked as revoking. byClient: a client wants it, and will wait.
func (r *revocations) logged(l lease.Lease, byClient bool) {
	r.add(&revocation{lease: l, byClient: byClient})
}

// inherited goes on with a lease whose keys an earlier leader may have removed already.
func (r *revocations) inherited(l lease.Lease) {
	r.add(&revocation{lease: l, trying: true, unknown: true})
}

func (r *revocations) add(t *revocation) {
	l := t.lease
	if r.open[l.ID] != nil {
		return
	}
	r.open[l.ID] = t
	r.first = append(r.first, l.ID)
	r.start()
}

// forgotten tells that the log has forgotten a lease.
func (r *revocations) forgotten(id int64) {
	rev := r.env.last()
	if t := r.open[id]; t != nil {
		delete(r.open, id)
		if t.rev > 0 || t.unknown {
			rev = t.rev
		}
		r.endAttempt(t, nil)
	}
	ws := r.waiting[id]
	delete(r.waiting, id)
	r.waiters -= len(ws)
	for _, w := range ws {
		w.fn(rev, nil)
	}
	r.start()
}

// urgent puts a lease in front: somebody waits for it.
func (r *revocations) urgent(id int64) {
	if i := slices.Index(r.first, id); i > 0 {
		r.first = slices.Insert(slices.Delete(r.first, i, i+1), 0, id)
	}
}

// start begins as many attempts as there are places.
func (r *revocations) start() {
	for r.running < revocationsMax {
		var id int64
		switch {
		case len(r.first) > 0:
			id, r.first = r.first[0], r.first[1:]
		case len(r.again) > 0 && r.retries < revocationsMax/2:
			id, r.again = r.again[0], r.again[1:]
		default:
			return
		}
		t := r.open[id]
		if t == nil || t.running {
			continue
		}
		if len(t.lease.Spans) == 0 { // no range holds a key of it
			r.forget(t)
			continue
		}
		r.attempt(t)
	}
}

func (r *revocations) attempt(t *revocation) {
	t.running, t.trying, t.since = true, true, r.env.now()
	patient := (t.byClient && t.failed == 0 || len(r.waiting[t.lease.ID]) > 0) && r.patient < revocationsMax
	retry := t.failed > 0 && !patient
	limit, places := r.env.attempt, &r.running
	if patient {
		limit, places = r.env.patience, &r.patient
	}
	*places++
	if retry {
		r.retries++
	}
	r.env.expire(t.lease, limit, func(rev int64, err error) {
		*places--
		if retry {
			r.retries--
		}
		t.running = false
		if r.open[t.lease.ID] == t { // still this leadership's task
			r.attempted(t, rev, err)
		}
		r.start()
	})
}

// attempted ends an attempt.
func (r *revocations) attempted(t *revocation, rev int64, err error) {
	if err == nil {
		t.rev = rev
		r.forget(t)
		return
	}
	t.unknown = t.unknown || !shard.Retryable(err) && !errors.Is(err, shard.ErrTimeout)
	r.failed(t, err)
}

// forget logs that a lease is gone from every range.
func (r *revocations) forget(t *revocation) {
	l := t.lease
	r.env.propose(&pb.MetaEntry{Forget: &pb.MetaForget{Id: l.ID, GrantIndex: l.GrantIndex}}, func(res state.Result) {
		if res.Err != nil && r.open[l.ID] == t {
			r.failed(t, res.Err)
		}
	})
}

// failed lets a lease wait for another attempt.
func (r *revocations) failed(t *revocation, err error) {
	pause := min(retryPauseMin<<min(t.failed, 10), retryPauseMax)
	t.failed++
	t.due = r.env.now().Add(pause)
	r.endAttempt(t, nil)
	if t.failed == 5 { // said once: it goes on trying
		r.env.warn("a lease cannot be removed from its ranges yet", "lease", t.lease.ID, "attempts", 5, "error", err)
	}
}

// tick queues what is due again, and lets go who has given up.
func (r *revocations) tick(now time.Time) {
	if r.waiters > 0 {
		r.dropExpired(now)
	}
	before := len(r.again)
	for id, t := range r.open {
		if !t.due.IsZero() && !t.due.After(now) {
			t.due = time.Time{}
			r.again = append(r.again, id)
		}
	}
	slices.Sort(r.again[before:])
	r.start()
}

// dropExpired ends the wait of those whose patience has ended. A lease of a range that does not answer may take
// long, and who comes again should not wait twice.
func (r *revocations) dropExpired(now time.Time) {
	for id, ws := range r.waiting {
		expired := removeExpired(now, &ws)
		r.waiters -= len(expired)
		if r.waiting[id] = ws; len(ws) == 0 {
			delete(r.waiting, id)
		}
		for _, w := range expired {
			w.fn(0, shard.ErrTimeout)
		}
	}
	for _, t := range r.open {
		expired := removeExpired(now, &t.attemptWaiters)
		r.waiters -= len(expired)
		for _, w := range expired {
			w.fn(shard.ErrTimeout)
		}
		r.dropFromAttempt(now, t)
	}
}

// dropFromAttempt bounds the wait for a long attempt by the time of a short one. A list of all leases must not
// wait as long as the client of one revocation does.
func (r *revocations) dropFromAttempt(now time.Time, t *revocation) {
	if !t.running || now.Before(t.since.Add(r.env.attempt)) {
		return
	}
	expired := removeExpired(now.Add(r.env.patience-r.env.attempt), &t.attemptWaiters)
	r.waiters -= len(expired)
	for _, w := range expired {
		w.fn(nil)
	}
}
