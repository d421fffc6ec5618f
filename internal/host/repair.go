package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/internal/patience"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// repairs looks after replicas whose store's file is damaged. Such a replica is quarantined: its group is stopped and its
// file set aside. It is opened again from what its Raft log still holds. Where that has been cut, its leader's state
// comes first; and a replica that has had none yet waits for one in the same way. The other replicas serve the range meanwhile. A range whose only replica is here is left alone: nobody
// has its state.
//
// A replica whose disk was full is opened again when there is space: its store writes nothing more, and the first entry that has to
// be in the file stops its group. Nothing is lost by it: what the file does not have is in the Raft log.
type repairs struct {
	rs       *ranges
	dir      string // of the replicas
	election time.Duration
	room     room

	count atomic.Int64 // damaged replicas found since the start

	mu struct {
		sync.Mutex
		lost  map[shard.RangeID]lostReplica
		queue []repair
	}
	wake chan struct{}
}

// lostReplica is a replica that is not served here at present. Of one that a crash had left nothing may be known but the id.
type lostReplica struct {
	desc    shard.Descriptor
	self    shard.Replica
	waiting bool // it has had no state yet
}

// repair is something to be done for a replica.
type repair struct {
	id       shard.RangeID
	why      error // it is damaged, or its disk was full; nil: a state has come
	full     bool
	replayed bool // it runs already, from its log alone
}

const (
	repairRetry   = time.Second
	repairPoll    = 20 * time.Millisecond
	catchUpAtMost = 30 * time.Second
)

func newRepairs(rs *ranges, dataDir string, election time.Duration) *repairs {
	r := &repairs{rs: rs, dir: filepath.Join(dataDir, "ranges"), election: election, wake: make(chan struct{}, 1)}
	r.room = room{r.dir, durable.Space}
	r.mu.lost = map[shard.RangeID]lostReplica{}
	return r
}

// damaged is told by a replica, or by the host, from anywhere. It does not block.
func (r *repairs) damaged(id shard.RangeID, why error) { r.push(repair{id: id, why: why}) }

// full is told of a store that could not be written for want of space, and whether that has stopped its group. It does not block.
func (r *repairs) full(id shard.RangeID, why error, stopped bool) {
	if stopped || r.room.again() && !r.isLost(id) {
		r.push(repair{id: id, why: why, full: true})
	}
}

func (r *repairs) push(rep repair) {
	r.mu.Lock()
	r.mu.queue = append(r.mu.queue, rep)
	r.mu.Unlock()
	patience.Wake(r.wake)
}

// isLost reports whether the range's replica on this node waits for its state.
func (r *repairs) isLost(id shard.RangeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, lost := r.mu.lost[id]
	return lost
}

// lostOf is what is known of a replica that waits for its state.
func (r *repairs) lostOf(id shard.RangeID) (lostReplica, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, lost := r.mu.lost[id]
	return l, lost
}

// newcomers counts the replicas that have had no state yet.
func (r *repairs) newcomers() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.mu.lost {
		if l.waiting {
			n++
		}
	}
	return n
}

func (r *repairs) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.lost)
}

// markLost makes a replica lost; false if it was already.
func (r *repairs) markLost(d shard.Descriptor, self shard.Replica) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, was := r.mu.lost[d.ID]
	r.mu.lost[d.ID] = lostReplica{desc: d, self: self}
	return !was
}

// run does what has to be done until ctx ends; ranges do not wait for one another.
func (r *repairs) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		r.mu.Lock()
		queue := r.mu.queue
		r.mu.queue = nil
		r.mu.Unlock()
		for _, rep := range queue {
			wg.Go(func() {
				switch {
				case rep.full:
					r.restart(ctx, rep.id, rep.why)
				case rep.why != nil:
					r.quarantine(ctx, rep.id, rep.why)
				case rep.replayed:
					r.finish(ctx, rep.id)
				default:
					r.reopen(ctx, rep.id)
				}
			})
		}
	}
}

// othersHave reports whether somebody else has the range's state, too.
func othersHave(d shard.Descriptor, self shard.Replica) bool {
	for _, rep := range d.Replicas {
		if rep.ID != self.ID && rep.Votes() {
			return true
		}
	}
	return false
}

// quarantine takes a damaged replica out of service, and starts it again without its file.
func (r *repairs) quarantine(ctx context.Context, id shard.RangeID, why error) {
	taken := false
	err := r.rs.held.alone(id, func() error {
		rep, ok := r.rs.get(id)
		if !ok {
			return nil // somebody has seen to it already
		}
		d := rep.Desc()
		self, member := d.Replica(rep.Self())
		if !member {
			r.rs.removals.push(id) // nobody needs it any more
			return nil
		}
		if !othersHave(d, self) {
			r.rs.log.Error("the only replica of a range is damaged: what can be read is served", "range", id.String(), "error", why)
			return nil
		}
		if !r.markLost(d, self) && !errors.Is(why, replica.ErrNoRight) {
			return nil
		}
		r.count.Add(1)
		r.rs.log.Error("a replica is damaged: it is stopped, and rebuilt from its peers", "range", id.String(), "error", why)
		if !r.takeOut(ctx, rep, d) {
			return nil
		}
		if err := r.setAside(id); err != nil {
			return err
		}
		if errors.Is(why, replica.ErrNoRight) && !mutate.On(mutate.MergeReplayed) { // its own log would lead to the same entry
			return r.requestState(d, self)
		}
		taken = true
		return nil
	})
	if err != nil {
		r.rs.log.Error("a replica cannot be rebuilt", "range", id.String(), "error", err)
		return
	}
	if taken && r.rebuild(ctx, id) {
		r.finish(ctx, id)
	}
}

