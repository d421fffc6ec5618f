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
	dir string
	storage
	published
	lifetime

	leaderCalls
	reads
	closing
	maintenance
	pump
	transactions

	mu struct {
		sync.Mutex
		m         *apply.Machine
		lead      *lead.Leader   // nil: not leading
		pastTerms []*lead.Leader // ended terms whose proposals are still open
		role      raftgroup.Leadership
		closed    bool
		waiting
		feeding
		queue actionQueue
	}
}

// storage is the replica's store.
type storage struct {
	stores    storeRefs
	store     *storeRef                   // of the worker
	base      func(*mvcc.Store) lead.Base // the store as leaders read it; a test may hold it
	unflushed int                         // bytes applied since the last flush that was asked for; the worker's
}

// published is what is read without the mutex.
type published struct {
	desc    atomic.Pointer[shard.Descriptor]
	index   atomic.Uint64 // applied
	final   atomic.Int64
	leading atomic.Uint64 // the term, once it is led and an entry of it has applied
}

// lifetime is of the goroutines that Close waits for.
type lifetime struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// actionQueue is what waits to be carried out by the goroutine that is at it.
type actionQueue struct {
	calls   []func()      // to be called, in order
	called  []func()      // empty: room for the next pump
	spare   []lead.Action // empty: room for the next pump
	pumping bool
}

// waiting are those who wait for an index or for the file.
type waiting struct {
	waits []*indexWait
	// waitBytes is what their requests hold.
	waitBytes int
	physic    []physicalWait
	armed     bool // a tick is coming
}

// feeding is the feed of events, and what is known of its end.
type feeding struct {
	marks []closedMark
	feed  apply.Feed
	next  FeedItem // events and gap of the next item
}

// The parts of a Replica share its mutex and its state.
type (
	// leaderCalls serves what only the leader takes.
	leaderCalls struct{ r *Replica }
	// reads serves what any replica reads once it has applied an index.
	reads struct {
		r      *Replica
		points readQueue[fencedRead] // of a key, that may wait for the file
		wides  readQueue[fencedRead] // of more
		counts counts.Cache
	}
	// closing follows the revision up to which the content is final, and publishes the feed by it.
	closing struct{ r *Replica }
	// maintenance is what the store has to do beside its writes.
	maintenance struct{ r *Replica }
	// pump carries out what the cores ask for, in order and not under the mutex.
	pump struct {
		r           *Replica
		predictions readQueue[apart]
	}
	// transactions carries out what a coordination asks for, and reads over several ranges.
	transactions struct{ r *Replica }
)

