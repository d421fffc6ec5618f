package meta

import (
	"context"
	"fmt"

	"pontoon/internal/meta/oracle"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Now is an answer of the revision oracle.
type Now = shard.Now

// question names what a client asks, so that it may ask again. The zero value names nothing.
type question struct{ asker, seq uint64 }

// givenMax bounds the answers that are remembered for a question asked again.
const givenMax = 4096

// given is what this leadership has allocated for named questions, the latest givenMax of them.
type given struct {
	answers map[question]grant
	order   []question // a ring once it is full
	next    int
}

// grant is a run of revisions.
type grant struct{ first, n int64 }

func (g *given) find(q question, n int64) (first int64, ok bool) {
	a, ok := g.answers[q]
	return a.first, ok && a.n == n
}

func (g *given) note(q question, a grant) {
	if q == (question{}) {
		return
	}
	if g.answers == nil {
		g.answers = make(map[question]grant)
	}
	if len(g.order) < givenMax {
		g.order = append(g.order, q)
	} else {
		delete(g.answers, g.order[g.next])
		g.order[g.next] = q
		g.next = (g.next + 1) % givenMax
	}
	g.answers[q] = a
}

// starved is a request for revisions that waits for the limit to rise.
type starved struct {
	q  question
	n  int64 // 0: the current revision
	cb func(Now, error)
}

// answer gives the result away once mu is free.
func (s starved) answer(m *Meta, now Now, err error) { m.later(func() { s.cb(now, err) }) }

// askOracle allocates n revisions, or asks for the current one where n is 0. cb is called once,
// perhaps before askOracle returns, and must not block. epoch is the highest that the caller
// has seen.
func (m *Meta) askOracle(epoch uint64, q question, n int64, cb func(Now, error)) {
	if n < 0 {
		cb(Now{}, fmt.Errorf("%w: %d revisions", shard.ErrInvalid, n))
		return
	}
	if now, ok := m.askLeased(epoch, q, n); ok {
		cb(now, nil)
		return
	}
	s := starved{q, n, cb}
	m.ask(epoch, ask{
		run:  func() { m.hand(s) },
		fail: func(err error) { s.answer(m, Now{}, err) },
	})
}

// AskLeased allocates n revisions, or tells the current one where n is 0, if that can be done at once:
// this replica leads by a valid lease, in an epoch that is not below the given one, the limit leaves room,
// and nobody waits. Otherwise it reports false and has done nothing.
func (m *Meta) AskLeased(epoch uint64, n int64) (Now, bool) { return m.askLeased(epoch, question{}, n) }

// askLeased is the short way: a valid lease, room below the limit, nobody waiting.
func (m *Meta) askLeased(epoch uint64, q question, n int64) (Now, bool) {
	leased := m.leased()
	if leased == 0 {
		return Now{}, false
	}
	m.mu.Lock()
	defer m.unlock()
	if m.refuses(epoch) != nil || !m.ready() || leased != m.mu.ownTerm || len(m.mu.starved) > 0 {
		return Now{}, false
	}
	return m.take(q, n)
}

// take asks the oracle itself, with proof.
func (m *Meta) take(q question, n int64) (Now, bool) {
	rev, ok := m.mu.oracle.Current()
	if n > 0 && ok {
		var again bool
		if rev, again = m.mu.given.find(q, n); !again {
			if rev, ok = m.mu.oracle.Allocate(n); ok {
				m.mu.given.note(q, grant{rev, n})
			}
		}
	}
	if !ok {
		return Now{}, false
	}
	m.raise()
	return Now{
		Revision:        rev,
		Epoch:           shard.Epoch(m.mu.ownTerm),
		CompactRevision: m.mu.state.CompactRevision(),
		RangesVersion:   m.mu.state.Map().Version(),
	}, true
}

// hand answers a proven request, or lets it wait for room in its turn.
func (m *Meta) hand(s starved) {
	if len(m.mu.starved) == 0 {
		if now, ok := m.take(s.q, s.n); ok {
			s.answer(m, now, nil)
			return
		}
	}
	if len(m.mu.starved) >= asksMax {
		s.answer(m, Now{}, shard.ErrTooManyRequests)
		return
	}
	m.mu.starved = append(m.mu.starved, s)
	m.mu.demand += s.n
	m.raise()
}

// feed serves those who waited for room.
func (m *Meta) feed() {
	for len(m.mu.starved) > 0 {
		s := m.mu.starved[0]
		now, ok := m.take(s.q, s.n)
		if !ok {
			m.raise()
			return
		}
		m.mu.starved = m.mu.starved[1:]
		m.mu.demand -= s.n
		s.answer(m, now, nil)
	}
	m.mu.starved = nil
}

// raise proposes a higher limit where the oracle wants one.
func (m *Meta) raise() {
	if p, ok := m.mu.oracle.WantRaise(m.mu.demand); ok {
		m.proposeLimit(p, func(error) {})
	}
}

// proposeLimit logs a limit entry. done is called with mu held.
func (m *Meta) proposeLimit(p oracle.Proposal, done func(error)) {
	term := m.mu.ownTerm
	e := &pb.MetaEntry{OracleLimit: &pb.OracleLimit{Limit: p.Limit, Exact: p.Exact, LastTerm: term}}
	m.propose(e, func(r state.Result) {
		if r.Err != nil {
			m.mu.oracle.Dropped(p) // the next tick asks again
		} else {
			m.mu.oracle.Applied(p)
			m.progress()
		}
		done(r.Err)
	})
}

// resume ends a silence that came to nothing.
func (m *Meta) resume() {
	m.mu.Lock()
	m.mu.oracle.Resume()
	m.progress()
	m.unlock()
}

// MoveLeader hands the leadership of the group to the replica on another node and returns when
// this one no longer leads. The revision order has no gap there.
func (m *Meta) MoveLeader(ctx context.Context, to shard.NodeID) error {
	m.mu.Lock()
	d := m.descriptor()
	r, found := d.ReplicaOn(to)
	if err := m.refuses(0); err != nil || !found || r.Learner {
		m.unlock()
		if err == nil {
			err = fmt.Errorf("%w: node %v holds no voting replica of the meta group", shard.ErrInvalid, to)
		}
		return err
	}
	m.unlock()
	if to == m.cfg.Node {
		return nil
	}
	return m.handOver(ctx, r.ID)
}

// Retire is MoveLeader to whoever can, before a clean stop: the oracle is silent from then on,
// also where nobody takes over. On a follower it does nothing.
func (m *Meta) Retire(ctx context.Context) error {
	m.mu.Lock()
	leads, d := m.mu.lead.IsLeader, m.descriptor()
	m.unlock()
	if !leads {
		return nil
	}
	for _, r := range d.Replicas {
		if r.ID != m.self && !r.Learner {
			return m.handOver(ctx, r.ID)
		}
	}
	return m.handOver(ctx, 0)
}

// handOver silences the oracle, and then transfers the leadership, unless to is 0. Where the
// transfer fails the oracle speaks again, above a new limit.
func (m *Meta) handOver(ctx context.Context, to shard.ReplicaID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.ElectionTimeout)
	defer cancel()
	gone, err := m.silence(ctx)
	switch {
	case gone == nil:
		return err
	case err == nil && to == 0:
		return nil
	case err == nil:
		m.cfg.Host.TransferLeader(shard.MetaID, to)
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("%w: the leadership did not move: %w", shard.ErrTimeout, ctx.Err())
		}
	}
	m.resume()
	return err
}

// silence stops the oracle and waits until the exact revision is in the log, so that its end
// leaves no gap. gone is closed when this leadership ends; it is nil if nothing was begun.
func (m *Meta) silence(ctx context.Context) (gone chan struct{}, err error) {
	written := make(chan error, 1)
	m.mu.Lock()
	p, ok := m.mu.oracle.Stop()
	switch {
	case m.mu.ownTerm == 0:
		err = m.notLeader()
	case !ok:
		err = fmt.Errorf("%w: a transfer is under way", shard.ErrTooManyRequests)
	default:
		gone = make(chan struct{})
		m.mu.stepDowns = append(m.mu.stepDowns, gone)
		m.proposeLimit(p, func(err error) { written <- err })
	}
	m.unlock()
	if err != nil {
		return nil, err
	}
	select {
	case err = <-written:
		return gone, err
	case <-ctx.Done():
		return gone, fmt.Errorf("%w: the exact revision was not logged: %w", shard.ErrTimeout, ctx.Err())
	}
}
