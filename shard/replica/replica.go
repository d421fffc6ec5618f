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
	cfg    Config
	dir    string
	stores storeRefs
	store  *storeRef // of the worker

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	desc    atomic.Pointer[shard.Descriptor]
	index   atomic.Uint64 // applied
	final   atomic.Int64
	leading atomic.Uint64 // the term, once it is led and an entry of it has applied

	points      readQueue[fencedRead] // reads of a key that may wait for the file
	wides       readQueue[fencedRead] // and of more
	predictions readQueue[apart]
	base        func(*mvcc.Store) lead.Base // the store as leaders read it; a test may hold it
	counts      counts.Cache
	unflushed   int // bytes applied since the last flush that was asked for; the worker's

	mu struct {
		sync.Mutex
		m         *apply.Machine
		lead      *lead.Leader   // nil: not leading
		pastTerms []*lead.Leader // ended terms whose proposals are still open
		role      raftgroup.Leadership
		waits     []*indexWait
		// waitBytes is what their requests hold.
		waitBytes int
		marks     []closedMark
		feed      apply.Feed
		next      FeedItem      // events and gap of the next item
		calls     []func()      // to be called, in order
		called    []func()      // empty: room for the next pump
		spare     []lead.Action // empty: room for the next pump
		pumping   bool
		armed     bool
		closed    bool
		physic    []physicalWait
	}
}

const storeFile = "mvcc.db"

// Open opens the replica's store, which is created when absent. The caller adds it to the host as
// state machine and observer.
func Open(cfg Config) (*Replica, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Replica{cfg: cfg, dir: filepath.Join(cfg.Dir, cfg.Desc.ID.String()), counts: counts.Cache{Limit: countsLimit}}
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
	r.base = func(st *mvcc.Store) lead.Base { return st }
	r.predictions = readQueue[apart]{readersMax: predictionsMax, count: cfg.InflightCount, bytes: 1}
	r.points = readQueue[fencedRead]{readersMax: pointReadersMax, perReader: pointReadsWaiting, count: cfg.FencesMax, bytes: cfg.InflightBytes}
	r.wides = readQueue[fencedRead]{readersMax: wideReadersMax, count: cfg.FencesMax, bytes: cfg.InflightBytes}
	r.ctx, r.cancel = context.WithCancel(context.Background())
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
		r.mu.calls = append(r.mu.calls, func() { w.fail(shard.ErrStopped) })
	}
	for _, p := range physic {
		r.mu.calls = append(r.mu.calls, func() { p.done(shard.ErrStopped) })
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
func (r *Replica) deliver(event func()) {
	r.mu.Lock()
	event()
	r.pumpLocked()
}

// spareActs and spareCalls bound the buffers that a range keeps from one pump to the next.
const (
	spareActs  = 32
	spareCalls = 8
)

// pumpLocked unlocks the mutex and carries out what has been asked for, in order, by one goroutine
// at a time: whoever finds another at it leaves its own to that one.
func (r *Replica) pumpLocked() {
	r.armLocked()
	if r.mu.pumping {
		r.mu.Unlock()
		return
	}
	r.mu.pumping = true
	acts, calls := r.mu.spare, r.mu.called
	r.mu.spare, r.mu.called = nil, nil
	for {
		calls, r.mu.calls = r.mu.calls, calls[:0]
		acts = acts[:0]
		l := r.mu.lead
		ghosts := r.mu.pastTerms
		var ghostActs []lead.Action
		for _, g := range ghosts {
			ghostActs = append(ghostActs, g.Take(nil)...)
		}
		if l != nil {
			acts = l.Take(acts)
		}
		r.dropPastTermsLocked()
		if len(calls)+len(acts)+len(ghostActs) == 0 {
			r.mu.pumping = false
			if cap(acts) <= spareActs {
				r.mu.spare = acts
			}
			if cap(calls) <= spareCalls {
				r.mu.called = calls
			}
			r.mu.Unlock()
			return
		}
		hint := r.mu.role
		r.mu.Unlock()
		for i, fn := range calls {
			fn()
			calls[i] = nil
		}
		for i := range ghostActs {
			r.do(nil, &ghostActs[i], hint)
		}
		for i := range acts {
			r.do(l, &acts[i], hint)
		}
		clear(acts)
		r.mu.Lock()
	}
}

// dropPastTermsLocked forgets ended terms that wait for nothing any more.
func (r *Replica) dropPastTermsLocked() {
	kept := r.mu.pastTerms[:0:0]
	for _, g := range r.mu.pastTerms {
		if !g.Proposals.Settled() || len(g.Out) > 0 {
			kept = append(kept, g)
		}
	}
	r.mu.pastTerms = kept
}

// do carries out one action, without the mutex. A dead core only answers.
func (r *Replica) do(l *lead.Leader, a *lead.Action, hint raftgroup.Leadership) {
	id := a.Id
	switch a.Kind {
	case lead.ActReply:
		a.Item.Reply(a.Resp, r.hinted(a.Err, hint))
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
		r.cfg.Oracle.Allocate(a.N, func(first int64, epoch shard.Epoch, err error) {
			r.deliver(func() { l.Batches.Allocated(id, first, epoch, err) })
		})
	case lead.ActBatchTick:
		r.cfg.Linger.Next(func() { r.deliver(l.Batches.BatchTick) })
	case lead.ActTook:
		r.cfg.Linger.Took(time.Duration(a.N))
	case lead.ActCurrent:
		r.cfg.Oracle.CurrentFunc(func(rev int64, epoch shard.Epoch, err error) {
			r.deliver(func() { l.Evaluations.Current(id, rev, epoch, err) })
		})
	case lead.ActPropose:
		r.propose(l, id, a.Entry)
	case lead.ActConfirm:
		r.cfg.Host.Confirm(r.cfg.Desc.ID, l.Term, func(ok bool, commit uint64) {
			r.deliver(func() { l.Fences.Proved(id, ok, commit) })
		})
	case lead.ActEvaluate:
		it := a.Item
		r.spawn(func() { r.evaluate(l, it) }, func() { r.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, shard.ErrStopped) }) })
	case lead.ActPredict:
		r.predict(apart{l, a.Prediction})
	case lead.ActAttach:
		lease, span := a.Lease, a.Span
		r.spawn(func() { r.attach(l, lease, span) }, func() { r.deliver(func() { l.Attachments.Attached(lease, 0, shard.ErrStopped) }) })
	default:
		r.doTxn(l, *a)
	}
}

