package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/counts"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/lead"
)

var (
	_ raftgroup.StateMachine = (*Replica)(nil)
	_ raftgroup.Observer     = (*Replica)(nil)
)

// Replica is a node's copy of a range. Safe for concurrent use, except for the methods of
// raftgroup.StateMachine and raftgroup.Observer, which their host serializes.
type Replica struct {
	cfg Config
	storage
	published
	lifetime

	leaderCalls
	reads
	closedTracker
	maintenance
	pump
	transactions
	cuts

	mu struct {
		sync.Mutex
		m         *apply.Machine
		lead      *lead.Leader   // nil: not the leader
		pastTerms []*lead.Leader // ended terms with open proposals
		role      raftgroup.Leadership
		closed    bool
		waiting
		feedState
		queue actionQueue
	}
}

// storage is the replica's store.
type storage struct {
	dir       string
	stores    storeRefs
	store     *storeRef                   // of the worker
	base      func(*mvcc.Store) lead.Base // the store as leaders read it; a test may hold it
	unflushed int                         // bytes applied since the last flush that was asked for; the worker's
}

// published is what is read without the mutex.
type published struct {
	desc      atomic.Pointer[shard.Descriptor]
	index     atomic.Uint64 // applied
	final     atomic.Int64
	untouched atomic.Bool
	leading   atomic.Uint64 // the term, once it is led and an entry of it has applied
	load      load
}

// lifetime bounds the goroutines that Close waits for.
type lifetime struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// actionQueue is what waits for the goroutine that pumps.
type actionQueue struct {
	calls      []func()      // to be called, in order
	spareCalls []func()      // empty: room for the next pump
	spareActs  []lead.Action // empty: room for the next pump
	pumping    bool
}

// waiting are the calls that wait for an index or for the file.
type waiting struct {
	indexWaits []*indexWait
	// indexWaitBytes is the size of their requests.
	indexWaitBytes int
	physicalWaits  []physicalWait
	leaderWaits    []func(raftgroup.Leadership, error) // until a leader is known
	tickArmed      bool                                // a tick is scheduled
}

// feedState is the feed of events, and how far it is closed.
type feedState struct {
	closedMarks []closedMark
	feed        apply.Feed
	nextItem    shard.FeedItem // events and gap of the next item
}

// The parts of a Replica share its mutex and its state.
type (
	// leaderCalls serves the calls that only the leader takes.
	leaderCalls struct{ r *Replica }
	// reads serves what any replica may read, once it has applied an index.
	reads struct {
		pins
		r          *Replica
		pointReads readQueue[fencedRead] // of a key, that may wait for the file
		spanReads  readQueue[fencedRead] // of more
		counts     counts.Cache
	}
	// closedTracker tracks the revision up to which the content is final, and publishes the feed.
	closedTracker struct{ r *Replica }
	// maintenance is what the store has to do beside its writes.
	maintenance struct{ r *Replica }
	// pump executes the cores' actions, in order and not under the mutex.
	pump struct {
		r           *Replica
		predictions readQueue[asyncPrediction]
	}
	// cuts is how the range is cut: who leads it, the copy that is made before, and what comes into being.
	cuts struct {
		changes
		splits
		moves
		merges
		copies
		births
	}
	// births is what the entry does that cuts.
	births struct{ r *Replica }
	// transactions executes the actions of coordinations, and reads over several ranges.
	transactions struct{ r *Replica }
)

// newReplica makes a replica that has no store yet.
func newReplica(cfg Config) *Replica {
	r := &Replica{cfg: cfg}
	r.dir = filepath.Join(cfg.Dir, cfg.Desc.ID.String())
	r.base = func(st *mvcc.Store) lead.Base { return st }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.leaderCalls, r.closedTracker, r.maintenance, r.transactions = leaderCalls{r}, closedTracker{r}, maintenance{r}, transactions{r}
	r.changes.r, r.splits.r, r.moves.r, r.merges.r, r.copies.r, r.births.r = r, r, r, r, r, r
	r.pump = pump{r: r, predictions: readQueue[asyncPrediction]{readersMax: predictionsMax, count: cfg.InflightCount, bytes: 1}}
	r.reads = reads{
		pins:       pins{r: r},
		r:          r,
		counts:     counts.Cache{Limit: countsLimit},
		pointReads: readQueue[fencedRead]{readersMax: pointReadersMax, perReader: pointReadsWaiting, count: cfg.FencesMax, bytes: cfg.InflightBytes},
		spanReads:  readQueue[fencedRead]{readersMax: spanReadersMax, count: cfg.FencesMax, bytes: cfg.InflightBytes},
	}
	return r
}

