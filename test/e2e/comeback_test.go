package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// comebackWatchers is how many watchers, each with its own connections, come back in TestWatchersComeBack.
func comebackWatchers() int {
	if testing.Short() {
		return 100
	}
	return 200
}

// TestWatchersComeBack: watchers of a gateway that is killed go on at another one, and watchers that all leave come back, without reads of history, while keys are written;
// nothing is lost, and nothing comes twice.
func TestWatchersComeBack(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Args: []string{"--placement=off"}})
	ctx := testContext(t, limit(2*time.Minute))
	one, two := startGateway(t, c, "g1"), startGateway(t, c, "g2")
	many := comebackWatchers()
	clients := make([]*clientv3.Client, many)
	for i := range clients {
		clients[i] = newClient(t, c, one.ClientURL, two.ClientURL)
	}
	w := newComeback(ctx, t, newClient(t, c), many)
	w.watch(ctx, t, clients)
	w.write(ctx, t, 200)
	read := func() int { return metric(ctx, t, two, "pontoon_watch_history_reads_total") }
	before := read()
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	w.write(ctx, t, 600)
	w.catchUp(t)
	silent := w.silence(killed)
	t.Logf("one of two gateways was killed: %d of %d watchers noticed: without delivery for %v (p50), %v (longest); %d reads of history, %d spared", len(silent), many,
		silent[len(silent)/2], silent[len(silent)-1], read()-before, metric(ctx, t, two, "pontoon_watch_ring_reads_total"))
	if got := read() - before; got > many/100 {
		t.Errorf("%d reads of history", got)
	}

	before = read()
	w.leave()
	w.write(ctx, t, 300)
	w.watch(ctx, t, clients)
	w.catchUp(t)
	t.Logf("all left and came back 300 events later: %d reads of history, %d spared", read()-before, metric(ctx, t, two, "pontoon_watch_ring_reads_total"))
	if got := read() - before; got > many/100 {
		t.Errorf("%d reads of history", got)
	}
	w.leave()
	w.check(t)
}

