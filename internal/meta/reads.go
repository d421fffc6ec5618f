package meta

import "pontoon/shard"

// leaderRead is something that only a leader may answer. One of its functions is called once, with the
// lock held: run when this replica led at a moment after the read came, fail otherwise.
type leaderRead struct {
	run   func()
	fail  func(error)
	write bool // it goes through the log, which confirms it
}

// leaderReads are reads that wait to be confirmed, and the quorum rounds in flight for others.
type leaderReads struct {
	core    *core
	lead    *leadership
	host    Host
	ready   func() bool // reads may be served, once confirmed
	pending []leaderRead
	rounds  int
}

// add answers r at once where leased, the term for which a leader lease was valid after r came, is the
// own one; else after a quorum round that it shares with all that came before the round began.
func (rs *leaderReads) add(leased, epoch uint64, r leaderRead) {
	switch {
	case rs.lead.refuses(epoch) != nil:
		r.fail(rs.lead.refuses(epoch))
	case rs.ready() && (r.write || leased != 0 && leased == rs.lead.ownTerm):
		r.run()
	case len(rs.pending) >= readsMax:
		r.fail(shard.ErrTooManyRequests)
	default:
		rs.pending = append(rs.pending, r)
		rs.confirm()
	}
}

// confirm begins a quorum round for everything that waits, if there is room for one more.
func (rs *leaderReads) confirm() {
	if !rs.ready() || len(rs.pending) == 0 || rs.rounds >= roundsMax {
		return
	}
	batch, term := rs.pending, rs.lead.ownTerm
	rs.pending = nil
	rs.rounds++
	rs.core.later(func() {
		rs.host.Confirm(shard.MetaID, term, func(ok bool, _ uint64) { rs.confirmed(term, batch, ok) })
	})
}

// confirmed ends a round. Called without the lock.
func (rs *leaderReads) confirmed(term uint64, batch []leaderRead, ok bool) {
	rs.core.Lock()
	rs.rounds--
	for _, r := range batch {
		switch {
		case rs.lead.closed:
			r.fail(shard.ErrUnavailable)
		case rs.lead.ownTerm != term:
			r.fail(rs.lead.notLeader())
		case !ok: // no quorum within its time
			r.fail(shard.ErrUnavailable)
		default:
			r.run()
		}
	}
	rs.confirm()
	rs.core.unlock()
}

// stepDown fails what waits; it may be asked elsewhere.
func (rs *leaderReads) stepDown(why error) {
	pending := rs.pending
	rs.pending = nil
	for _, r := range pending {
		r.fail(why)
	}
}