const storeFile = "mvcc.db"

// Open opens the replica's store, which is created when absent. The caller adds it to the host as
// state machine and observer.
func Open(cfg Config) (*Replica, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := newReplica(cfg)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if err := r.sweepTemp(); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	st, m, err := r.openStore()
	if err != nil {
		return nil, err
	}
	r.store = newStoreRef(st, m.Known())
	r.stores.swap(r.store, nil)
	m.AdvanceClosed(cfg.Closed)
	r.mu.m, r.mu.feed = m, apply.NewFeed(m)
	r.publishLocked()
	return r, nil
}

// sweepTemp removes snapshots that were being received at a crash.
func (r *Replica) sweepTemp() error {
	ents, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), snapshotPrefix) {
			if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Replica) openStore() (*mvcc.Store, *apply.Machine, error) {
	o := r.cfg.Store
	o.Path, o.RangeID, o.Cache = filepath.Join(r.dir, storeFile), r.cfg.Desc.ID, r.cfg.Cache
	if r.cfg.Desc.Generation != 0 {
		o.Birth = []mvcc.StateUpdate{apply.DescUpdate(r.cfg.Desc)}
	}
	if r.cfg.Damaged != nil {
		o.Damaged = func(err error) { r.cfg.Damaged(r.cfg.Desc.ID, err) }
	}
	st, err := mvcc.Open(o)
	if err != nil {
		return nil, nil, err
	}
	m, err := apply.LoadMachine(r.cfg.Self.ID, r.cfg.Desc, st)
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	st.SetFloor(m.EffectiveFloor())
	return st, m, nil
}

// publishLocked refreshes what is read without the mutex.
func (r *Replica) publishLocked() {
	m := r.mu.m
	if d := r.desc.Load(); d == nil || d.Generation != m.Desc.Generation {
		desc := m.Desc
		r.desc.Store(&desc)
		r.store.hold(m.Known())
	}
	r.index.Store(m.Index) // first: AppliedIndex is read after ClosedRevision
	r.final.Store(m.Final())
	r.untouched.Store(m.Index > 0 && m.Last == 0 && m.Final() == 0)
}

// ID is the range's id.
func (r *Replica) ID() shard.RangeID { return r.cfg.Desc.ID }

// Desc is the range's descriptor as this replica has applied it.
func (r *Replica) Desc() shard.Descriptor { return *r.desc.Load() }

// Leading reports whether this replica leads its range and has applied an entry of its term, and
// the term.
func (r *Replica) Leading() (term uint64, ok bool) {
	term = r.leading.Load()
	return term, term != 0
}

// ClosedRevision is the revision up to which this replica's content is final.
func (r *Replica) ClosedRevision() int64 { return r.final.Load() }

// Untouched reports whether the range is here as it began and, as far as this replica knows, nothing was written to it and nothing closed: then it held
// nothing at revision 1, which is when keys begin.
func (r *Replica) Untouched() bool { return r.untouched.Load() }

// AppliedIndex is the index of the last entry whose effect every read sees.
func (r *Replica) AppliedIndex() uint64 { return r.index.Load() }

// Close answers all waiting calls, waits for readers and closes the store. The host must not
// drive the replica any more.
func (r *Replica) Close() error {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return nil
	}
	r.mu.closed = true
	r.endTermLocked()
	for _, p := range r.mu.pastTerms {
		p.Proposals.FailOpenProposals(true)
	}
	r.fireLeaderWaitsLocked(shard.ErrStopped)
	waits, physical := r.mu.indexWaits, r.mu.physicalWaits
	r.mu.indexWaits, r.mu.indexWaitBytes, r.mu.physicalWaits = nil, 0, nil
	for _, w := range waits {
		r.mu.queue.calls = append(r.mu.queue.calls, func() { w.fail(shard.ErrStopped) })
	}
	for _, p := range physical {
		r.mu.queue.calls = append(r.mu.queue.calls, func() { p.done(shard.ErrStopped) })
	}
	r.pumpLocked()
	r.cancel()
	r.wg.Wait()
	r.copies.drop()
	r.pins.close()
	closed := make(chan error, 1)
	r.stores.swap(nil, func(err error) { closed <- err })
	return <-closed
}

