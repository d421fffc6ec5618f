package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// effect is one change of a key within an acknowledged write.
type effect struct {
	key, value string
	del        bool
}

// write is an acknowledged write.
type write struct {
	rev     int64
	effects []effect
	began   time.Time
	ended   time.Time
}

type loadOptions struct {
	Writers int
	Keys    int // per range
	Deletes bool
	Txns    bool
	Pause   time.Duration // between the writes of a writer
	Timeout time.Duration // of a write; default 5 s
}

// load writes to all ranges through all nodes and remembers what was acknowledged.
type load struct {
	t       *testing.T
	opts    loadOptions
	clients []*clientv3.Client
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	failed    atomic.Int64
	lastError atomic.Value // string
	serial    atomic.Int64

	mu    sync.Mutex
	acked []write
}

func newLoad(t *testing.T, c *harness.Cluster, o loadOptions) *load {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = limit(5 * time.Second)
	}
	l := &load{t: t, opts: o}
	for i := range o.Writers {
		// Each writer begins at a node of its own and may go to any other.
		eps := slices.Concat(c.Endpoints()[i%len(c.Nodes):], c.Endpoints()[:i%len(c.Nodes)])
		l.clients = append(l.clients, newClient(t, c, eps...))
	}
	return l
}

func (l *load) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	for i, cl := range l.clients {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			for ctx.Err() == nil {
				l.one(ctx, cl, i)
				if l.opts.Pause > 0 {
					time.Sleep(l.opts.Pause)
				}
			}
		}()
	}
}

// stop ends the load and returns what was acknowledged.
func (l *load) stop() []write {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// one makes one write with values that are never used again.
func (l *load) one(ctx context.Context, cl *clientv3.Client, writer int) {
	somePrefix := func() string { return loadPrefixes()[rand.IntN(len(loadPrefixes()))] }
	prefix := somePrefix()
	key := func() string { return fmt.Sprintf("%s/load/%02d", prefix, rand.IntN(l.opts.Keys)) }
	value := fmt.Sprintf("w%d-%d", writer, l.serial.Add(1))
	// The call outlives the load's end, so that its outcome is known.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.opts.Timeout)
	defer cancel()
	w := write{began: time.Now()}
	var err error
	switch dice := rand.IntN(10); {
	case l.opts.Deletes && dice == 0:
		w.effects = []effect{{key: key(), del: true}}
		var resp *clientv3.DeleteResponse
		if resp, err = cl.Delete(wctx, w.effects[0].key); err == nil && resp.Deleted == 1 {
			w.rev = resp.Header.Revision
		}
	case l.opts.Txns && dice < 4:
		a, b := key(), key()
		for a == b {
			b = key()
		}
		if first := prefix; dice%2 == 0 { // over two ranges
			for prefix == first {
				prefix = somePrefix()
			}
			b = key()
		}
		w.effects = []effect{{key: a, value: value + "a"}, {key: b, value: value + "b"}}
		var resp *clientv3.TxnResponse
		resp, err = cl.Txn(wctx).Then(clientv3.OpPut(a, value+"a"), clientv3.OpPut(b, value+"b")).Commit()
		if err == nil {
			w.rev = resp.Header.Revision
		}
	default:
		w.effects = []effect{{key: key(), value: value}}
		var resp *clientv3.PutResponse
		if resp, err = cl.Put(wctx, w.effects[0].key, value); err == nil {
			w.rev = resp.Header.Revision
		}
	}
	w.ended = time.Now()
	l.note(w, err)
}

func (l *load) note(w write, err error) {
	if err != nil {
		l.failed.Add(1)
		l.lastError.Store(err.Error())
		return
	}
	if w.rev == 0 {
		return // a delete of nothing
	}
	l.mu.Lock()
	l.acked = append(l.acked, w)
	l.mu.Unlock()
}

// loadPrefixes has one prefix in each range.
func loadPrefixes() []string {
	return append([]string{"/a"}, splitKeys...)
}

func lastRevision(ws []write) int64 {
	var last int64
	for _, w := range ws {
		last = max(last, w.rev)
	}
	return last
}

// recorder follows the whole key space from revision 1.
type recorder struct {
	mu     sync.Mutex
	events []recorded
	last   int64 // everything up to it has come
	grown  chan struct{}
	err    error

	progress int64 // as the server has told
	told     int   // how often it did
	late     error // an event that came after that
}

// recorded is an event and the response that brought it.
type recorded struct {
	ev       *clientv3.Event
	response int
}

func newRecorder() *recorder { return &recorder{grown: make(chan struct{}, 1)} }

type watching struct {
	rec    *recorder
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *recorder) watch(ctx context.Context, cl *clientv3.Client) *watching {
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{rec: r, cancel: cancel, done: make(chan struct{})}
	ch := cl.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithPrevKV())
	go func() {
		defer close(w.done)
		response := 0
		for resp := range ch {
			response++
			r.add(resp, response)
		}
	}()
	return w
}

func (r *recorder) add(resp clientv3.WatchResponse, response int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := resp.Err(); err != nil {
		r.err = err
	}
	if resp.IsProgressNotify() {
		r.progress = max(r.progress, resp.Header.Revision)
		r.told++
	}
	for _, ev := range resp.Events {
		if ev.Kv.ModRevision <= r.progress && r.late == nil {
			r.late = fmt.Errorf("revision %d came after progress had been told up to %d", ev.Kv.ModRevision, r.progress)
		}
		r.events = append(r.events, recorded{ev, response})
		r.last = max(r.last, ev.Kv.ModRevision)
	}
	select {
	case r.grown <- struct{}{}:
	default:
	}
}