// takeOut stops and closes a replica; false if the node stops before that.
func (r *repairs) takeOut(ctx context.Context, rep *replica.Replica, d shard.Descriptor) bool {
	r.handOver(ctx, rep, d)
	r.rs.forget(d.ID)
	r.rs.env.moved(d.ID)
	if !r.stopGroup(ctx, d.ID) {
		return false
	}
	if err := rep.Close(); err != nil {
		r.rs.log.Debug("closing a replica that has failed", "range", d.ID.String(), "error", err)
	}
	return true
}

// restart opens a replica again whose disk was full, as soon as it is not.
func (r *repairs) restart(ctx context.Context, id shard.RangeID, why error) {
	full, ok := r.rs.get(id)
	taken := false
	for ok && !taken && ctx.Err() == nil {
		_ = r.rs.held.alone(id, func() error {
			var rep *replica.Replica
			if rep, ok = r.rs.get(id); !ok || rep != full {
				ok = false // somebody has seen to it already
				return nil
			}
			d := rep.Desc()
			self, member := d.Replica(rep.Self())
			switch {
			case !member:
				r.rs.removals.push(id) // nobody needs it any more
				ok = false
			case r.markLost(d, self):
				r.rs.log.Warn("a replica whose disk was full is stopped, and opened again when there is space", "range", id.String(), "error", why)
				taken = r.takeOut(ctx, rep, d)
			}
			return nil
		})
		if ok && !taken { // it has only just been opened again
			pause(ctx, repairRetry)
		}
	}
	for taken && !r.room.again() && ctx.Err() == nil && r.isLost(id) {
		pause(ctx, repairRetry)
	}
	if taken && ctx.Err() == nil && r.rebuild(ctx, id) {
		r.finish(ctx, id)
	}
}

func (r *repairs) setAside(id shard.RangeID) error {
	name, err := replica.SetAside(r.dir, id)
	if err == nil {
		r.rs.log.Warn("a damaged file has been set aside", "range", id.String(), "file", name)
	}
	return err
}

// handOver lets another replica lead, if this one does, so that nobody waits for an election
// timeout. It gives up after one: then the group is stopped as if the node had died.
func (r *repairs) handOver(ctx context.Context, rep *replica.Replica, d shard.Descriptor) {
	st, ok := r.rs.host.Status(d.ID)
	if !ok || !st.IsLeader {
		return
	}
	if to := r.rs.env.successor(d); to != 0 {
		r.rs.host.TransferLeader(d.ID, to)
	}
	ctx, cancel := context.WithTimeout(ctx, r.election)
	defer cancel()
	_ = r.rs.awaitNotLeading(ctx, rep)
}

