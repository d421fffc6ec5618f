package host

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pontoon/internal/mutate"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// held is which replicas this node holds. The Raft log lists them, and a start opens that list and nothing else: not what a
// map says, which may be older than the log or newer, and not what the flags say (hazard 46). What a replica is, its own
// file says. The map is asked where a file does not, because an older build has made it or because it is lost.
//
// A replica comes here in three ways, one at a time for each range:
//
//   - the map has it and the range was never changed: it is born empty (reconcile);
//   - another range is cut here and this is the child (wanted, and then its birth);
//   - a member speaks to it: it waits for a state (newcomers).
type held struct {
	rs  *ranges
	log raftgroup.Log

	mu struct {
		sync.Mutex
		listed bool // the list has been read
		// pending are listed and not open yet, or what they are is not known.
		pending map[shard.RangeID]raftgroup.Replica
		coming  map[shard.RangeID]bool          // about to be born
		busy    map[shard.RangeID]chan struct{} // somebody brings the range here, or looks whether to; closed when done
		// unknown are those among pending that nothing describes, so that they have no state that can be read.
		unknown map[shard.RangeID]bool
		// awaited are the ranges that are about to take in their right neighbours, by those. Of what is not here none is left.
		awaited map[shard.RangeID]shard.RangeID
	}
}

func newHeld(rs *ranges, log raftgroup.Log) *held {
	h := &held{rs: rs, log: log}
	h.mu.pending = map[shard.RangeID]raftgroup.Replica{}
	h.mu.coming = map[shard.RangeID]bool{}
	h.mu.busy = map[shard.RangeID]chan struct{}{}
	h.mu.unknown = map[shard.RangeID]bool{}
	h.mu.awaited = map[shard.RangeID]shard.RangeID{}
	return h
}

// errNotKnownYet is the reason why a replica is not opened that neither its file nor a map describes.
var errNotKnownYet = errors.New("nothing says yet what the range is")

// alone calls bring while nobody else brings the range here.
func (h *held) alone(id shard.RangeID, bring func() error) error {
	for {
		h.mu.Lock()
		before := h.mu.busy[id]
		if before == nil {
			break
		}
		h.mu.Unlock()
		<-before
	}
	done := make(chan struct{})
	h.mu.busy[id] = done
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.mu.busy, id)
		close(done)
	}()
	return bring()
}

// start reads the list, once, and opens what is in it. describe is what a map says. An error names replicas that could not
// be opened; they are tried again by every reconcile.
func (h *held) start(m *shard.Map) error {
	h.mu.Lock()
	listed := h.mu.listed
	h.mu.Unlock()
	if !listed {
		if err := h.list(); err != nil {
			return err
		}
	}
	return h.openPending(m)
}