// waitFor waits until an event of that revision has come.
func (r *recorder) waitFor(t *testing.T, rev int64, patience time.Duration) {
	t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		last, err, late := r.last, r.err, r.late
		r.mu.Unlock()
		if late != nil {
			t.Fatal(late)
		}
		if last >= rev {
			return
		}
		if err != nil {
			t.Fatalf("the watch ended at revision %d: %v", last, err)
		}
		select {
		case <-r.grown:
		case <-timeout:
			t.Fatalf("the watch is at revision %d, %d was acknowledged", last, rev)
		}
	}
}

// askProgress has progress told every second until ctx ends.
func askProgress(ctx context.Context, cl *clientv3.Client) {
	for beat := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			beat.Stop()
			return
		case <-beat.C:
			_ = cl.RequestProgress(ctx) // where the stream is being made anew, there is none
		}
	}
}

func (w *watching) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	<-w.done
}

func (r *recorder) snapshot() history {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// history is everything that a watcher saw, in the order in which it came.
type history []recorded

// checkOrder: ascending, atomic per revision, nothing twice, prev_kv right.
func (h history) checkOrder(t *testing.T) {
	t.Helper()
	var rev int64
	response := 0
	keys := map[string]bool{}
	state := map[string]*mvccpb.KeyValue{}
	for _, r := range h {
		ev := r.ev
		key := string(ev.Kv.Key)
		switch {
		case ev.Kv.ModRevision < rev:
			t.Fatalf("revision %d came after %d", ev.Kv.ModRevision, rev)
		case ev.Kv.ModRevision > rev:
			rev, response = ev.Kv.ModRevision, r.response
			clear(keys)
		case r.response != response:
			t.Errorf("revision %d came in two responses", rev)
		}
		if keys[key] {
			t.Errorf("revision %d has %s twice", rev, key)
		}
		keys[key] = true
		if prev := state[key]; (prev == nil) != (ev.PrevKv == nil) || prev != nil && prev.String() != ev.PrevKv.String() {
			t.Errorf("revision %d: the previous %s is %v, the event says %v", rev, key, prev, ev.PrevKv)
		}
		if ev.Type == mvccpb.DELETE {
			delete(state, key)
		} else {
			state[key] = ev.Kv
		}
	}
}

// checkAcked: each acknowledged write was seen exactly as it was written, at its revision, and
// revisions agree with real time.
func (h history) checkAcked(t *testing.T, acked []write) {
	t.Helper()
	byRev := map[int64][]*clientv3.Event{}
	for _, r := range h {
		byRev[r.ev.Kv.ModRevision] = append(byRev[r.ev.Kv.ModRevision], r.ev)
	}
	lost := 0
	seen := map[int64]bool{}
	for _, w := range acked {
		if seen[w.rev] {
			t.Errorf("revision %d was acknowledged twice", w.rev)
		}
		seen[w.rev] = true
		evs := byRev[w.rev]
		if len(evs) != len(w.effects) {
			lost++
			t.Errorf("revision %d: %d effects were acknowledged, %d came", w.rev, len(w.effects), len(evs))
			if lost > 10 {
				t.FailNow()
			}
			continue
		}
		for i, e := range w.effects {
			if string(evs[i].Kv.Key) != e.key || (evs[i].Type == mvccpb.DELETE) != e.del || string(evs[i].Kv.Value) != e.value {
				t.Errorf("revision %d: %+v was acknowledged, %v came", w.rev, e, evs[i])
			}
		}
	}
	checkRealTime(t, acked)
}

// checkRealTime: what was acknowledged before another began has the lower revision.
func checkRealTime(t *testing.T, acked []write) {
	t.Helper()
	byEnd := slices.Clone(acked)
	slices.SortFunc(byEnd, func(a, b write) int { return a.ended.Compare(b.ended) })
	byBegin := slices.Clone(acked)
	slices.SortFunc(byBegin, func(a, b write) int { return a.began.Compare(b.began) })
	var highest int64
	i := 0
	for _, w := range byBegin {
		for i < len(byEnd) && byEnd[i].ended.Before(w.began) {
			highest = max(highest, byEnd[i].rev)
			i++
		}
		if w.rev <= highest {
			t.Errorf("a write that began after revision %d was acknowledged got %d", highest, w.rev)
			return
		}
	}
}

// checkDense: from 2 to last without a gap.
func (h history) checkDense(t *testing.T, last int64) {
	t.Helper()
	want := int64(2)
	for _, r := range h {
		switch rev := r.ev.Kv.ModRevision; {
		case rev == want:
			want++
		case rev > want:
			t.Errorf("gap: %d follows %d", rev, want-1)
			want = rev + 1
		}
	}
	if want <= last {
		t.Errorf("the events end at %d, not %d", want-1, last)
	}
}

// keyState is a key as the events leave it.
type keyState struct {
	value                string
	rev, create, version int64
}

func (h history) stateAt(rev int64) map[string]keyState {
	out := map[string]keyState{}
	for _, r := range h {
		if r.ev.Kv.ModRevision > rev {
			break
		}
		key := string(r.ev.Kv.Key)
		if r.ev.Type == mvccpb.DELETE {
			delete(out, key)
			continue
		}
		s := out[key]
		if s.version == 0 {
			s.create = r.ev.Kv.ModRevision
		}
		s.value, s.rev, s.version = string(r.ev.Kv.Value), r.ev.Kv.ModRevision, s.version+1
		out[key] = s
	}
	return out
}

// text renders the history up to a revision, a line per event.
func (h history) text(last int64) string {
	var b strings.Builder
	for _, r := range h {
		if r.ev.Kv.ModRevision <= last {
			fmt.Fprintf(&b, "%s %v\n", r.ev.Type, r.ev.Kv)
		}
	}
	return b.String()
}