// TestWatchersOutliveASource: each of three members, from which a gateway has its feeds, is killed in turn while keys of eight ranges are written. No watcher of the gateway reads history: what
// has passed until the feeds come from elsewhere is read once for each of them, and nothing is lost, and nothing comes twice.
func TestWatchersOutliveASource(t *testing.T) {
	pontoonOnly(t)
	o := byHand()
	o.Args = append(o.Args, "--initial-split-keys=/order/1,/order/2,/order/3,/order/4,/order/5,/order/6,/order/7")
	c := newCluster(t, o)
	ctx := testContext(t, limit(3*time.Minute))
	gate := startGateway(t, c, "g1")
	many := comebackWatchers() / 2
	clients := make([]*clientv3.Client, many)
	for i := range clients {
		clients[i] = newClient(t, c, gate.ClientURL)
	}
	w := newComeback(ctx, t, newClient(t, c, gate.ClientURL), many)
	w.unsure = true
	w.watch(ctx, t, clients)
	w.write(ctx, t, 100)
	w.catchUp(t)
	read := func() int { return metric(ctx, t, gate, "pontoon_watch_history_reads_total") }
	before := read()
	for _, n := range c.Nodes {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		w.write(ctx, t, 300)
		w.catchUp(t)
		silent := w.silence(killed)
		t.Logf("%s was killed: without delivery for %v (p50), %v (longest); feeds that broke went on %d times, began anew %d times; %d reads of history", n.Name, silent[len(silent)/2], silent[len(silent)-1],
			metric(ctx, t, gate, "pontoon_feeds_resumed_total"), metric(ctx, t, gate, "pontoon_feeds_abandoned_total"), read()-before)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.leave()
	w.check(t)
	if metric(ctx, t, gate, "pontoon_feeds_resumed_total") == 0 || read()-before > many/10 {
		t.Errorf("%d reads of history by %d watchers", read()-before, many)
	}
}

// TestWatchersOutliveMoves: replicas of eight ranges move round and round four nodes while keys are written, and each node has watchers of all: of its own replicas, and by links from others. None of
// them reads history, wherever its feeds come from, and nothing is lost, and nothing comes twice.
func TestWatchersOutliveMoves(t *testing.T) {
	beside(t)
	pontoonOnly(t)
	o := onFour()
	o.Args = append(o.Args, "--initial-split-keys=/order/1,/order/2,/order/3,/order/4,/order/5,/order/6,/order/7")
	c := newCluster(t, o)
	ctx := testContext(t, limit(3*time.Minute))
	moves, each := 8, 5
	if !testing.Short() {
		moves, each = 40, 25
	}
	var clients []*clientv3.Client
	for _, n := range c.Nodes {
		for range each {
			clients = append(clients, newClient(t, c, n.ClientURL))
		}
	}
	w := newComeback(ctx, t, newClient(t, c), len(clients))
	w.watch(ctx, t, clients)
	w.write(ctx, t, 100)
	w.catchUp(t)
	sum := func(name string) (n int) {
		for _, node := range c.Nodes {
			n += metric(ctx, t, node, name)
		}
		return n
	}
	before := sum("pontoon_watch_history_reads_total")
	for i := range moves {
		ops := harness.Ops{ClientURL: c.Nodes[i%4].ClientURL}
		r, from, to := aMove(c, ranges(t, c.Nodes[i%4]))
		op := beginMove(ctx, t, ops, r, from, to)
		w.write(ctx, t, 50)
		carriedOut(ctx, t, ops, op)
	}
	w.catchUp(t)
	w.leave()
	w.check(t)
	read := sum("pontoon_watch_history_reads_total") - before
	t.Logf("%d moves: %d reads of history by %d watchers; feeds went on %d times, began anew %d times", moves, read, len(clients), sum("pontoon_feeds_resumed_total"), sum("pontoon_feeds_abandoned_total"))
	if read > moves*each/5 {
		t.Errorf("%d reads of history", read)
	}
}

// comeback is a writer, and watchers of all that it writes.
type comeback struct {
	writer *clientv3.Client
	first  int64 // revision from which on it writes
	unsure bool  // a write may fail, which may have come to be all the same
	stop   func()
	wg     sync.WaitGroup

	mu      sync.Mutex
	written []int64
	got     [][]int64     // by watcher, revisions in the order in which they came
	at      [][]time.Time // when
}

func newComeback(ctx context.Context, t *testing.T, writer *clientv3.Client, watchers int) *comeback {
	t.Helper()
	r, err := writer.Get(ctx, "/order/")
	if err != nil {
		t.Fatal(err)
	}
	return &comeback{writer: writer, first: r.Header.Revision + 1, got: make([][]int64, watchers), at: make([][]time.Time, watchers)}
}

// write puts keys of several ranges, some hundred a second.
func (w *comeback) write(ctx context.Context, t *testing.T, puts int) {
	t.Helper()
	for i := range puts {
		r, err := w.writer.Put(ctx, fmt.Sprintf("/order/%d", i%10), "v")
		switch {
		case err == nil:
			w.mu.Lock()
			w.written = append(w.written, r.Header.Revision)
			w.mu.Unlock()
		case !w.unsure || ctx.Err() != nil:
			t.Fatal(err)
		}
		select {
		case <-time.After(3 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// watch begins all watchers, each behind what it has got.
func (w *comeback) watch(ctx context.Context, t *testing.T, clients []*clientv3.Client) {
	t.Helper()
	ctx, w.stop = context.WithCancel(ctx)
	for i, cl := range clients {
		from := w.first
		if n := len(w.got[i]); n > 0 {
			from = w.got[i][n-1] + 1
		}
		ch := cl.Watch(ctx, "/order/", clientv3.WithPrefix(), clientv3.WithRev(from))
		w.wg.Go(func() {
			for r := range ch {
				if err := r.Err(); err != nil && ctx.Err() == nil {
					t.Errorf("watcher %d: %v", i, err)
				}
				w.mu.Lock()
				for _, e := range r.Events {
					w.got[i], w.at[i] = append(w.got[i], e.Kv.ModRevision), append(w.at[i], time.Now())
				}
				w.mu.Unlock()
			}
		})
	}
}

// leave ends all watchers.
func (w *comeback) leave() {
	w.stop()
	w.wg.Wait()
}

// catchUp waits until all watchers have got what is written.
func (w *comeback) catchUp(t *testing.T) {
	t.Helper()
	eventually(t, limit(30*time.Second), "all watchers have got everything", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, got := range w.got {
			if n := len(w.written); n > 0 && (len(got) < n || got[len(got)-1] < w.written[n-1]) {
				return fmt.Errorf("watcher %d has %d of %d", i, len(got), n)
			}
		}
		return nil
	})
}

// silence is the longest pause in the deliveries of each watcher since a moment, of those where it is above what is usual, sorted.
func (w *comeback) silence(since time.Time) (out []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.at {
		longest, last := time.Duration(0), since
		for _, t := range at {
			if t.After(since) {
				longest, last = max(longest, t.Sub(last)), t
			}
		}
		if longest > 100*time.Millisecond || len(out) == 0 {
			out = append(out, longest)
		}
	}
	slices.Sort(out)
	return out
}

// check holds what watchers have got against what was written.
func (w *comeback) check(t *testing.T) {
	t.Helper()
	want := w.written
	if w.unsure { // whatever the first has got, if that is all that was answered, and more, in order
		want = w.got[0]
		for i, rev := range w.written {
			if _, there := slices.BinarySearch(want, rev); !there {
				t.Errorf("write %d, at %d, has not come", i, rev)
			}
		}
		if !slices.IsSorted(want) || len(slices.Compact(slices.Clone(want))) < len(want) {
			t.Error("events come twice, or not in order")
		}
	}
	for i, got := range w.got {
		if !slices.Equal(got, want) {
			t.Errorf("watcher %d got other events than were written: %d, %d written", i, len(got), len(want))
		}
	}
}
