package sim

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"pontoon/shard"
)

// Config says what is simulated. The zero value of a field means its default.
type Config struct {
	Seed   uint64
	Steps  int  // operations of clients while there are faults; default 400
	Nodes  int  // default: 3 or 5, by the seed
	Ranges int  // default: 4 to 6, by the seed
	Multi  bool // transactions and deletions over several ranges
	Calm   bool // no faults at all
	// Dir takes the files of the nodes, which are removed in the end. Required.
	Dir string
	// Trace, if set, is told of every event.
	Trace io.Writer
}

// Stats counts what a run did.
type Stats struct {
	Virtual                 time.Duration
	Events, Ops, Acked      int
	Ambiguous, Failed       int
	Reads, WatchEvents      int
	Progress                int // notifications of watchers that were checked
	Revisions               int
	Faults, Crashes         int
	Snapshots, Frames, Lost int
	Hashes                  int // states of replicas that were compared
	Trace                   uint64
}

// Add adds up the counters of another run.
func (s *Stats) Add(o Stats) {
	s.Virtual += o.Virtual
	s.Events += o.Events
	s.Ops += o.Ops
	s.Acked += o.Acked
	s.Ambiguous += o.Ambiguous
	s.Failed += o.Failed
	s.Reads += o.Reads
	s.WatchEvents += o.WatchEvents
	s.Progress += o.Progress
	s.Revisions += o.Revisions
	s.Faults += o.Faults
	s.Crashes += o.Crashes
	s.Snapshots += o.Snapshots
	s.Frames += o.Frames
	s.Lost += o.Lost
	s.Hashes += o.Hashes
}

// event is something that happens at a virtual time.
type event struct {
	at  time.Time
	seq uint64
	key string
	fn  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}

// posted is what a goroutine has asked for; key sorts what comes at one instant.
type posted struct {
	key string
	at  time.Time
	fn  func()
}

// world is one simulated cluster. Its fields belong to the loop, except for the inbox.
type world struct {
	cfg   Config
	rng   *rand.Rand
	start time.Time
	queue eventHeap
	seq   uint64
	hash  interface {
		io.Writer
		Sum64() uint64
	}
	stats Stats

	audits bool // many transactions read several keys: of three seeds in ten

	nodes     []*node
	net       *network
	layout    *layout
	hist      *records
	clients   []*client
	watches   []*watcher
	orders    *orders
	faults    *faults
	leases    *leaseBook
	final     final
	inspector *inspector
	err       error // the first failure

	wake  chan struct{}
	inbox struct {
		sync.Mutex
		items []posted
	}
}

// Run simulates a cluster and returns what it did, and the first promise that was broken. It must
// be called in a synctest bubble, with the process's randomness seeded.
func Run(cfg Config) (Stats, error) {
	w := newWorld(cfg)
	err := w.run()
	w.stats.Trace = w.hash.Sum64()
	w.stats.Virtual = time.Since(w.start)
	return w.stats, err
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x706f6e746f6f6e)), start: time.Now(), hash: fnv.New64a()}
	w.wake = make(chan struct{}, 1)
	if w.cfg.Steps == 0 {
		w.cfg.Steps = 400
	}
	if w.cfg.Nodes == 0 {
		w.cfg.Nodes = w.pick(3, 3, 3, 5)
	}
	if w.cfg.Ranges == 0 {
		w.cfg.Ranges = 4 + w.rng.IntN(3)
	}
	w.audits = w.roll(0.3)
	w.layout = newLayout(w.cfg.Nodes, w.cfg.Ranges)
	w.hist = newHistory(w)
	w.orders = newOrders(w)
	w.leases = newLeaseBook()
	w.net = newNetwork(w)
	w.faults = newFaults(w)
	return w
}

// run is the story: start, work under faults, heal, look whether everything is well.
func (w *world) run() error {
	defer w.shutdown()
	for id := 1; id <= w.cfg.Nodes; id++ {
		n := newNode(w, shard.NodeID(id))
		w.nodes = append(w.nodes, n)
		if err := n.boot(); err != nil {
			return err
		}
	}
	w.beginClients()
	w.beginWatchers()
	w.beginInspection()
	w.faults.begin()
	if !w.loop(time.Hour, func() bool { return w.stats.Ops >= w.cfg.Steps }) {
		return cmp.Or(w.err, errors.New("liveness: the clients do not get on"))
	}
	w.faults.end()
	w.endLoad()
	return cmp.Or(w.err, w.finish())
}