// ---- the queue of actions

// deliver runs an event of a core. A core whose term has ended ignores events.
func (q *pump) deliver(event func()) {
	q.r.mu.Lock()
	event()
	q.pumpLocked()
}

// spareActsMax and spareCallsMax bound the buffers that a range keeps from one pump to the next.
const (
	spareActsMax  = 32
	spareCallsMax = 8
)

// pumpLocked unlocks the mutex and executes what is queued, in order. One goroutine at a time does so; others
// leave their actions to it.
func (q *pump) pumpLocked() {
	q.armLocked()
	if q.r.mu.queue.pumping {
		q.r.mu.Unlock()
		return
	}
	q.r.mu.queue.pumping = true
	acts, calls := q.r.mu.queue.spareActs, q.r.mu.queue.spareCalls
	q.r.mu.queue.spareActs, q.r.mu.queue.spareCalls = nil, nil
	for {
		calls, q.r.mu.queue.calls = q.r.mu.queue.calls, calls[:0]
		acts = acts[:0]
		l := q.r.mu.lead
		var pastActs []lead.Action
		for _, p := range q.r.mu.pastTerms {
			pastActs = append(pastActs, p.TakeActions(nil)...)
		}
		if l != nil {
			acts = l.TakeActions(acts)
		}
		q.dropPastTermsLocked()
		if len(calls)+len(acts)+len(pastActs) == 0 {
			q.r.mu.queue.pumping = false
			if cap(acts) <= spareActsMax {
				q.r.mu.queue.spareActs = acts
			}
			if cap(calls) <= spareCallsMax {
				q.r.mu.queue.spareCalls = calls
			}
			q.r.mu.Unlock()
			return
		}
		hint := q.r.mu.role
		q.r.mu.Unlock()
		for i, fn := range calls {
			fn()
			calls[i] = nil
		}
		for i := range pastActs {
			q.execute(nil, &pastActs[i], hint)
		}
		for i := range acts {
			q.execute(l, &acts[i], hint)
		}
		clear(acts)
		q.r.mu.Lock()
	}
}

// dropPastTermsLocked drops the ended terms that wait for nothing any more.
func (q *pump) dropPastTermsLocked() {
	kept := q.r.mu.pastTerms[:0:0]
	for _, p := range q.r.mu.pastTerms {
		if !p.Proposals.Drained() || len(p.Out) > 0 {
			kept = append(kept, p)
		}
	}
	q.r.mu.pastTerms = kept
}

// execute executes one action, without the mutex. l is nil for a past term, which only answers.
func (q *pump) execute(l *lead.Leader, a *lead.Action, hint raftgroup.Leadership) {
	id := a.Id
	switch a.Kind {
	case lead.ActReply:
		a.Item.Reply(a.Resp, q.r.withLeaderHint(a.Err, hint))
		return
	case lead.ActCall:
		a.Fn()
		return
	}
	if l == nil {
		return
	}
	switch a.Kind {
	case lead.ActAllocate:
		q.r.cfg.Oracle.Allocate(a.Ask, func(now shard.Now, err error) {
			q.deliver(func() {
				q.r.followCompaction(l)
				l.Batches.Allocated(id, now.Revision, now.Epoch, err)
			})
		})
	case lead.ActBatchTick:
		q.r.cfg.Linger.Next(func() { q.deliver(l.Batches.BatchTick) })
	case lead.ActBatchLatency:
		q.r.cfg.Linger.Took(time.Duration(a.N), a.Requests)
	case lead.ActCurrent:
		q.r.cfg.Oracle.NowFunc(func(now shard.Now, err error) {
			q.deliver(func() {
				q.r.followCompaction(l)
				l.Evaluations.Current(id, now.Revision, now.Epoch, err)
			})
		})
	case lead.ActPropose:
		q.propose(l, id, a.Entry)
	case lead.ActConfirm:
		q.r.cfg.Host.Confirm(q.r.cfg.Desc.ID, l.Term, func(ok bool, commit uint64) {
			q.deliver(func() { l.Fences.Confirmed(id, ok, commit) })
		})
	case lead.ActEvaluate:
		it := a.Item
		q.spawn(func() { q.evaluate(l, it) }, func() { q.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, shard.ErrStopped) }) })
	case lead.ActPredict:
		q.predict(asyncPrediction{l, a.Prediction})
	case lead.ActAttach:
		lease, span := a.Lease, a.Span
		q.spawn(func() { q.attach(l, lease, span) }, func() { q.deliver(func() { l.Attachments.Attached(lease, 0, shard.ErrStopped) }) })
	case lead.ActTransfer:
		q.beginTransfer(l, id, shard.ReplicaID(a.N))
	case lead.ActAbortTransfer:
		q.abortTransfer(l)
	default:
		q.r.executeTxn(l, *a)
	}
}