// newReplica makes a replica that has no store yet.
func newReplica(cfg Config) *Replica {
	r := &Replica{cfg: cfg, dir: filepath.Join(cfg.Dir, cfg.Desc.ID.String())}
	r.base = func(st *mvcc.Store) lead.Base { return st }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.leaderCalls, r.closing, r.maintenance, r.transactions = leaderCalls{r}, closing{r}, maintenance{r}, transactions{r}
	r.pump = pump{r: r, predictions: readQueue[apart]{readersMax: predictionsMax, count: cfg.InflightCount, bytes: 1}}
	r.reads = reads{
		r:      r,
		counts: counts.Cache{Limit: countsLimit},
		points: readQueue[fencedRead]{readersMax: pointReadersMax, perReader: pointReadsWaiting, count: cfg.FencesMax, bytes: cfg.InflightBytes},
		wides:  readQueue[fencedRead]{readersMax: wideReadersMax, count: cfg.FencesMax, bytes: cfg.InflightBytes},
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
	r.store = newStoreRef(st)
	r.stores.swap(r.store, nil)
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
		if strings.HasPrefix(e.Name(), stagedPrefix) {
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
	}
	r.index.Store(m.Index) // first: AppliedIndex is read after ClosedRevision
	r.final.Store(m.Final())
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

// AppliedIndex is the index of the last entry whose effect every read sees.
func (r *Replica) AppliedIndex() uint64 { return r.index.Load() }

// Close answers everybody who waits, waits for readers and closes the store. The host must not
// drive the replica any more.
func (r *Replica) Close() error {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		return nil
	}
	r.mu.closed = true
	r.endLeadLocked()
	for _, g := range r.mu.pastTerms {
		g.Proposals.FailOpenProposals(true)
	}
	waits, physic := r.mu.waits, r.mu.physic
	r.mu.waits, r.mu.waitBytes, r.mu.physic = nil, 0, nil
	for _, w := range waits {
		r.mu.queue.calls = append(r.mu.queue.calls, func() { w.fail(shard.ErrStopped) })
	}
	for _, p := range physic {
		r.mu.queue.calls = append(r.mu.queue.calls, func() { p.done(shard.ErrStopped) })
	}
	r.pumpLocked()
	r.cancel()
	r.wg.Wait()
	closed := make(chan error, 1)
	r.stores.swap(nil, func(err error) { closed <- err })
	return <-closed
}

// ---- the queue of actions

// deliver runs an event of a core. An event for a core of the past is harmless: it knows that it
// is dead.
func (q *pump) deliver(event func()) {
	q.r.mu.Lock()
	event()
	q.pumpLocked()
}

// spareActs and spareCalls bound the buffers that a range keeps from one pump to the next.
const (
	spareActs  = 32
	spareCalls = 8
)

// pumpLocked unlocks the mutex and carries out what has been asked for, in order, by one goroutine
// at a time: whoever finds another at it leaves its own to that one.
func (q *pump) pumpLocked() {
	q.armLocked()
	if q.r.mu.queue.pumping {
		q.r.mu.Unlock()
		return
	}
	q.r.mu.queue.pumping = true
	acts, calls := q.r.mu.queue.spare, q.r.mu.queue.called
	q.r.mu.queue.spare, q.r.mu.queue.called = nil, nil
	for {
		calls, q.r.mu.queue.calls = q.r.mu.queue.calls, calls[:0]
		acts = acts[:0]
		l := q.r.mu.lead
		ghosts := q.r.mu.pastTerms
		var ghostActs []lead.Action
		for _, g := range ghosts {
			ghostActs = append(ghostActs, g.Take(nil)...)
		}
		if l != nil {
			acts = l.Take(acts)
		}
		q.dropPastTermsLocked()
		if len(calls)+len(acts)+len(ghostActs) == 0 {
			q.r.mu.queue.pumping = false
			if cap(acts) <= spareActs {
				q.r.mu.queue.spare = acts
			}
			if cap(calls) <= spareCalls {
				q.r.mu.queue.called = calls
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
		for i := range ghostActs {
			q.do(nil, &ghostActs[i], hint)
		}
		for i := range acts {
			q.do(l, &acts[i], hint)
		}
		clear(acts)
		q.r.mu.Lock()
	}
}

// dropPastTermsLocked forgets ended terms that wait for nothing any more.
func (q *pump) dropPastTermsLocked() {
	kept := q.r.mu.pastTerms[:0:0]
	for _, g := range q.r.mu.pastTerms {
		if !g.Proposals.Settled() || len(g.Out) > 0 {
			kept = append(kept, g)
		}
	}
	q.r.mu.pastTerms = kept
}

// do carries out one action, without the mutex. A dead core only answers.
func (q *pump) do(l *lead.Leader, a *lead.Action, hint raftgroup.Leadership) {
	id := a.Id
	switch a.Kind {
	case lead.ActReply:
		a.Item.Reply(a.Resp, q.r.hinted(a.Err, hint))
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
		q.r.cfg.Oracle.Allocate(a.N, func(first int64, epoch shard.Epoch, err error) {
			q.deliver(func() { l.Batches.Allocated(id, first, epoch, err) })
		})
	case lead.ActBatchTick:
		q.r.cfg.Linger.Next(func() { q.deliver(l.Batches.BatchTick) })
	case lead.ActTook:
		q.r.cfg.Linger.Took(time.Duration(a.N))
	case lead.ActCurrent:
		q.r.cfg.Oracle.CurrentFunc(func(rev int64, epoch shard.Epoch, err error) {
			q.deliver(func() { l.Evaluations.Current(id, rev, epoch, err) })
		})
	case lead.ActPropose:
		q.propose(l, id, a.Entry)
	case lead.ActConfirm:
		q.r.cfg.Host.Confirm(q.r.cfg.Desc.ID, l.Term, func(ok bool, commit uint64) {
			q.deliver(func() { l.Fences.Proved(id, ok, commit) })
		})
	case lead.ActEvaluate:
		it := a.Item
		q.spawn(func() { q.evaluate(l, it) }, func() { q.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, shard.ErrStopped) }) })
	case lead.ActPredict:
		q.predict(apart{l, a.Prediction})
	case lead.ActAttach:
		lease, span := a.Lease, a.Span
		q.spawn(func() { q.attach(l, lease, span) }, func() { q.deliver(func() { l.Attachments.Attached(lease, 0, shard.ErrStopped) }) })
	default:
		q.r.doTxn(l, *a)
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

// spawn runs fn on a goroutine that Close waits for, or stopped at once when it is too late.
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

// evaluate answers a request that writes nothing at its fenced revision.
func (q *pump) evaluate(l *lead.Leader, it *lead.Item) {
	ref, err := q.r.stores.acquire()
	if err != nil {
		q.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, err) })
		return
	}
	defer q.r.stores.release(ref)
	res, wouldWrite, again, err := eval.EvaluateAt(ref.Store, it.Op, it.At)
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

// hinted adds to an error of the leader core where the leader may be.
func (c *leaderCalls) hinted(err error, role raftgroup.Leadership) error {
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

// armLocked makes sure that a tick comes while somebody may run out of patience.
func (q *pump) armLocked() {
	if q.r.mu.armed || q.r.mu.closed {
		return
	}
	waiting := len(q.r.mu.waits) > 0 || len(q.r.mu.physic) > 0 || q.r.mu.lead != nil && q.r.mu.lead.Waiting()
	for _, g := range q.r.mu.pastTerms {
		waiting = waiting || g.Waiting()
	}
	if waiting {
		q.r.mu.armed = true
		q.r.cfg.AfterFunc(q.r.cfg.TickInterval, q.tick)
	}
}

func (q *pump) tick() {
	now := q.r.cfg.Now()
	q.r.mu.Lock()
	q.r.mu.armed = false
	if q.r.mu.closed {
		q.r.mu.Unlock()
		return
	}
	if q.r.mu.lead != nil {
		q.r.mu.lead.Tick(now)
	}
	for _, g := range q.r.mu.pastTerms {
		g.Tick(now)
	}
	q.r.expireWaitsLocked(now)
	q.pumpLocked()
}

// deadline is when the patience of a request ends.
func (c *leaderCalls) deadline(ctx context.Context) time.Time {
	limit := c.r.cfg.Now().Add(c.r.cfg.Patience)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		return d
	}
	return limit
}
