package meta

import (
	"fmt"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// leadership is what this replica knows of who leads.
type leadership struct {
	raftgroup.Leadership
	self shard.ReplicaID
	desc func() shard.Descriptor // the group's, as far as it is known here

	ownTerm uint64 // the term that it leads and of which it has applied an entry; 0: none
	serving bool   // in that term
	closed  bool
	removed bool            // the group has given this replica up
	ended   []chan struct{} // closed when this leadership ends
}

// notLeader says who may lead instead.
func (l *leadership) notLeader() error {
	d := l.desc()
	e := &shard.NotLeaderError{Range: shard.MetaID, Term: l.Term, Known: []shard.Descriptor{d}}
	if l.Leader != l.self {
		e.Leader = d.NodeOf(l.Leader)
	}
	return e
}

// refuses says why nothing can be asked here, nil if it can. epoch is the highest that the caller has seen:
// a leader of an older term has been replaced.
func (l *leadership) refuses(epoch uint64) error {
	switch {
	case l.closed:
		return shard.ErrUnavailable
	case !l.IsLeader || l.removed:
		return l.notLeader()
	case epoch > l.Term:
		return &shard.NotLeaderError{Range: shard.MetaID, Term: l.Term}
	}
	return nil
}

// stepDown ends the own leadership, and returns who is to hear of it.
func (l *leadership) stepDown() (ended []chan struct{}) {
	ended, l.ended = l.ended, nil
	l.ownTerm, l.serving = 0, false
	return ended
}

// proposals are entries on their way through the log, by proposal id.
type proposals struct {
	core    *core
	lead    *leadership
	host    Host
	last    uint64
	waiting map[uint64]func(state.Result) // called with the lock held
}

// propose logs e in the term that this replica leads. done is called once, with the lock held: with the
// entry's result; with a retryable error if it certainly was not logged; or with ErrAmbiguous if the
// leadership ended first.
func (p *proposals) propose(e *pb.MetaEntry, done func(state.Result)) {
	term := p.lead.ownTerm
	switch {
	case term == 0:
		done(state.Result{Err: p.lead.notLeader()})
		return
	case len(p.waiting) >= proposalsMax:
		done(state.Result{Err: shard.ErrTooManyRequests})
		return
	}
	p.last++
	id := p.last
	e.Term, e.ProposalId, e.Proposer = term, id, uint64(p.lead.self)
	data, err := e.MarshalVT()
	if err != nil {
		done(state.Result{Err: fmt.Errorf("%w: %w", shard.ErrInvalid, err)})
		return
	}
	p.waiting[id] = done
	p.core.later(func() {
		if err := p.host.ProposeFunc(shard.MetaID, term, data, func(err error) { p.dropped(id, err) }); err != nil {
			p.dropped(id, err)
		}
	})
}

// dropped tells that a proposal certainly was not logged. Called without the lock.
func (p *proposals) dropped(id uint64, err error) {
	p.core.Lock()
	if !shard.Retryable(err) {
		err = fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
	}
	p.finish(id, state.Result{Err: err})
	p.core.unlock()
}

// finish ends a proposal, if it waits.
func (p *proposals) finish(id uint64, r state.Result) {
	if done := p.waiting[id]; done != nil {
		delete(p.waiting, id)
		done(r)
	}
}

// stepDown ends all: what was proposed has an open fate.
func (p *proposals) stepDown() {
	waiting := p.waiting
	p.waiting = make(map[uint64]func(state.Result))
	for _, done := range waiting {
		done(state.Result{Err: shard.ErrAmbiguous})
	}
}