// list reads what the log holds. Of what is in the directory and not in the list, children whose group has not begun are
// listed as well: see orphan.
func (h *held) list() error {
	list, err := h.log.Replicas()
	if err != nil {
		return fmt.Errorf("list the replicas: %w", err)
	}
	noted := make(map[shard.RangeID]raftgroup.Replica, len(list))
	for _, r := range list {
		noted[r.Group] = r
	}
	dirs, err := replica.ListLeft(h.rs.repairs.dir)
	if err != nil {
		return err
	}
	for _, id := range dirs {
		r, known := noted[id]
		switch {
		case known && r.State == raftgroup.ReplicaRemoved:
			// The tombstone was written before the first file was removed, and not all are gone.
			err = replica.RemoveDir(h.rs.repairs.dir, id)
		case !known:
			err = h.orphan(id)
		}
		if err != nil {
			h.rs.log.Error("a directory of a range that is not held", "range", id.String(), "error", err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range list {
		if r.Group != shard.MetaID && r.State != raftgroup.ReplicaRemoved {
			h.mu.pending[r.Group] = r
		}
	}
	h.mu.listed = true
	return nil
}

// orphan looks at a directory without a word in the log. Three things leave one:
//
//   - A child's file was made, and a crash came before its group began. It is whole, for it was renamed into place when it
//     was durable, and nobody has voted for this replica or acknowledged anything, because that is written down before
//     it is said. So it may begin now. It must: where the parent's file is past the split nobody makes it again, and if
//     all nodes lost power at that moment nobody else has it. Where the parent's file is not, the split finds a
//     replica that is here. One that has left the group since, on the other nodes, is like any that was away for long.
//   - A replica that is born empty has a file and no group yet. Reconcile brings it.
//   - The log itself was lost. What the replica has promised is not known, and it is left alone.
//
// Only the first stands exactly where children begin. Nothing is removed: a file takes room, and no promise is in it.
func (h *held) orphan(id shard.RangeID) error {
	has, err := replica.HasFile(h.rs.repairs.dir, id)
	if err == nil && !has {
		err = replica.RemoveEmptyDir(h.rs.repairs.dir, id) // a copy was to be made there
	}
	if err != nil || !has || mutate.On(mutate.OrphanForgotten) {
		return err
	}
	d, pos, err := replica.Inspect(h.rs.repairs.dir, id)
	if err != nil {
		return err
	}
	self, here := d.ReplicaOn(h.rs.self)
	if !here || raftgroup.Position(pos) != raftgroup.BirthPosition() && !mutate.On(mutate.OrphanTrusted) {
		return nil
	}
	h.rs.log.Info("a range that was cut off before a crash begins now", "range", id.String())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.pending[id] = raftgroup.Replica{Group: id, ID: self.ID, State: raftgroup.ReplicaPresent}
	return nil
}

// openPending opens what is listed and not open yet. What nothing describes stays for another map.
func (h *held) openPending(m *shard.Map) error {
	h.mu.Lock()
	pending := make([]raftgroup.Replica, 0, len(h.mu.pending))
	for _, r := range h.mu.pending {
		pending = append(pending, r)
	}
	h.mu.Unlock()
	return several(pending, func(r raftgroup.Replica) error {
		err := h.alone(r.Group, func() error {
			if _, still := h.listed(r.Group); !still && r.ID != 0 { // it has been given up meanwhile
				return nil
			}
			return h.open(r, m)
		})
		if errors.Is(err, errNotKnownYet) {
			h.rs.log.Warn("a replica is not opened yet", "range", r.Group.String(), "error", err)
			h.mu.Lock()
			h.mu.unknown[r.Group] = true
			h.mu.Unlock()
			h.changed(r.Group)
			return nil
		}
		if err != nil {
			return fmt.Errorf("open %v: %w", r.Group, err)
		}
		h.gone(r.Group)
		return nil
	})
}

// open brings one that is listed.
func (h *held) open(r raftgroup.Replica, m *shard.Map) error {
	if h.here(r.Group) {
		return nil
	}
	d, known := shard.Descriptor{ID: r.Group}, false
	if m != nil {
		if in, ok := m.Get(r.Group); ok {
			d, known = in, true
		}
	}
	self := shard.Replica{ID: r.ID, Node: h.rs.self}
	if r.ID == 0 { // the log is older than such notes
		if self, known = d.ReplicaOn(h.rs.self); !known {
			return errNotKnownYet
		}
	}
	has, err := replica.HasFile(h.rs.repairs.dir, r.Group)
	switch {
	case err != nil:
		return err
	case !has && r.State == raftgroup.ReplicaWaiting:
		return h.rs.repairs.wait(d, self)
	case !has && !known:
		return errNotKnownYet
	}
	return h.rs.open(d, self, false)
}

// here reports whether a replica of the range is open, or waits for its state.
func (h *held) here(id shard.RangeID) bool {
	_, open := h.rs.get(id)
	return open || h.rs.repairs.isLost(id)
}

// isListed reports whether the log says that a replica is here which is not open yet, or one is about to be born.
func (h *held) isListed(id shard.RangeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, pending := h.mu.pending[id]
	return pending || h.mu.coming[id] && !mutate.On(mutate.BirthBeside)
}

// listed is the replica that the log lists and that is not open yet.
func (h *held) listed(id shard.RangeID) (shard.ReplicaID, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.mu.pending[id]
	return r.ID, r.ID != 0
}

// isComing reports whether the range's replica is about to be born.
func (h *held) isComing(id shard.RangeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.coming[id]
}

// unopened reports whether the log may list replicas that are not open yet.
func (h *held) unopened() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.mu.listed || len(h.mu.pending) > 0
}

// gone forgets what is listed of a replica that is open now, or has been removed.
func (h *held) gone(id shard.RangeID) {
	h.mu.Lock()
	h.unlistLocked(id)
	h.mu.Unlock()
	h.changed(id)
}

func (h *held) unlistLocked(id shard.RangeID) {
	delete(h.mu.pending, id)
	delete(h.mu.unknown, id)
}

// expects reports whether a replica is to be opened here, as far as the log says, or to be born. One that nothing describes has no state.
func (h *held) expects(id shard.RangeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, pending := h.mu.pending[id]
	return !h.mu.listed || pending && !h.mu.unknown[id] || h.mu.coming[id]
}

// await notes that a range waits for its right neighbour's replica.
func (h *held) await(right, left shard.RangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.awaited[right] = left
}

// changed wakes the range that waits for a replica: that is open now, or frozen, or is not to be here any more.
func (h *held) changed(id shard.RangeID) {
	h.mu.Lock()
	left, waits := h.mu.awaited[id]
	delete(h.mu.awaited, id)
	h.mu.Unlock()
	if waits {
		raftgroup.Retry(h.rs.host, left)
	}
}

// bornEmpty is the generation of a range that was never changed: its replicas begin with nothing.
const bornEmpty shard.Generation = 1

// begin brings a replica that a map places here and that the log says nothing of. Only one of a range that was never changed
// begins by that: others are born of another range, or wait for a member to speak to them.
func (h *held) begin(d shard.Descriptor, self shard.Replica, campaign bool) error {
	if d.Generation != bornEmpty && !mutate.On(mutate.StartByMap) || h.here(d.ID) || h.isListed(d.ID) {
		return nil
	}
	return h.alone(d.ID, func() error {
		st, log, err := h.log.Load(d.ID)
		if err != nil || h.here(d.ID) || log || st.Replica.State != raftgroup.ReplicaUnknown {
			return err
		}
		return h.rs.open(d, self, campaign)
	})
}

// wanted reports whether a child's replica is to be born here: not where it has a state, which has gone on since, and not where
// it has been given up (hazard 42). One that waits for its state is stopped: the birth gives it one, and term and vote are
// in the log (hazards 36, 44). From a true answer on nobody else brings the range here, until born is called.
func (h *held) wanted(ctx context.Context, id shard.RangeID, self shard.ReplicaID) bool {
	if _, open := h.rs.get(id); open {
		return false
	}
	err := h.alone(id, func() error {
		h.mu.Lock()
		_, pending := h.mu.pending[id]
		h.mu.Unlock()
		if pending {
			if has, err := replica.HasFile(h.rs.repairs.dir, id); has || err != nil {
				return fmt.Errorf("%w: its file is there", errors.Join(raftgroup.ErrReplicaHere, err))
			}
		}
		if err := h.rs.repairs.stopWaiting(ctx, id); err != nil {
			return err
		}
		if err := raftgroup.MayBeBorn(h.log, id, self); err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.unlistLocked(id)
		h.mu.coming[id] = true
		return nil
	})
	if err != nil {
		h.rs.log.Info("a replica is not made by the split of another range", "range", id.String(), "reason", err)
	}
	return err == nil
}

// born ends what wanted began.
func (h *held) born(id shard.RangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.coming, id)
}
