package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/tuning/linger"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// copiesAtOnce bounds the copies that ranges make before they are cut: each takes up to half of a core.
const copiesAtOnce = 2

// opensAtOnce is how many replicas are opened at a time: each file is verified, which takes the
// processor and the disk in turn.
const opensAtOnce = 4

// ranges is the set of replicas that this node holds. It opens those that the range map
// places here, and gives their stores time for flushes, settling and compaction.
type ranges struct {
	self   shard.NodeID
	memory *mvcc.Memory
	host   *raftgroup.Host
	log    *slog.Logger
	env    rangesEnv

	byID shard.Table[*replica.Replica]

	txns    replica.TxnStats
	copying chan struct{}  // how many copies of parts are made at a time
	linger  *linger.Linger // beats on which the replicas close their batches

	repairs   *repairs
	held      *held
	births    *births
	newcomers *newcomers
	removals  *removals

	defragmenter *defragmenter

	openMu sync.Mutex // one reconcile at a time

	closed  waiters // woken when some replica's closed revision rises
	leaders waiters // woken when some group, meta's included, has another leader, or a replica is not served any more

	scheduler *scheduler

	opened openedFiles
}

// rangesEnv is what the replicas need of the node.
type rangesEnv struct {
	linger    *linger.Linger
	log       raftgroup.Log
	meta      *metaGroup
	present   func(shard.RangeID) (shard.Descriptor, bool) // as the newest map has it, the meta group too
	displaced func(shard.Descriptor) bool                  // whether others have the range's place in that map
	open      func(d shard.Descriptor, self shard.Replica, closed int64) (*replica.Replica, error)
	successor func(shard.Descriptor) shard.ReplicaID // who is to lead instead of this node; 0: nobody
	moved     func(shard.RangeID)                    // a range has left this node, or is back
	refresh   func(context.Context) error            // fetches the newest map
	born      func(shard.RangeID)                    // a range comes into being here, by another that was cut
	// watch returns a state machine that is counted.
	watch func(shard.RangeID, raftgroup.StateMachine) raftgroup.StateMachine
}

func newRanges(self shard.NodeID, memory *mvcc.Memory, host *raftgroup.Host, log *slog.Logger, dataDir string, election time.Duration, env rangesEnv) *ranges {
	rs := &ranges{self: self, memory: memory, host: host, log: log, env: env, linger: env.linger, scheduler: newScheduler(log), copying: make(chan struct{}, copiesAtOnce)}
	rs.repairs = newRepairs(rs, dataDir, election)
	rs.held = newHeld(rs, env.log)
	rs.births = newBirths(rs)
	rs.newcomers = newNewcomers(rs, env.meta, env.present, env.refresh)
	rs.removals = newRemovals(rs, env.meta, env.refresh)
	return rs
}

// get returns the local replica of a range.
func (rs *ranges) get(id shard.RangeID) (*replica.Replica, bool) {
	return rs.byID.Get(id)
}

func (rs *ranges) each(visit func(*replica.Replica)) {
	for _, rep := range rs.byID.Values() {
		visit(rep)
	}
}

// compactions visits what each replica says of the last compaction.
func (rs *ranges) compactions(visit func(rev int64, pending bool)) {
	rs.each(func(rep *replica.Replica) { visit(rep.Compacted()) })
}

// reconcile opens what the log lists and could not be opened before, and begins every replica that the map places on this node
// and that was never here, of ranges that were never changed: see held. Of ranges that are in
// done as they are in m it has been done; nil: of none. Nothing is closed or changed by a map.
// campaign says that the cluster is being bootstrapped: then leaders are spread by letting a
// different replica of each range campaign first.
func (rs *ranges) reconcile(done, m *shard.Map, campaign bool) error {
	rs.openMu.Lock()
	defer rs.openMu.Unlock()
	listed := rs.held.start(m)
	var begun []shard.Descriptor
	placed := m.All()
	if done != nil {
		changed, gone := m.Changes(done)
		rs.removals.vanished(gone)
		placed = slices.Values(changed)
	}
	for d := range placed {
		rs.removals.changed(d)
		if _, here := d.ReplicaOn(rs.self); here && !rs.held.here(d.ID) {
			begun = append(begun, d)
		}
	}
	return errors.Join(listed, several(begun, func(d shard.Descriptor) error {
		self, _ := d.ReplicaOn(rs.self)
		if err := rs.held.begin(d, self, campaign && preferred(d) == self.ID); err != nil {
			return fmt.Errorf("open %v: %w", d.ID, err)
		}
		return nil
	}))
}

