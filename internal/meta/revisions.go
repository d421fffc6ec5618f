package meta

import (
	"context"
	"fmt"

	"pontoon/internal/meta/granted"
	"pontoon/internal/meta/oracle"
	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// Now is an answer of the revision oracle.
type Now = shard.Now

// revisions serves the oracle of this leadership. It raises the limit ahead of demand, and queues requests for
// which there is no room.
type revisions struct {
	core     *core
	lead     *leadership
	machine  *machine
	log      *proposals
	progress func() // called when the limit has risen, with the lock held

	oracle   oracle.Oracle
	granted  granted.Table
	replies  replyCache
	settings settingsChanges // the news of which the answers bring, and which they lend
	waiters  []waiter
	demand   int64 // revisions that waiters want
	ticks    int
}

// question is one to the oracle.
type question struct {
	id     requestID
	ask    shard.Ask // but for the range, which stands in shares
	shares []granted.Share
	lendTo shard.NodeID // whoever goes by the settings of the answer; 0: nobody does
}

// questionOf reads one.
func questionOf(r *pb.OracleRequest) question {
	q := question{id: requestID{r.Asker, r.Seq}, ask: shard.Ask{
		Count: int64(r.Count), Conditional: r.Condition != nil, Settings: r.Condition.GetSettingsVersion(), Grows: r.Condition.GetGrows(),
		Granted: r.Granted != nil, Since: r.Granted.GetSince(),
	}, lendTo: shard.NodeID(r.LendTo)}
	if len(r.Shares) > 0 {
		q.shares = make([]granted.Share, len(r.Shares))
		for i, s := range r.Shares {
			q.shares[i] = granted.Share{Range: shard.RangeID(s.RangeId), Generation: shard.Generation(s.Generation), Count: int64(s.Count)}
		}
	}
	return q
}

// ownQuestion is one of this node.
func ownQuestion(ask shard.Ask, lendTo shard.NodeID) question {
	q := question{ask: ask, lendTo: lendTo}
	if ask.Range != 0 {
		q.shares = []granted.Share{{Range: ask.Range, Generation: ask.Generation, Count: ask.Count}}
	}
	return q
}

// waiter is a question that waits for the limit to rise.
type waiter struct {
	question
	cb func(Now, error)
}

// reply calls back once the lock is free.
func (r *revisions) reply(w waiter, now Now, err error) { r.core.later(func() { w.cb(now, err) }) }

// answer asks the oracle itself. The leadership is confirmed. False: it is silent, or has no room.
func (r *revisions) answer(q question) (Now, bool) {
	settings := r.machine.state.Settings()
	rev, ok := r.oracle.Current()
	refused := false
	if n := q.ask.Count; n > 0 && ok {
		// What was allocated before is told again, whatever the settings are now: that was its place in the order of all changes.
		if first, again := r.replies.find(q.id, n); again {
			rev = first
		} else if refused = refuses(settings, q.ask); !refused {
			if rev, ok = r.oracle.Allocate(n); ok {
				r.replies.note(q.id, allocation{rev, n})
				r.granted.Note(rev, n, q.shares, r.machine.state.Map())
			}
		}
	}
	if !ok {
		return Now{}, false
	}
	r.raise()
	return Now{
		Revision:        rev,
		Epoch:           shard.Epoch(r.lead.ownTerm),
		CompactRevision: r.machine.state.CompactRevision(),
		RangesVersion:   r.machine.state.Map().Version(),
		SettingsVersion: settings.Version,
		Refused:         refused,
		Lent:            r.settings.lend(q.lendTo),
		Granted:         r.tell(q.ask),
	}, true
}

// begin begins a leadership of the oracle.
func (r *revisions) begin(term uint64, limit int64) {
	r.oracle.Lead(term, limit)
	r.granted.Lead(limit)
}

// tell says who was given what, if that is asked.
func (r *revisions) tell(ask shard.Ask) *shard.Granted {
	if !ask.Granted {
		return nil
	}
	floor, last := r.granted.Since(ask.Since)
	return &shard.Granted{Revision: r.oracle.Last(), Floor: floor, Last: last}
}

// refuses reports whether the condition of a question does not hold.
func refuses(s *placement.Settings, ask shard.Ask) bool {
	switch {
	case !ask.Conditional, mutate.On(mutate.ConditionDropped):
		return false
	case mutate.On(mutate.ConditionOlder):
		return s.Refuses(s.Version, ask.Grows)
	case mutate.On(mutate.ConditionAlarm):
		return s.Refuses(ask.Settings, false)
	}
	return s.Refuses(ask.Settings, ask.Grows)
}

// serve answers a confirmed request, or queues it behind those that wait for room.
func (r *revisions) serve(w waiter) {
	if len(r.waiters) == 0 {
		if now, ok := r.answer(w.question); ok {
			r.reply(w, now, nil)
			return
		}
	}
	if len(r.waiters) >= readsMax {
		r.reply(w, Now{}, shard.ErrTooManyRequests)
		return
	}
	r.waiters = append(r.waiters, w)
	r.demand += w.ask.Count
	r.raise()
}

// drain serves those who waited for room.
func (r *revisions) drain() {
	for len(r.waiters) > 0 {
		w := r.waiters[0]
		now, ok := r.answer(w.question)
		if !ok {
			r.raise()
			return
		}
		r.waiters = r.waiters[1:]
		r.demand -= w.ask.Count
		r.reply(w, now, nil)
	}
	r.waiters = nil
}

// raise proposes a higher limit where the oracle wants one.
func (r *revisions) raise() {
	if p, ok := r.oracle.WantRaise(r.demand); ok {
		r.proposeLimit(p, func(error) {})
	}
}

// proposeLimit logs a limit entry. done is called with the lock held.
func (r *revisions) proposeLimit(p oracle.Proposal, done func(error)) {
	e := &pb.MetaEntry{OracleLimit: &pb.OracleLimit{Limit: p.Limit, Exact: p.Exact, LastTerm: r.lead.ownTerm}}
	r.log.propose(e, func(res state.Result) {
		if res.Err != nil {
			r.oracle.Dropped(p) // the next tick asks again
		} else {
			r.oracle.Applied(p)
			r.progress()
		}
		done(res.Err)
	})
}

// oracleTicks is how many ticks make one look at the oracle's load.
const oracleTicks = 10

// tick lets the oracle's step follow the load.
func (r *revisions) tick() {
	r.ticks++
	if r.lead.ownTerm != 0 && r.ticks%oracleTicks == 0 {
		r.oracle.Tick()
	}
}

// stepDown ends the leadership of the oracle. Those who wait may ask elsewhere.
func (r *revisions) stepDown(why error) {
	r.oracle.Follow()
	waiters := r.waiters
	r.waiters, r.demand, r.replies = nil, 0, replyCache{}
	for _, w := range waiters {
		r.reply(w, Now{}, why)
	}
}

// stop stops the oracle and waits until the exact revision is in the log, so that its end leaves no
// gap. ended is closed when this leadership ends; it is nil if nothing was begun. Called without the lock.
func (r *revisions) stop(ctx context.Context) (ended chan struct{}, err error) {
	written := make(chan error, 1)
	r.core.Lock()
	p, ok := r.oracle.Stop()
	switch {
	case r.lead.ownTerm == 0:
		err = r.lead.notLeader()
	case !ok:
		err = fmt.Errorf("%w: a transfer is under way", shard.ErrTooManyRequests)
	default:
		ended = make(chan struct{})
		r.lead.ended = append(r.lead.ended, ended)
		r.proposeLimit(p, func(err error) { written <- err })
	}
	r.core.unlock()
	if err != nil {
		return nil, err
	}
	select {
	case err = <-written:
		return ended, err
	case <-ctx.Done():
		return ended, fmt.Errorf("%w: the exact revision was not logged: %w", shard.ErrTimeout, ctx.Err())
	}
}

// resume undoes a stop that came to nothing. Called without the lock.
func (r *revisions) resume() {
	r.core.Lock()
	r.oracle.Resume()
	r.progress()
	r.core.unlock()
}
