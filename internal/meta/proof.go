package meta

import (
	"errors"

	"pontoon/shard"
)

// ask is something that only a leader may answer. One of its functions is called once, with mu
// held: run when this replica led at a moment after the ask came, fail otherwise.
type ask struct {
	run   func()
	fail  func(error)
	write bool // it goes through the log, which is proof enough
}

// leased returns the term for which the leader lease is valid now, 0 if it is not. Called
// without mu: the host has locks of its own.
func (m *Meta) leased() uint64 {
	term := m.leadTerm.Load()
	if term == 0 || m.cfg.Mode != ModeLease {
		return 0
	}
	until, ok := m.cfg.Host.LeaseUntil(shard.MetaID, term)
	if !ok || !until.After(m.cfg.Now()) {
		return 0
	}
	return term
}

// ask answers a, at once where a lease is valid, else after a quorum round that it shares with
// all that came before the round began. epoch is the highest that the asker has seen: a leader
// of an older term has been replaced. Called without mu.
func (m *Meta) ask(epoch uint64, a ask) {
	leased := m.leased()
	m.mu.Lock()
	switch {
	case m.refuses(epoch) != nil:
		a.fail(m.refuses(epoch))
	case m.ready() && (a.write || leased != 0 && leased == m.mu.ownTerm):
		a.run()
	case len(m.mu.asks) >= asksMax:
		a.fail(shard.ErrTooManyRequests)
	default:
		m.mu.asks = append(m.mu.asks, a)
		m.prove()
	}
	m.unlock()
}

// refuses says why nothing can be asked here, nil if it can.
func (m *Meta) refuses(epoch uint64) error {
	switch {
	case m.mu.closed:
		return shard.ErrUnavailable
	case !m.mu.lead.IsLeader:
		return m.notLeader()
	case epoch > m.mu.lead.Term:
		return &shard.NotLeaderError{Range: shard.MetaID, Term: m.mu.lead.Term}
	}
	return nil
}

// prove begins a quorum round for everything that waits, if there is room for one more.
func (m *Meta) prove() {
	if !m.ready() || len(m.mu.asks) == 0 || m.mu.proofs >= proofsMax {
		return
	}
	batch, term := m.mu.asks, m.mu.ownTerm
	m.mu.asks = nil
	m.mu.proofs++
	m.later(func() {
		m.cfg.Host.Confirm(shard.MetaID, term, func(ok bool, _ uint64) { m.proved(term, batch, ok) })
	})
}

// proved ends a round.
func (m *Meta) proved(term uint64, batch []ask, ok bool) {
	m.mu.Lock()
	m.mu.proofs--
	for _, a := range batch {
		switch {
		case m.mu.closed:
			a.fail(shard.ErrUnavailable)
		case m.mu.ownTerm != term:
			a.fail(m.notLeader())
		case !ok: // no quorum within its time
			a.fail(shard.ErrUnavailable)
		default:
			a.run()
		}
	}
	m.prove()
	m.unlock()
}

func isCorrupt(err error) bool { return errors.Is(err, shard.ErrCorrupt) }
