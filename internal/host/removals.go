package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/replica/apply"
)

// removals take away replicas that their range has given up, and those that have become part of their left neighbours. What counts is a map of the meta
// group that has the range at a later generation without the replica, whether or not its own log says so already: replica ids are never used twice, so it
// is out for good, and one of those who stay has that in its file (a crash of all that know it would otherwise leave them in need of its vote). The meta
// group is asked anew, for a replica may be deleted by what it knows now, and never by gossip or by what was saved.
//
// First the tombstone is written with the log, and then the files go (hazard 45): a crash in between leaves a directory that the next start
// removes. A replica that is not served, because it waits, is being rebuilt, or could not be opened, goes in the same way.
type removals struct {
	rs      *ranges
	meta    *metaGroup // nil: this node has none
	refresh func(context.Context) error
	wake    chan struct{}
	count   atomic.Int64 // replicas removed since the start

	// buried have a tombstone, and files that are still to be deleted; of run alone. As many as there are directories.
	buried map[shard.RangeID]struct{}

	mu struct {
		sync.Mutex
		due map[shard.RangeID]struct{} // of replicas that are here, so no more than those
	}
}

// frozenLook is the pause before a frozen replica is looked at again.
const frozenLook = 5 * time.Second

func newRemovals(rs *ranges, meta *metaGroup, refresh func(context.Context) error) *removals {
	r := &removals{rs: rs, meta: meta, refresh: refresh, wake: make(chan struct{}, 1), buried: map[shard.RangeID]struct{}{}}
	r.mu.due = map[shard.RangeID]struct{}{}
	return r
}

// push has a replica looked at. It does not block.
func (r *removals) push(id shard.RangeID) {
	r.mu.Lock()
	r.mu.due[id] = struct{}{}
	r.mu.Unlock()
	patience.Wake(r.wake)
}

// changed looks at a range that a map has at another generation.
func (r *removals) changed(d shard.Descriptor) {
	if self, at, here := r.local(d.ID); here && d.Dropped(self, at) {
		r.push(d.ID)
	}
}

// arrived looks at a replica that has just come to be here: the map that has the range without it, or not any more, may have come before.
func (r *removals) arrived(id shard.RangeID) {
	if d, known := r.rs.env.present(id); known {
		r.changed(d)
	} else if r.displaced(id) {
		r.push(id)
	}
}

// local is the replica of a range that is here, open or not, and the newest generation that is known of it; 0: none.
func (r *removals) local(id shard.RangeID) (self shard.ReplicaID, at shard.Generation, here bool) {
	if id == shard.MetaID && r.meta != nil {
		return r.meta.local()
	}
	if rep, open := r.rs.get(id); open {
		d := rep.Desc()
		return rep.Self(), d.Belonged(rep.Self()), true
	}
	if l, lost := r.rs.repairs.lostOf(id); lost {
		return l.self.ID, l.desc.Generation, true
	}
	self, here = r.rs.held.listed(id)
	return self, 0, here
}

// askAfter is how many election timeouts a replica may hear of no leader before the map is asked for: its range may have given it up, and
// tells it nothing any more.
const askAfter = 5

