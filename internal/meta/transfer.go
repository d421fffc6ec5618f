package meta

import (
	"context"
	"fmt"

	"pontoon/shard"
)

// MoveLeader hands the leadership of the group to the replica on another node and returns when
// this one no longer leads. The revision order has no gap there.
func (m *Meta) MoveLeader(ctx context.Context, to shard.NodeID) error {
	m.mu.Lock()
	d := m.descriptor()
	r, found := d.ReplicaOn(to)
	if err := m.lead.refuses(0); err != nil || !found || r.Learner {
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
	return m.handOver(ctx, r.ID)
}

// Retire is MoveLeader to whoever can, before a clean stop: the oracle serves nobody from then on,
// also where nobody takes over. On a follower it does nothing.
func (m *Meta) Retire(ctx context.Context) error {
	m.mu.Lock()
	leads, d := m.lead.IsLeader, m.descriptor()
	m.mu.unlock()
	if !leads {
		return nil
	}
	for _, r := range d.Replicas {
		if r.ID != m.lead.self && !r.Learner {
			return m.handOver(ctx, r.ID)
		}
	}
	return m.handOver(ctx, 0)
}

// handOver stops the oracle, and then transfers the leadership, unless to is 0. Where the
// transfer fails the oracle resumes, above a new limit.
func (m *Meta) handOver(ctx context.Context, to shard.ReplicaID) error {
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.ElectionTimeout)
	defer cancel()
	ended, err := m.revisions.stop(ctx)
	switch {
	case ended == nil:
		return err
	case err == nil && to == 0:
		return nil
	case err == nil:
		m.cfg.Host.TransferLeader(shard.MetaID, to)
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("%w: the leadership did not move: %w", shard.ErrTimeout, ctx.Err())
		}
	}
	m.revisions.resume()
	return err
}
