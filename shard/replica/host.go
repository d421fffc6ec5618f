package replica

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/lead"
)

// ---- raftgroup.StateMachine

// Apply takes committed entries.
func (r *Replica) Apply(ents []raftgroup.Entry) error {
	m, st := r.mu.m, r.store.Store
	advanced := false
	for _, ent := range ents {
		d, err := m.Decide(apply.Entry{Index: ent.Index, Term: ent.Term, Data: ent.Data, Context: ent.Context})
		if err != nil {
			return r.finishApply(advanced, err)
		}
		var right *Replica
		if d.Merge != nil {
			if right, err = r.partner(d.Merge, ent.Index); err != nil {
				return r.finishApply(advanced, err)
			}
		}
		r.load.applied(len(ent.Data), d)
		var birth *Birth
		if d.Cut != nil {
			if birth, err = r.makeChild(d); err != nil {
				return r.finishApply(advanced, err)
			}
		}
		if d.Prepare != nil { // before the store can settle past it
			st.SetFloor(min(m.EffectiveFloor(), d.Prepare.Effective))
		}
		if d.Cut != nil {
			r.announce(d.Cut)
		}
		if d.Merge != nil {
			if err := r.unite(d, right); err != nil {
				return r.finishApply(advanced, err)
			}
			st, advanced = r.store.Store, true
			continue
		}
		evs, err := st.Apply(d.Change)
		if err != nil {
			return r.finishApply(advanced, fmt.Errorf("%v: entry %d: %w", r.cfg.Desc.ID, ent.Index, err))
		}
		r.unflushed += len(ent.Data)
		if d.Cut != nil || d.Freezes || d.Moved != nil { // of a move: a crash must not take back what the replica that left has gone by
			if err := r.pastCut(); err != nil {
				return r.finishApply(advanced, err)
			}
		}
		r.mu.Lock()
		closed, locks, gen := m.Closed, len(m.Prepared), m.Desc.Generation
		m.Commit(d)
		r.holdEventsLocked(r.mu.feed.Add(evs, m.EffectiveFloor()))
		if d.Reshaped() {
			r.reshapedLocked(d, gen, birth)
		}
		if r.applyClosedMarksLocked() || m.Closed != closed || len(m.Prepared) != locks {
			advanced = true
		}
		r.publishLocked()
		r.notifyCoresLocked(d)
		if birth != nil {
			r.bearLocked(birth)
		} else {
			r.mu.Unlock()
		}
		r.reshaped(d)
		if d.Resolved != nil {
			st.SetFloor(m.EffectiveFloor())
		}
	}
	return r.finishApply(advanced, nil)
}

// holdEventsLocked keeps an entry's events for the next item of the feed. It is called under the lock that
// commits the entry, so whatever closes a revision later publishes these first.
func (c *closedTracker) holdEventsLocked(events []*shard.Event, gap bool) {
	if c.r.mu.nextItem.Events == nil {
		c.r.mu.nextItem.Events = events
	} else {
		c.r.mu.nextItem.Events = append(c.r.mu.nextItem.Events, events...)
	}
	c.r.mu.nextItem.Gap = c.r.mu.nextItem.Gap || gap
}

// notifyCoresLocked passes an applied entry to the leader core and to past terms.
func (r *Replica) notifyCoresLocked(d *apply.Decision) {
	for _, p := range r.mu.pastTerms {
		p.Applied(d)
		if d.Change.Pos.Term > p.Term {
			p.Proposals.FailOpenProposals(false)
		}
	}
	if r.mu.lead != nil {
		r.mu.lead.Applied(d)
	}
}

func (r *Replica) finishApply(advanced bool, err error) error {
	r.mu.Lock()
	if advanced || len(r.mu.nextItem.Events) > 0 || r.mu.nextItem.Gap {
		r.publishItemLocked(false)
	}
	r.fireIndexWaitsLocked()
	awaited := len(r.mu.physicalWaits) > 0
	r.pumpLocked()
	if err != nil {
		return err
	}
	if awaited { // the deletion may have waited for what was applied
		r.cfg.Wake(r.cfg.Desc.ID, true)
	}
	return r.relieveMemory()
}

// unflushedMax bounds the bytes that are applied while a requested flush is due. Beyond it the worker itself
// flushes.
const unflushedMax = 32 << 20

// settleBudget is how many versions the worker settles before it goes on, where memory is short.
const settleBudget = 1000