// run takes away what is due, until ctx ends.
func (r *removals) run(ctx context.Context) {
	period := askAfter * r.rs.repairs.election
	ask := time.NewTicker(period)
	defer ask.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ask.C:
			if r.leaderless() {
				some, cancel := context.WithTimeout(ctx, period)
				_ = r.refresh(some) // if it fails, it is tried again
				cancel()
			}
			continue
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

// leaderless reports whether a replica here knows no leader of its range.
func (r *removals) leaderless() bool {
	for _, rep := range r.rs.byID.Values() {
		if st, runs := r.rs.host.Status(rep.ID()); runs && st.Leader == 0 {
			return true
		}
	}
	return r.rs.repairs.waiting() > 0
}

// consider removes a replica, if it is out, or what is left of it.
func (r *removals) consider(ctx context.Context, id shard.RangeID) error {
	if _, buried := r.buried[id]; buried {
		return r.rs.held.alone(id, func() error { return r.clear(id) })
	}
	out, err := r.out(ctx, id)
	if err == nil && !out {
		if rep, open := r.rs.get(id); open && rep.Shape().Frozen != nil {
			time.AfterFunc(frozenLook, func() { r.push(id) }) // of a left replica that a snapshot takes past the merge there is no event
		}
	}
	if err != nil || !out {
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
	var is apply.Shape
	rep, open := r.rs.get(id)
	if open {
		// That its own log has removed it is not enough: those who stay may know less after a crash, and need its vote until one of them has the removal in
		// its file, which the map then says.
		if is = rep.Shape(); replica.IsPartOfLeft(&is, r.rs.get) {
			return true, nil
		}
	}
	if err := r.refresh(ctx); err != nil && !mutate.On(mutate.RemoveUnasked) {
		return false, fmt.Errorf("ask the meta group: %w", err)
	}
	if d, known := r.rs.env.present(id); known {
		return d.Dropped(self, at), nil
	}
	return r.displaced(id) && !mutate.On(mutate.MergedStays) && (is.Frozen == nil || mutate.On(mutate.FrozenByMap) || !r.awaited(&is)), nil
}

// displaced reports whether the newest map has others in the place of the range of a replica here: it was merged, and the replica had been given up before.
func (r *removals) displaced(id shard.RangeID) bool {
	if rep, open := r.rs.get(id); open {
		return r.rs.env.displaced(rep.Desc())
	}
	l, lost := r.rs.repairs.lostOf(id)
	if l.waiting { // the map had it when it began to
		l.desc = shard.Descriptor{ID: id}
	}
	return lost && (l.waiting || l.desc.Generation != 0) && r.rs.env.displaced(l.desc)
}

// awaited reports whether a replica here may still need a frozen one whose range is no more, whatever the map says: the left replica may still have to
// apply the merge, and it may itself have to be born first (hazards 52, 53).
func (r *removals) awaited(right *apply.Shape) bool {
	if mutate.On(mutate.FrozenBlocks) {
		return true
	}
	if left := shard.RangeID(right.Frozen.Left); r.rs.held.unopened() || r.rs.repairs.isLost(left) || r.rs.held.isListed(left) {
		return true
	}
	for _, rep := range r.rs.byID.Values() {
		if right.AwaitedBy(rep.Desc()) {
			return true
		}
	}
	return r.rs.repairs.overlaps(shard.Span{Start: right.Frozen.LeftStart, End: right.Desc.Span.Start})
}

// vanished looks at ranges that a map does not have any more.
func (r *removals) vanished(ids []shard.RangeID) {
	for _, id := range ids {
		if _, _, here := r.local(id); here {
			r.push(id)
		}
	}
}

// remove takes it away.
func (r *removals) remove(ctx context.Context, id shard.RangeID) error {
	if id == shard.MetaID {
		return r.meta.remove(ctx)
	}
	if r.rs.held.isComing(id) {
		return errors.New("it is being born")
	}
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
			r.rs.byID.Put(id, rep)
		}
		return err
	}
	select {
	case <-done:
		r.rs.repairs.unmark(id) // nobody opens it again
		r.rs.held.gone(id)
		r.buried[id] = struct{}{}
		r.count.Add(1)
		r.rs.log.Info("a replica has been removed from this node: its range has given it up", "range", id.String())
	case <-ctx.Done():
		err = ctx.Err()
	}
	if open {
		err = errors.Join(err, rep.Close())
	}
	if err != nil {
		return err
	}
	return r.clear(id)
}

// clear deletes the files of a replica that has a tombstone. Where another one has come since they went before it came.
func (r *removals) clear(id shard.RangeID) error {
	if !r.rs.held.here(id) && !r.rs.held.isListed(id) {
		if err := replica.RemoveDir(r.rs.repairs.dir, id); err != nil {
			return err
		}
	}
	delete(r.buried, id)
	return nil
}