// stopGroup stops the range's group and waits until nothing of it is under way; false if the node
// stops before that.
func (r *repairs) stopGroup(ctx context.Context, id shard.RangeID) bool {
	done := make(chan struct{})
	if err := r.rs.host.StopGroup(id, func() { close(done) }); err != nil {
		return true // it is not there
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// reopen serves a replica again whose state has come.
func (r *repairs) reopen(ctx context.Context, id shard.RangeID) {
	if r.rebuild(ctx, id) {
		r.finish(ctx, id)
	}
}

// rebuild opens a lost replica, and tries until it can. One that has no state after that goes on waiting for it, and is not here; nor is one
// that its range gives up meanwhile.
func (r *repairs) rebuild(ctx context.Context, id shard.RangeID) (here bool) {
	for ctx.Err() == nil {
		err := r.rs.held.alone(id, func() (err error) {
			l, lost := r.lostOf(id)
			if _, open := r.rs.get(id); open || !lost || !r.stopGroup(ctx, id) {
				return nil
			}
			here, err = r.rs.addReplica(l.desc, l.self, beginning{})
			return err
		})
		if errors.Is(err, raftgroup.ErrReplicaRemoved) {
			r.unmark(id)
			return false
		}
		if err == nil {
			return here
		}
		r.rs.log.Error("a replica could not be started again", "range", id.String(), "error", err)
		pause(ctx, repairRetry)
	}
	return false
}

// finish ends a repair, once the replica has caught up.
func (r *repairs) finish(ctx context.Context, id shard.RangeID) {
	rep, ok := r.rs.get(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUpAtMost)
	defer cancel()
	_ = r.rs.awaitLeader(ctx, id)
	r.catchUp(ctx, rep) // one that does not is of use all the same
	_ = r.rs.held.alone(id, func() error {
		if now, _ := r.rs.get(id); now != rep { // it has been given up meanwhile, and another one may wait here by now
			return nil
		}
		r.unmark(id)
		r.rs.env.moved(id)
		r.rs.log.Info("a replica has been rebuilt", "range", id.String(), "index", rep.AppliedIndex())
		return nil
	})
}

// requestState adds the group of a replica that has no state, or too old a one.
func (r *repairs) requestState(d shard.Descriptor, self shard.Replica) error {
	r.markLost(d, self)
	r.rs.log.Warn("a replica has no state of its own and asks its leader for it", "range", d.ID.String())
	sm := replica.NewRebuilder(r.dir, d.ID, func() { r.push(repair{id: d.ID}) })
	err := r.rs.host.AddGroup(raftgroup.GroupConfig{ID: d.ID, Replica: self.ID, Peers: peersOf(d, self), SM: r.rs.env.watch(d.ID, sm), Lost: true})
	r.rs.removals.arrived(d.ID)
	return err
}

// wait adds the group of a replica that has had no state yet: it votes, and gets its state from a leader that adds it. It is
// noted as one that waits, and waits again after a restart. Where it may not be here nothing has changed.
func (r *repairs) wait(d shard.Descriptor, self shard.Replica) error {
	if err := os.MkdirAll(filepath.Join(r.dir, d.ID.String()), 0o700); err != nil {
		return err
	}
	r.mu.Lock()
	r.mu.lost[d.ID] = lostReplica{desc: d, self: self, waiting: true}
	r.mu.Unlock()
	sm := replica.NewRebuilder(r.dir, d.ID, func() { r.push(repair{id: d.ID}) })
	err := r.rs.host.AddGroup(raftgroup.GroupConfig{ID: d.ID, Replica: self.ID, SM: r.rs.env.watch(d.ID, sm), Waiting: true, Lost: true})
	if err != nil {
		r.unmark(d.ID)
		return errors.Join(err, replica.RemoveEmptyDir(r.dir, d.ID))
	}
	r.rs.log.Info("a replica waits for its state", "range", d.ID.String(), "replica", uint64(self.ID))
	r.rs.removals.arrived(d.ID)
	return nil
}

func (r *repairs) unmark(id shard.RangeID) {
	r.mu.Lock()
	delete(r.mu.lost, id)
	r.mu.Unlock()
	r.rs.held.changed(id)
}

// stopWaiting stops a replica that waits for its state, if one does. If its state has come meanwhile, it is opened.
func (r *repairs) stopWaiting(ctx context.Context, id shard.RangeID) error {
	r.mu.Lock()
	l, lost := r.mu.lost[id]
	r.mu.Unlock()
	switch {
	case !lost:
		return nil
	case !l.waiting:
		return fmt.Errorf("%w: its state is fetched", raftgroup.ErrReplicaHere)
	case !r.stopGroup(ctx, id):
		return ctx.Err()
	}
	has, err := replica.HasFile(r.dir, id)
	if err != nil || has {
		r.push(repair{id: id})
		return fmt.Errorf("%w: its state has come", errors.Join(raftgroup.ErrReplicaHere, err))
	}
	r.unmark(id)
	return nil
}

// overlaps reports whether a replica that is not served for now has had keys of a span.
func (r *repairs) overlaps(span shard.Span) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.mu.lost {
		if !l.waiting && (l.desc.Generation == 0 || l.desc.Span.Overlaps(span)) {
			return true
		}
	}
	return false
}

// openWhole opens a replica; one whose file is damaged is opened empty, where others have its state.
func (r *repairs) openWhole(d shard.Descriptor, self shard.Replica, closed int64) (*replica.Replica, error) {
	rep, err := r.rs.env.open(atBirth(d), self, closed)
	if !errors.Is(err, mvcc.ErrDamaged) {
		return rep, err
	}
	if d.Generation == 0 {
		return nil, fmt.Errorf("%w: %w", errNotKnownYet, err)
	}
	if !othersHave(d, self) {
		return nil, fmt.Errorf("%w: this is the only replica of %v, nothing to rebuild it from", err, d.ID)
	}
	r.count.Add(1)
	r.rs.log.Error("a replica is damaged: it is rebuilt from its peers", "range", d.ID.String(), "error", err)
	r.markLost(d, self)
	if err := r.setAside(d.ID); err != nil {
		return nil, err
	}
	return r.rs.env.open(atBirth(d), self, closed)
}

// catchUp waits until the replica has applied what it knows to be committed. Of that there is no event: it rises with
// each message, and a repair is rare.
func (r *repairs) catchUp(ctx context.Context, rep *replica.Replica) {
	tick := time.NewTicker(repairPoll)
	defer tick.Stop()
	for ctx.Err() == nil {
		if st, ok := r.rs.host.Status(rep.ID()); !ok || st.Leader != 0 && rep.AppliedIndex() >= st.Commit {
			return
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
