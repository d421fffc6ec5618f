package host

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/internal/peer"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// removals take away replicas that their range has given up. One knows it by its own log, or by a map of the meta group that has the range at
// a later generation without it: replica ids are never used twice, so it is out for good. It is asked for anew, for a replica
// may be deleted by what is known now, and never by gossip or by what was saved.
//
// First the tombstone is written with the log, and then the files go (hazard 45): a crash in between leaves a directory that the next start
// removes.
type removals struct {
	rs      *ranges
	refresh func(context.Context) error
	wake    chan struct{}

	mu struct {
		sync.Mutex
		due map[shard.RangeID]struct{} // of replicas that are here, so no more than those
	}
}

func newRemovals(rs *ranges, refresh func(context.Context) error) *removals {
	r := &removals{rs: rs, refresh: refresh, wake: make(chan struct{}, 1)}
	r.mu.due = map[shard.RangeID]struct{}{}
	return r
}

// push has a replica looked at. It does not block.
func (r *removals) push(id shard.RangeID) {
	r.mu.Lock()
	r.mu.due[id] = struct{}{}
	r.mu.Unlock()
	peer.Wake(r.wake)
}

// changed looks at a range that a map has at another generation.
func (r *removals) changed(d shard.Descriptor) {
	if self, at, here := r.local(d.ID); here && d.Generation > at {
		if _, member := d.Replica(self); !member {
			r.push(d.ID)
		}
	}
}

// local is the replica of a range that is here, and the newest generation that is known of it.
func (r *removals) local(id shard.RangeID) (self shard.ReplicaID, at shard.Generation, here bool) {
	if rep, open := r.rs.get(id); open {
		return rep.Self(), rep.Desc().Generation, true
	}
	if l, lost := r.rs.repairs.lostOf(id); lost {
		return l.self.ID, l.desc.Generation, true
	}
	return 0, 0, false
}

// run takes away what is due, until ctx ends.
func (r *removals) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		due := r.mu.due
		r.mu.due = map[shard.RangeID]struct{}{}
		r.mu.Unlock()
		failed := false
		for id := range due {
			if err := r.consider(ctx, id); err != nil && ctx.Err() == nil {
				r.rs.log.Warn("a replica that its range has given up is still here", "range", id.String(), "error", err)
				r.push(id)
				failed = true
			}
		}
		if failed {
			pause(ctx, repairRetry)
		}
	}
}

// consider removes a replica, if it is out.
func (r *removals) consider(ctx context.Context, id shard.RangeID) error {
	if out, err := r.out(ctx, id); err != nil || !out {
		return err
	}
	return r.rs.held.alone(id, func() error { return r.remove(ctx, id) })
}

// out reports whether the range has given the replica here up.
func (r *removals) out(ctx context.Context, id shard.RangeID) (bool, error) {
	self, at, here := r.local(id)
	if !here {
		return false, nil
	}
	if rep, open := r.rs.get(id); open {
		d := rep.Desc()
		if _, member := d.Replica(self); !member {
			return true, nil
		}
	}
	if err := r.refresh(ctx); err != nil {
		return false, fmt.Errorf("ask the meta group: %w", err)
	}
	d, known := r.rs.env.present(id)
	_, member := d.Replica(self)
	return known && !member && d.Generation > at, nil
}

// remove takes it away.
func (r *removals) remove(ctx context.Context, id shard.RangeID) error {
	rep, open := r.rs.get(id)
	if open {
		r.rs.forget(id)
		r.rs.env.moved(id)
	}
	done := make(chan struct{})
	var err error
	if mutate.On(mutate.RemoveUnnoted) {
		err = r.rs.host.StopGroup(id, func() { close(done) })
	} else {
		err = r.rs.host.RemoveGroup(id, func() { close(done) })
	}
	if err != nil {
		if open {
			r.rs.byID.Put(id, rep) // it is being opened again for another reason
		}
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if open {
		err = rep.Close()
	}
	r.rs.repairs.unmark(id)
	r.rs.held.gone(id)
	err = errors.Join(err, replica.RemoveDir(r.rs.repairs.dir, id))
	r.rs.log.Info("a replica has been removed from this node: its range has given it up", "range", id.String())
	return err
}