// start opens what the log lists, as far as it is known what that is. A map of a former life may say it where a file does
// not; nil: there is none.
func (rs *ranges) start(saved *shard.Map) error {
	rs.openMu.Lock()
	defer rs.openMu.Unlock()
	return rs.held.start(saved)
}

// several opens replicas, opensAtOnce at a time. It goes on after an error.
func several[T any](of []T, open func(T) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	slots := make(chan struct{}, opensAtOnce)
	for _, o := range of {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := open(o); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// open opens a replica that is to be here.
func (rs *ranges) open(d shard.Descriptor, self shard.Replica, campaign bool) error {
	here, err := rs.addReplica(d, self, beginning{campaign: campaign})
	if err == nil && here && rs.repairs.isLost(d.ID) {
		rs.repairs.push(repair{id: d.ID, replayed: true})
	}
	return err
}

// preferred is the replica that should lead a new range first: the planner lists it first.
func preferred(d shard.Descriptor) shard.ReplicaID {
	if len(d.Replicas) == 0 {
		return 0
	}
	return d.Replicas[0].ID
}

// beginning is how a replica comes to be open.
type beginning struct {
	campaign bool  // it should lead first
	born     bool  // its state has just been made of another range's
	closed   int64 // where it was born: what is final in it
	load     *replica.LoadPart
}

// atBirth is what a file is told that does not say itself what its range is. It has seen no change: a later descriptor of
// the map's is no help to it, for the changes would be applied once more.
func atBirth(d shard.Descriptor) shard.Descriptor {
	if d.Generation != bornEmpty {
		return shard.Descriptor{ID: d.ID}
	}
	return d
}

// addReplica opens a replica and adds its group. d is what a map says of the range, or what it is born as; often the id is all
// that is known, and its file says the rest. here is false where the replica has no state and waits for one.
func (rs *ranges) addReplica(d shard.Descriptor, self shard.Replica, how beginning) (here bool, err error) {
	rep, err := rs.repairs.openWhole(d, self, how.closed)
	if err != nil {
		return false, rs.unopened(d, self, err)
	}
	own := rep.Desc()
	rep.Inherit(how.load)
	rs.byID.Put(d.ID, rep)
	err = rs.host.AddGroup(raftgroup.GroupConfig{
		ID: d.ID, Replica: self.ID, Peers: peersOf(own, self), Learners: learnersOf(own), SM: rs.env.watch(d.ID, rep),
		Members:  func() map[shard.ReplicaID]shard.NodeID { d := rep.Desc(); return d.Places() },
		Observer: leaderObserver{rep, &rs.leaders}, CampaignNow: how.campaign, Born: how.born,
	})
	if err == nil {
		rs.opened.add(d.ID)
		is := rep.Shape()
		if _, member := is.Desc.Replica(self.ID); !member || is.Frozen != nil { // a crash came before it was removed
			rs.removals.push(d.ID)
		}
		rs.removals.arrived(d.ID)
		rs.held.changed(d.ID)
		if rep.TrimPending() { // a former life has not come to its end
			rs.scheduler.touchLater(d.ID, false)
		}
		return true, nil
	}
	rs.forget(d.ID)
	if cerr := rep.Close(); cerr != nil {
		return false, errors.Join(err, cerr)
	}
	if errors.Is(err, raftgroup.ErrStateBehind) && othersHave(own, self) {
		return false, rs.repairs.requestState(own, self)
	}
	return false, err
}

// unopened sees to a replica that could not be opened. A file that does not say what its range is, where the range has changed since,
// is of no use: the state is fetched.
func (rs *ranges) unopened(d shard.Descriptor, self shard.Replica, why error) error {
	if atBirth(d).Generation != 0 || !errors.Is(why, shard.ErrCorrupt) || errors.Is(why, mvcc.ErrDamaged) {
		return why
	}
	if says, _, err := replica.Inspect(rs.repairs.dir, d.ID); err != nil || says.Generation != 0 {
		return why
	}
	if d.Generation == 0 {
		return errNotKnownYet
	}
	if !othersHave(d, self) {
		return why
	}
	return rs.repairs.requestState(d, self)
}

// forget takes a replica out of what is served here.
func (rs *ranges) forget(id shard.RangeID) {
	rs.byID.Delete(id)
	rs.leaders.wake()
}

// leaderObserver wakes those who wait for a leader, once the replica knows of it.
type leaderObserver struct {
	raftgroup.Observer
	leaders *waiters
}

// LeaderChanged implements raftgroup.Observer.
func (o leaderObserver) LeaderChanged(l raftgroup.Leadership) {
	o.Observer.LeaderChanged(l)
	o.leaders.wake()
}

// awaitLeader waits until the range has a leader, or is not served here.
func (rs *ranges) awaitLeader(ctx context.Context, id shard.RangeID) error {
	return rs.leaders.until(ctx, func() bool {
		_, here := rs.get(id)
		st, ok := rs.host.Status(id)
		return !here || !ok || st.Leader != 0
	})
}

// awaitNotLeading waits until the replica leads no more.
func (rs *ranges) awaitNotLeading(ctx context.Context, rep *replica.Replica) error {
	return rs.leaders.until(ctx, func() bool {
		_, here := rs.get(rep.ID())
		st, ok := rs.host.Status(rep.ID())
		return !here || !ok || !st.IsLeader
	})
}

// pause waits, but not for longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// scrubPause is how long replicas that were opened are left to their work before their files are
// scrubbed, and scrubShare how much of the time that may take then.
const (
	scrubPause = 5 * time.Second
	scrubShare = 4 // one part in so many
)

// openedFiles are the ranges whose files are to be scrubbed: at most as many as there are here. Safe for concurrent use.
type openedFiles struct {
	mu  sync.Mutex
	ids []shard.RangeID
}

func (o *openedFiles) add(id shard.RangeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids = append(o.ids, id)
}

// take returns them, and forgets them.
func (o *openedFiles) take() []shard.RangeID {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.ids
	o.ids = nil
	return ids
}

// scrub verifies the files of replicas in the background: what a read or a write needs is
// verified by itself before.
func (rs *ranges) scrub(ctx context.Context) {
	pause := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	for pause(scrubPause) {
		for _, id := range rs.opened.take() {
			for more := true; more; {
				rep, ok := rs.get(id)
				if !ok {
					break
				}
				began := time.Now()
				if more, _ = rep.Scrub(); more && !pause((scrubShare-1)*time.Since(began)) { // damage is told to repairs
					return
				}
			}
		}
	}
}

// settleLargest sees that the stores come down to the node's limit of unsettled versions: those that
// hold the most settle first, since what costs is the pages of the base that are written, and the more
// is settled at a time the fewer these are.
func (rs *ranges) settleLargest() {
	excess := rs.memory.Excess()
	if excess == 0 {
		return
	}
	var all []holding
	rs.each(func(rep *replica.Replica) { all = append(all, holding{rep.ID(), rep.Unsettled()}) })
	for _, id := range largest(all, excess) {
		if rep, ok := rs.get(id); ok {
			rep.RequestSettle()
			rs.touched(id)
		}
	}
}

// holding is how many bytes a replica's store holds unsettled.
type holding struct {
	id    shard.RangeID
	bytes int64
}

// largest picks the fewest holdings that make up excess.
func largest(all []holding, excess int64) (ids []shard.RangeID) {
	slices.SortFunc(all, func(a, b holding) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.id, b.id))
	})
	for _, h := range all {
		if excess <= 0 || h.bytes == 0 {
			break
		}
		ids = append(ids, h.id)
		excess -= h.bytes
	}
	return ids
}

// close stops serving and flushes every store, several at a time.
func (rs *ranges) close() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	rs.each(func(rep *replica.Replica) {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			if err := rep.Close(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("close %v: %w", rep.ID(), err))
				mu.Unlock()
			}
		}()
	})
	wg.Wait()
	return errors.Join(errs...)
}

// sizes adds up the replicas.
// takenAtLeast is what a node takes whose ranges are empty: etcdctl divides by it.
var takenAtLeast = int64(os.Getpagesize())

// takenBy is how many bytes the replicas of a node take.
func takenBy(rs *ranges) int64 {
	sum := takenAtLeast
	rs.each(func(rep *replica.Replica) { sum += rep.Taken() })
	return sum
}

func (rs *ranges) sizes() backend.Sizes {
	t := backend.Sizes{Taken: takenAtLeast}
	rs.each(func(rep *replica.Replica) {
		st := rep.Status()
		t.File += st.Size
		t.InUse += st.SizeInUse
		t.Taken += rep.Taken()
		t.Keys += st.Keys
		if _, ok := rep.Leading(); ok {
			t.Leading++
		}
		if st.Quiescent {
			t.Quiescent++
		}
	})
	return t
}
