package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pontoon/shard"
)

// handovers are the calls that move the leadership of the group.
type handovers struct{ m *Meta }

// MoveLeader hands the leadership of the group to the replica on another node and returns when
// this one no longer leads. The revision order has no gap there.
func (o handovers) MoveLeader(ctx context.Context, to shard.NodeID) error {
	m := o.m
	m.mu.Lock()
	d := m.descriptor()
	r, found := d.ReplicaOn(to)
	if err := m.lead.refuses(0); err != nil || !found || !r.Votes() {
		m.mu.unlock()
		if err == nil {
			err = fmt.Errorf("%w: node %v holds no voting replica of the meta group", shard.ErrInvalid, to)
		}
		return err
	}
	m.mu.unlock()
	if to == m.cfg.Node {
		return nil
	}
	return o.handOver(ctx, r.ID, false)
}

// Retire is HandOver before a clean stop: where nobody can take over the oracle serves nobody from then on, and
// the exact revision stays in the log.
func (o handovers) Retire(ctx context.Context) error {
	err := o.giveUp(ctx, true)
	if errors.Is(err, errNobody) {
		return nil
	}
	return err
}

// HandOver is MoveLeader to whoever is fit. On a follower it does nothing.
func (o handovers) HandOver(ctx context.Context) error { return o.giveUp(ctx, false) }

func (o handovers) giveUp(ctx context.Context, final bool) error {
	m := o.m
	m.mu.Lock()
	leads := m.lead.IsLeader
	m.mu.unlock()
	if !leads {
		return nil
	}
	return o.handOver(ctx, 0, final)
}

// errNobody is returned where no other replica lives that could take over.
var errNobody = fmt.Errorf("%w: nobody can take over the meta group", shard.ErrUnavailable)

// handOver stops the oracle, and then transfers the leadership, to whoever is fit where to is 0. Where the
// transfer fails the oracle resumes, above a new limit; but not if this end is final and there is nobody else.
func (o handovers) handOver(ctx context.Context, to shard.ReplicaID, final bool) error {
	m := o.m
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.ElectionTimeout)
	defer cancel()
	ended, err := m.revisions.stop(ctx)
	if ended == nil {
		return err
	}
	if err == nil {
		err = o.transfer(ctx, to, ended)
	}
	if err == nil || final && errors.Is(err, errNobody) {
		return err
	}
	m.revisions.resume()
	return err
}

// transfer waits until the leadership has moved, or ctx ends.
func (o handovers) transfer(ctx context.Context, to shard.ReplicaID, ended <-chan struct{}) error {
	m := o.m
	m.mu.Lock()
	term, d := m.lead.Term, m.descriptor()
	m.mu.unlock()
	if to == 0 && !slices.ContainsFunc(d.Replicas, func(r shard.Replica) bool { return r.Node != m.cfg.Node && r.Votes() }) {
		return errNobody
	}
	failed := make(chan error, 1)
	err := m.cfg.Host.HandOver(shard.MetaID, term, to, func(err error) {
		if err != nil {
			failed <- err
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case err := <-failed:
		if to == 0 && errors.Is(err, shard.ErrUnavailable) {
			return errNobody
		}
		return err
	case <-ctx.Done():
		m.cfg.Host.AbortHandOver(shard.MetaID, term)
		return fmt.Errorf("%w: the leadership did not move: %w", shard.ErrTimeout, ctx.Err())
	}
}