func (q *pump) propose(l *lead.Leader, id uint64, e *pb.Entry) {
	dropped := func(error) {
		q.deliver(func() { l.Proposals.Dropped(id, l.NotLeader()) })
	}
	if err := q.r.cfg.Host.ProposeFunc(q.r.cfg.Desc.ID, l.Term, apply.Marshal(e), dropped); err != nil {
		dropped(err)
	}
}

// spawn runs fn on a goroutine that Close waits for. After Close it calls stopped instead.
func (q *pump) spawn(fn, stopped func()) {
	q.r.mu.Lock()
	if q.r.mu.closed {
		q.r.mu.Unlock()
		stopped()
		return
	}
	q.r.wg.Add(1)
	q.r.mu.Unlock()
	go func() {
		defer q.r.wg.Done()
		fn()
	}()
}

// evaluate evaluates a read-only request at its fenced revision.
func (q *pump) evaluate(l *lead.Leader, it *lead.Item) {
	ref, err := q.r.stores.acquire()
	if err != nil {
		q.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, err) })
		return
	}
	defer q.r.stores.release(ref)
	var res *pb.Result
	var wouldWrite, again bool
	err = ref.reading(it.Fp.Within, func() (err error) {
		res, wouldWrite, again, err = eval.EvaluateAt(ref.Store, it.Op, it.At)
		return err
	})
	q.deliver(func() { l.Evaluations.Evaluated(it, res, wouldWrite, again, err) })
}

func (q *pump) attach(l *lead.Leader, lease int64, span shard.Span) {
	ctx, cancel := context.WithTimeout(q.r.ctx, q.r.cfg.Patience)
	defer cancel()
	var grant uint64
	err := error(shard.ErrLeaseNotFound)
	if q.r.cfg.Leases != nil {
		grant, err = q.r.cfg.Leases.Attach(ctx, lease, 0, span)
	}
	q.deliver(func() { l.Attachments.Attached(lease, grant, err) })
}

// withLeaderHint adds the known leader to an error of the leader core.
func (c *leaderCalls) withLeaderHint(err error, role raftgroup.Leadership) error {
	if err == nil {
		return nil
	}
	var nl *shard.NotLeaderError
	if !errors.As(err, &nl) {
		return err
	}
	return c.notLeader(role)
}

func (c *leaderCalls) notLeader(role raftgroup.Leadership) error {
	out := &shard.NotLeaderError{Range: c.r.cfg.Desc.ID, Term: role.Term}
	if role.Leader != c.r.cfg.Self.ID {
		out.Leader = c.r.desc.Load().NodeOf(role.Leader)
	}
	return out
}

// ---- time

// armLocked schedules a tick while something may reach its deadline.
func (q *pump) armLocked() {
	if q.r.mu.tickArmed || q.r.mu.closed {
		return
	}
	waiting := len(q.r.mu.indexWaits) > 0 || len(q.r.mu.physicalWaits) > 0 || q.r.mu.lead != nil && q.r.mu.lead.Waiting()
	for _, p := range q.r.mu.pastTerms {
		waiting = waiting || p.Waiting()
	}
	if waiting {
		q.r.mu.tickArmed = true
		q.r.cfg.AfterFunc(q.r.cfg.TickInterval, q.tick)
	}
}

func (q *pump) tick() {
	now := q.r.cfg.Now()
	q.r.mu.Lock()
	q.r.mu.tickArmed = false
	if q.r.mu.closed {
		q.r.mu.Unlock()
		return
	}
	if q.r.mu.lead != nil {
		q.r.mu.lead.Tick(now)
	}
	for _, p := range q.r.mu.pastTerms {
		p.Tick(now)
	}
	q.r.expireWaitsLocked(now)
	q.pumpLocked()
}

// deadline is the deadline of ctx, at most Config.Patience from now.
func (c *leaderCalls) deadline(ctx context.Context) time.Time {
	limit := c.r.cfg.Now().Add(c.r.cfg.Patience)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		return d
	}
	return limit
}