func (x *maintenance) relieveMemory() error {
	m := x.r.store.Maintenance()
	flush, pressed := m.NeedsFlush(), m.Pressed()
	if flush || x.r.cfg.Store.Memory.Excess() > 0 {
		x.r.cfg.Wake(x.r.cfg.Desc.ID, false)
	}
	if flush && (pressed || x.r.unflushed >= unflushedMax) {
		x.r.unflushed = 0
		if err := m.Flush(); err != nil {
			return err
		}
	}
	if !pressed {
		return nil
	}
	_, err := m.Maintain(settleBudget)
	return err
}

// Applied is the position that the state has.
func (r *Replica) Applied() (index, term uint64) {
	pos := r.store.Position()
	return pos.Index, pos.Term
}

// Durable is the position that a crash would leave.
func (r *Replica) Durable() uint64 { return r.store.DurablePosition().Index }

// SnapshotTo writes the state.
func (r *Replica) SnapshotTo(w io.Writer) error {
	ref, err := r.stores.acquire()
	if err != nil {
		return err
	}
	defer r.stores.release(ref)
	_, err = ref.WriteSnapshot(w)
	return err
}

const snapshotPrefix = "incoming-"

// replicaSnapshot is a snapshot that has been received for a replica.
type replicaSnapshot struct {
	*snapshotFile
	r *Replica
}

// Receive stages a snapshot beside the store.
func (r *Replica) Receive(rd io.Reader) (raftgroup.Staged, error) {
	f, err := receiveFile(r.dir, r.cfg.Desc.ID, rd)
	if err != nil {
		return nil, err
	}
	return &replicaSnapshot{f, r}, nil
}

// Install makes the snapshot the replica's state. The file durably replaces the store's before it is visible.
// Readers of the old store finish there.
func (s *replicaSnapshot) Install() error {
	r := s.r
	if pos := r.store.Position(); s.pos.Index <= pos.Index {
		return fmt.Errorf("%v: %w: snapshot at %d over state at %d", r.cfg.Desc.ID, shard.ErrInvalid, s.pos.Index, pos.Index)
	}
	r.store.Maintenance().Replaced()
	if err := durable.Rename(s.path, filepath.Join(r.dir, storeFile)); err != nil {
		return fmt.Errorf("%v: install snapshot: %w", r.cfg.Desc.ID, err)
	}
	s.Discard()
	st, m, err := r.openStore()
	if err != nil {
		return err
	}
	r.swapState(st, m)
	r.changed()
	r.copies.drop() // of the state before, also one that began a moment ago
	return nil
}

func (r *Replica) swapState(st *mvcc.Store, m *apply.Machine) {
	next := newStoreRef(st, m.Known())
	defer r.stores.replace(next, r.cfg.Logger.With("range", r.cfg.Desc.ID))() // readers find the new store before its index is published
	r.mu.Lock()
	r.endTermLocked()
	for _, p := range r.mu.pastTerms {
		p.Proposals.FailOpenProposals(true)
	}
	m.Closed = max(m.Closed, min(r.mu.m.Closed, m.EffectiveFloor()))
	r.mu.m = m
	r.mu.feed = apply.NewFeed(m)
	r.applyClosedMarksLocked()
	r.store, r.unflushed = next, 0
	r.publishLocked()
	r.publishItemLocked(true)
	r.fireIndexWaitsLocked()
	r.pumpLocked()
}

// ---- raftgroup.Observer

// LeaderChanged follows the group's leadership.
func (r *Replica) LeaderChanged(l raftgroup.Leadership) {
	r.mu.Lock()
	r.mu.role = l
	if r.mu.lead != nil && (!l.IsLeader || r.mu.lead.Term != l.Term) {
		r.endTermLocked()
	}
	if l.IsLeader {
		r.startTermLocked(l.Term)
	}
	r.fireLeaderWaitsLocked(nil)
	r.pumpLocked()
}

// OwnTermApplied lets the leader serve.
func (r *Replica) OwnTermApplied(term uint64) {
	r.mu.Lock()
	r.startTermLocked(term)
	if r.mu.lead != nil {
		r.mu.lead.OwnTermApplied()
		r.leading.Store(term)
	}
	r.pumpLocked()
}

func (r *Replica) startTermLocked(term uint64) {
	if r.mu.closed || r.mu.lead != nil && r.mu.lead.Term >= term {
		return
	}
	r.endTermLocked()
	if mutate.On(mutate.LockLost) {
		r.mu.m.Prepared = nil
	}
	r.mu.lead = lead.NewLeader(r.cfg.limits(), r.mu.m, r.base(r.store.Store), term)
	r.mu.lead.Coordinations.Stats = r.cfg.TxnStats
}