func (r *Replica) propose(l *lead.Leader, id uint64, e *pb.Entry) {
	dropped := func(error) {
		r.deliver(func() { l.Proposals.Dropped(id, l.NotLeader()) })
	}
	if err := r.cfg.Host.ProposeFunc(r.cfg.Desc.ID, l.Term, apply.Marshal(e), dropped); err != nil {
		dropped(err)
	}
}

// spawn runs fn on a goroutine that Close waits for, or stopped at once when it is too late.
func (r *Replica) spawn(fn, stopped func()) {
	r.mu.Lock()
	if r.mu.closed {
		r.mu.Unlock()
		stopped()
		return
	}
	r.wg.Add(1)
	r.mu.Unlock()
	go func() {
		defer r.wg.Done()
		fn()
	}()
}

// evaluate answers a request that writes nothing at its fenced revision.
func (r *Replica) evaluate(l *lead.Leader, it *lead.Item) {
	ref, err := r.stores.acquire()
	if err != nil {
		r.deliver(func() { l.Evaluations.Evaluated(it, nil, false, false, err) })
		return
	}
	defer r.stores.release(ref)
	res, wouldWrite, again, err := eval.EvaluateAt(ref.Store, it.Op, it.At)
	r.deliver(func() { l.Evaluations.Evaluated(it, res, wouldWrite, again, err) })
}

func (r *Replica) attach(l *lead.Leader, lease int64, span shard.Span) {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Patience)
	defer cancel()
	var grant uint64
	err := error(shard.ErrLeaseNotFound)
	if r.cfg.Leases != nil {
		grant, err = r.cfg.Leases.Attach(ctx, lease, 0, span)
	}
	r.deliver(func() { l.Attachments.Attached(lease, grant, err) })
}

// hinted adds to an error of the leader core where the leader may be.
func (r *Replica) hinted(err error, role raftgroup.Leadership) error {
	if err == nil {
		return nil
	}
	var nl *shard.NotLeaderError
	if !errors.As(err, &nl) {
		return err
	}
	return r.notLeader(role)
}

func (r *Replica) notLeader(role raftgroup.Leadership) error {
	out := &shard.NotLeaderError{Range: r.cfg.Desc.ID, Term: role.Term}
	if role.Leader != r.cfg.Self.ID {
		out.Leader = r.desc.Load().NodeOf(role.Leader)
	}
	return out
}

// ---- time

// armLocked makes sure that a tick comes while somebody may run out of patience.
func (r *Replica) armLocked() {
	if r.mu.armed || r.mu.closed {
		return
	}
	waiting := len(r.mu.waits) > 0 || len(r.mu.physic) > 0 || r.mu.lead != nil && r.mu.lead.Waiting()
	for _, g := range r.mu.pastTerms {
		waiting = waiting || g.Waiting()
	}
	if waiting {
		r.mu.armed = true
		r.cfg.AfterFunc(r.cfg.TickInterval, r.tick)
	}
}

func (r *Replica) tick() {
	now := r.cfg.Now()
	r.mu.Lock()
	r.mu.armed = false
	if r.mu.closed {
		r.mu.Unlock()
		return
	}
	if r.mu.lead != nil {
		r.mu.lead.Tick(now)
	}
	for _, g := range r.mu.pastTerms {
		g.Tick(now)
	}
	r.expireWaitsLocked(now)
	r.pumpLocked()
}

// deadline is when the patience of a request ends.
func (r *Replica) deadline(ctx context.Context) time.Time {
	limit := r.cfg.Now().Add(r.cfg.Patience)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		return d
	}
	return limit
}
