package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/replica/apply"
)

// removals take away the replicas of a life that their ranges have given up, as internal/host does.
type removals struct {
	l     *life
	seen  *shard.Map             // that has been looked at; nil: again
	asked map[shard.RangeID]bool // the meta group is being asked
	ticks int

	mu      sync.Mutex
	closing sync.WaitGroup
	errs    []error // of replicas that were closed
}

// here is the replica of a range on this node, and the newest generation that is known of it.
func (l *life) here(id shard.RangeID) (self shard.ReplicaID, at shard.Generation, here bool) {
	if rep, open := l.reps.Get(id); open {
		d := rep.Desc()
		return rep.Self(), d.Belonged(rep.Self()), true
	}
	self, here = l.waiting[id]
	return self, 0, here
}

// lookAtMap finds replicas that a new map has without this node.
func (r *removals) lookAtMap() {
	l := r.l
	m := l.client.Map()
	if m == nil || m == l.removals.seen || !l.alive {
		return
	}
	l.removals.seen = m
	ids := l.held()
	for id := range l.waiting {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if l.out(m, id) {
			l.askForIt(id)
		}
	}
}

// frozenLook is how many ticks a frozen replica is left alone before it is looked at again: of a left replica that a snapshot takes past the merge there
// is no event.
const frozenLook = 50

// lookAtFrozen looks at them.
func (r *removals) lookAtFrozen() {
	l := r.l
	if l.ticks++; l.ticks%frozenLook != 0 {
		return
	}
	for _, id := range l.held() {
		if rep, open := l.reps.Get(id); open && rep.Shape().Frozen != nil {
			l.askForIt(id)
		}
	}
}

// out reports whether a map has a range at a later generation without the replica here, or not any more, while nobody here needs it.
func (r *removals) out(m *shard.Map, id shard.RangeID) bool {
	l := r.l
	self, at, here := l.here(id)
	if !here {
		return false
	}
	var is apply.Shape
	rep, open := l.reps.Get(id)
	if open {
		if is = rep.Shape(); replica.IsPartOfLeft(&is, l.reps.Get) {
			return true
		}
	}
	d, known := m.Get(id)
	switch {
	case known:
		return d.Dropped(self, at)
	case !open:
		return true // one that waits was in the map when it began to
	}
	return m.Displaced(is.Desc) && (is.Frozen == nil || !l.awaited(&is))
}

// awaited reports whether a replica here may still need a frozen one whose range is no more.
func (r *removals) awaited(right *apply.Shape) bool {
	l := r.l
	if _, waits := l.waiting[shard.RangeID(right.Frozen.Left)]; waits {
		return true
	}
	return slices.ContainsFunc(l.reps.Values(), func(rep *replica.Replica) bool { return right.AwaitedBy(rep.Desc()) })
}

// askForIt removes a replica if the meta group, asked now, has its range without it.
func (r *removals) askForIt(id shard.RangeID) {
	l := r.l
	if l.removals.asked[id] {
		return
	}
	l.removals.asked[id] = true
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		err := l.client.Refresh(ctx)
		l.n.w.post(fmt.Sprintf("out? %d/%d", l.n.id, id), 0, func() {
			delete(l.removals.asked, id)
			switch {
			case !l.alive:
			case err != nil:
				l.removals.seen = nil // it is looked at again
			case id == shard.MetaID:
				if l.meta.out() {
					l.meta.remove()
				}
			case l.out(l.client.Map(), id):
				l.remove(id)
			}
		})
	}()
}

// givenUp is told by a replica that its own log has removed it, or that it is part of its left neighbour.
func (r *removals) givenUp(id shard.RangeID) {
	l := r.l
	l.n.w.post(fmt.Sprintf("given up %d/%d", l.n.id, id), 0, func() {
		rep, open := l.reps.Get(id)
		if !open || !l.alive {
			return
		}
		if is := rep.Shape(); replica.IsPartOfLeft(&is, l.reps.Get) {
			l.remove(id)
		} else {
			l.removals.seen = nil // the map may have it already
		}
	})
}

// remove writes the tombstone, and then deletes the files.
func (l *life) remove(id shard.RangeID) {
	w := l.n.w
	self, _, _ := l.here(id)
	rep, open := l.reps.Get(id)
	if _, runs := l.host.Status(id); !runs { // it is being stopped, to be opened
		l.removals.seen = nil
		return
	}
	w.note("node %d: replica %d of %v is removed", l.n.id, self, id)
	w.stats.Removed++
	l.reps.Delete(id)
	delete(l.waiting, id)
	l.fans.left(id)
	w.orders.left(l, id)
	err := l.host.RemoveGroup(id, func() {
		w.post(fmt.Sprintf("removed %d/%d", l.n.id, id), 0, func() {
			if !l.alive {
				return
			}
			if w.inspector != nil {
				w.inspector.buried(id, self)
			}
			if _, _, again := l.here(id); again { // another one waits here already
				return
			}
			if err := replica.RemoveDir(l.rangesDir(), id); err != nil {
				w.failf("node %d: %v", l.n.id, err)
			}
		})
	})
	if err != nil {
		w.failf("node %d: %v cannot be removed: %v", l.n.id, id, err)
	}
	if open {
		l.removals.closes(rep.Close)
	}
}

// closes closes what was removed, which waits for callbacks.
func (r *removals) closes(what func() error) {
	r.closing.Go(func() {
		if err := what(); err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.errs = append(r.errs, err)
		}
	})
}

// close waits for the replicas that are being closed.
func (r *removals) close() error {
	r.closing.Wait()
	return errors.Join(r.errs...)
}

// free reports whether a replica may wait here: nothing of an earlier one is left.
func (l *life) free(id shard.RangeID) bool {
	if has, err := replica.HasFile(l.rangesDir(), id); has || err != nil {
		return false
	}
	return l.unnoted(id)
}

// unnoted reports whether the log has no replica of a group here, or a tombstone.
func (l *life) unnoted(id shard.RangeID) bool {
	list, err := l.n.log.Replicas()
	return err == nil && !slices.ContainsFunc(list, func(r raftgroup.Replica) bool {
		return r.Group == id && r.State != raftgroup.ReplicaRemoved
	})
}