// failf notes the first broken promise.
func (w *world) failf(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format+" [%v]", append(args, time.Since(w.start))...)
	}
}

// loop runs events until done, or until something broke. limit bounds the virtual time.
func (w *world) loop(limit time.Duration, done func() bool) bool {
	end := time.Now().Add(limit)
	for w.err == nil && !done() {
		w.settle()
		if len(w.queue) == 0 {
			w.failf("the simulation has nothing to do")
			return false
		}
		next := w.queue[0]
		if next.at.After(end) {
			return false
		}
		if d := time.Until(next.at); d > 0 && !w.sleep(d) {
			continue
		}
		heap.Pop(&w.queue)
		w.stats.Events++
		w.note("%s", next.key)
		next.fn()
	}
	return w.err == nil
}

// sleep lets virtual time pass; false if a goroutine has asked for something before.
func (w *world) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.wake:
		return false
	}
}

// settle waits until all goroutines rest and every host has done what it may do now, and takes what
// they have asked for.
func (w *world) settle() {
	for {
		synctest.Wait()
		did := false
		for _, n := range w.nodes {
			did = n.step() || did
		}
		synctest.Wait() // what a step has set going belongs to this round, however fast it was
		if !w.collect() && !did {
			return
		}
	}
}

// collect turns the inbox into events, in an order that does not depend on goroutines.
func (w *world) collect() bool {
	w.inbox.Lock()
	items := w.inbox.items
	w.inbox.items = nil
	w.inbox.Unlock()
	slices.SortStableFunc(items, func(a, b posted) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key))
	})
	for _, p := range items {
		w.push(p.at, p.key, p.fn)
	}
	return len(items) > 0
}

// post asks for fn to be called by the loop, d from now. Any goroutine may.
func (w *world) post(key string, d time.Duration, fn func()) {
	w.inbox.Lock()
	w.inbox.items = append(w.inbox.items, posted{key, time.Now().Add(d), fn})
	w.inbox.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// push adds an event; the loop alone may.
func (w *world) push(at time.Time, key string, fn func()) {
	w.seq++
	heap.Push(&w.queue, event{at, w.seq, key, fn})
}

// after is push with a delay.
func (w *world) after(d time.Duration, key string, fn func()) { w.push(time.Now().Add(d), key, fn) }

// note adds to the trace, by which two runs are compared.
func (w *world) note(format string, args ...any) {
	line := format
	if len(args) > 0 {
		line = fmt.Sprintf(format, args...)
	}
	fmt.Fprintf(w.hash, "%d %s\n", time.Since(w.start), line)
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, "%v %s\n", time.Since(w.start), line)
	}
}

// roll is true with a probability.
func (w *world) roll(p float64) bool { return p > 0 && w.rng.Float64() < p }

// pick returns one of some numbers.
func (w *world) pick(ns ...int) int { return ns[w.rng.IntN(len(ns))] }

// between draws a duration, uniformly.
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

// scaled draws a duration whose order of magnitude is uniform: short and long ones are alike
// likely (hazard 31).
func (w *world) scaled(lo, hi time.Duration) time.Duration {
	d := time.Duration(float64(lo))
	for d < hi && w.roll(0.75) {
		d *= 3
	}
	return min(hi, w.between(d/2+1, d*3))
}

// shutdown ends every node, and what is under way.
func (w *world) shutdown() {
	for _, n := range w.nodes {
		n.destroy()
	}
	ended := func() bool {
		for _, n := range w.nodes {
			if n.closing > 0 {
				return false
			}
		}
		return true
	}
	failed := w.err
	w.err = nil
	if !w.loop(time.Hour, ended) && failed == nil {
		failed = fmt.Errorf("a node that was stopped did not end")
	}
	w.err = failed
}

// String sums up.
func (s *Stats) String() string {
	return fmt.Sprintf("%v simulated, %d events; %d operations: %d writes answered, %d reads checked, %d ambiguous, %d refused; "+
		"%d revisions, %d watch events, %d progress marks; %d faults, %d crashes, %d snapshots, %d frames, %d lost; %d states compared",
		s.Virtual.Round(time.Second), s.Events, s.Ops, s.Acked, s.Reads, s.Ambiguous, s.Failed, s.Revisions, s.WatchEvents, s.Progress,
		s.Faults, s.Crashes, s.Snapshots, s.Frames, s.Lost, s.Hashes)
}