// endTermLocked ends this replica's term. Its proposals are still waited for.
func (r *Replica) endTermLocked() {
	r.leading.Store(0)
	if r.mu.lead == nil {
		return
	}
	r.mu.lead.Depose()
	r.mu.pastTerms = append(slices.Clone(r.mu.pastTerms), r.mu.lead)
	r.mu.lead = nil
}

// ---- maintenance

// ofMaintenance calls read with the store's maintenance. It returns zero once the store is closed.
func ofMaintenance[T any](r *Replica, read func(*mvcc.Maintenance) T) (v T) {
	ref, err := r.stores.acquire()
	if err != nil {
		return v
	}
	defer r.stores.release(ref)
	return read(ref.Maintenance())
}

// NeedsFlush reports whether the store's buffer wants to be written.
func (x *maintenance) NeedsFlush() bool { return ofMaintenance(x.r, (*mvcc.Maintenance).NeedsFlush) }

// Flush writes the store's buffer.
func (x *maintenance) Flush() error {
	ref, err := x.r.stores.acquire()
	if err != nil {
		return err
	}
	defer x.r.stores.release(ref)
	return ref.Maintenance().Flush()
}

// Unsettled is what the store holds in memory until it settles, in bytes.
func (x *maintenance) Unsettled() int64 { return ofMaintenance(x.r, (*mvcc.Maintenance).Unsettled) }

// RequestSettle makes the next calls of Maintain settle.
func (x *maintenance) RequestSettle() {
	if ref, err := x.r.stores.acquire(); err == nil {
		defer x.r.stores.release(ref)
		ref.Maintenance().RequestSettle()
	}
}

// Scrub verifies the next part of what the store's file held when it was opened. more says
// that there is something left.
func (x *maintenance) Scrub() (more bool, err error) {
	ref, err := x.r.stores.acquire()
	if err != nil {
		return false, err
	}
	defer x.r.stores.release(ref)
	return ref.Maintenance().Scrub()
}

// Maintain does one bounded step of what the store has to do beside its writes: a flush, settling,
// or removing what was compacted. more says that another step is due.
func (x *maintenance) Maintain(budget int) (more bool, err error) {
	ref, err := x.r.stores.acquire()
	if err != nil {
		return false, err
	}
	defer x.r.stores.release(ref)
	m := ref.Maintenance()
	if m.NeedsFlush() {
		if err := m.Flush(); err != nil {
			return false, err
		}
	}
	more, err = m.Maintain(budget)
	x.firePhysical()
	return more, err
}

// TrimPending reports whether keys that were cut off are still in the store's file. If Maintain has nothing to do, a reader
// from before the cut still uses them.
func (x *maintenance) TrimPending() bool { return ofMaintenance(x.r, (*mvcc.Maintenance).TrimPending) }

// CompactPending reports whether compacted versions are still in the store's file. If Maintain has nothing to do,
// a reader still uses them.
func (x *maintenance) CompactPending() bool {
	return ofMaintenance(x.r, (*mvcc.Maintenance).CompactPending)
}

// Compacted is the revision up to which history is forgotten here, and whether versions that this has forgotten are still in the store's file.
func (x *maintenance) Compacted() (rev int64, pending bool) {
	ref, err := x.r.stores.acquire()
	if err != nil {
		return 0, false
	}
	defer x.r.stores.release(ref)
	return ref.CompactRevision(), ref.Maintenance().CompactPending()
}

// Awaited reports whether a physical compaction waits for compacted versions to be removed.
func (x *maintenance) Awaited() bool {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	return len(x.r.mu.physicalWaits) > 0
}

// firePhysical answers the physical compactions whose versions have been removed. It reports whether some still wait.
func (x *maintenance) firePhysical() (awaited bool) {
	if !x.Awaited() {
		return false
	}
	ref, err := x.r.stores.acquire()
	if err != nil {
		return false
	}
	x.r.mu.Lock()
	if ref.Maintenance().CompactPending() { // read under the lock, under which waits are added
		awaited = len(x.r.mu.physicalWaits) > 0
		x.r.mu.Unlock()
		x.r.stores.release(ref)
		return awaited
	}
	waits, m := x.r.mu.physicalWaits, x.r.mu.m
	x.r.mu.physicalWaits = nil
	for _, w := range waits {
		var err error
		if !m.HoldsSpan(w.span) { // a part was cut off, and has a file of its own
			err = m.WrongRange()
		}
		x.r.mu.queue.calls = append(x.r.mu.queue.calls, func() { w.done(err) })
	}
	x.r.stores.release(ref)
	x.r.pumpLocked()
	return false
}
