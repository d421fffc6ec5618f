package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// The tests of this file are what elasticity is measured by: their long forms are as large as was promised, and tell the figures. What a slow
// machine would change is told and not judged.

// crowd is many watchers, each of a key of its own, and what they have heard.
type crowd struct {
	wg     sync.WaitGroup
	mu     sync.Mutex
	heard  []int // versions, per key
	wrong  []error
	delays latencies
}

func crowdKey(i int) string { return fmt.Sprintf("k/crowd/%05d", i) }

// follow watches keys from..to with one client until ctx ends. Values are the times at which they were written.
func (w *crowd) follow(ctx context.Context, cl *clientv3.Client, from, to int) {
	for i := from; i < to; i++ {
		ch := cl.Watch(ctx, crowdKey(i), clientv3.WithCreatedNotify())
		<-ch
		w.wg.Go(func() {
			for resp := range ch {
				now := time.Now()
				w.mu.Lock()
				for _, ev := range resp.Events {
					w.heard[i]++
					if int(ev.Kv.Version) != w.heard[i] {
						w.wrong = append(w.wrong, fmt.Errorf("%s: version %d is event %d", ev.Kv.Key, ev.Kv.Version, w.heard[i]))
					}
				}
				w.mu.Unlock()
				for _, ev := range resp.Events {
					at, err := strconv.ParseInt(string(ev.Kv.Value), 10, 64)
					w.delays.note(now.Sub(time.Unix(0, at)), err)
				}
			}
		})
	}
}

// TestSplitUnderWatchers cuts a range that ten thousand watch: each hears of each change of its key once and in order, and nobody has to read history.
func TestSplitUnderWatchers(t *testing.T) {
	lengthy(t)
	u := newUnderLoad(t, still(), 6*time.Minute)
	c, ctx := u.c, u.ctx
	watchers, cuts, clients := 900, 4, 6
	if env.long {
		watchers, cuts, clients = 10_000, 20, 60
	}
	w := &crowd{heard: make([]int, watchers)}
	watch, stop := context.WithCancel(ctx)
	var setup sync.WaitGroup
	for k := range clients {
		cl := newClient(t, c, c.Nodes[k%len(c.Nodes)].ClientURL)
		setup.Go(func() { w.follow(watch, cl, k*watchers/clients, (k+1)*watchers/clients) })
	}
	setup.Wait()
	reads := func() (n int) {
		for _, node := range c.Nodes {
			n += metric(ctx, t, node, "pontoon_watch_history_reads_total")
		}
		return n
	}
	u.write(t, "k/other")
	// Puts come at an even pace: what they wait for is seen in the delays.
	written := make([]int, watchers)
	ended := make(chan struct{})
	var puts sync.WaitGroup
	for k := range 8 {
		cl := newClient(t, c, c.Nodes[k%len(c.Nodes)].ClientURL)
		puts.Go(func() {
			beat := time.NewTicker(20 * time.Millisecond)
			defer beat.Stop()
			for {
				select {
				case <-ended:
					return
				case <-beat.C:
				}
				i := rand.IntN(watchers/8)*8 + k // its own
				resp, err := cl.Put(ctx, crowdKey(i), fmt.Sprint(time.Now().UnixNano()))
				if err != nil {
					t.Errorf("a client's error: %v", err)
					return
				}
				u.w.also(resp.Header.Revision)
				written[i]++
			}
		})
	}
	during := func(what func()) []time.Duration {
		w.delays.take()
		over := time.After(10 * time.Second)
		what()
		<-over
		return w.delays.take()
	}
	before, was := during(func() {}), reads()
	cut := during(func() {
		for i := range cuts {
			split(ctx, t, c, crowdKey((2*i+1)*watchers/cuts/2))
		}
	})
	read := reads() - was
	close(ended)
	puts.Wait()
	planned := u.finish(t, termsByRange(t, c))
	eventually(t, limit(20*time.Second), "all have heard of everything", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := range written {
			if w.heard[i] < written[i] {
				return fmt.Errorf("%s: %d of %d", crowdKey(i), w.heard[i], written[i])
			}
		}
		return nil
	})
	stop()
	w.wg.Wait()
	for i := range written {
		if w.heard[i] != written[i] {
			t.Errorf("%s: %d events of %d changes", crowdKey(i), w.heard[i], written[i])
		}
	}
	if len(w.wrong) > 0 || w.delays.err != nil {
		t.Errorf("%d events out of order: %v; %v", len(w.wrong), w.wrong[:min(3, len(w.wrong))], w.delays.err)
	}
	t.Logf("%d watchers, %d cuts, %d reads of history; dense: %v", watchers, cuts, read, planned)
	t.Logf("events before: %s", quantiles(before))
	t.Logf("and in the cuts: %s", quantiles(cut))
	if read > 100 {
		t.Errorf("%d reads of history", read)
	}
}

// TestDrainManyLeads drains a node that leads hundreds of ranges, under load: it leads nothing soon, no client sees an error and no revision is left out.
func TestDrainManyLeads(t *testing.T) {
	lengthy(t)
	count := 60
	if env.long {
		count = 900
	}
	o := byHand()
	o.Ranges = count
	u := newUnderLoad(t, o, 6*time.Minute)
	c, ctx := u.c, u.ctx
	name := c.Nodes[2].Name
	u.write(t, "k/drain")
	_, leads := holds(ranges(t, c.Nodes[0]))
	began := time.Now()
	if err := (harness.Ops{ClientURL: c.Nodes[0].ClientURL}).Drain(ctx, name, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(time.Minute), "it leads nothing", func() error {
		if _, now := holds(ranges(t, c.Nodes[0])); now[name] > 0 {
			return fmt.Errorf("%d ranges", now[name])
		}
		return nil
	})
	took := time.Since(began)
	u.before = termsByRange(t, c) // the leads that were given away
	planned := u.finish(t, termsByRange(t, c))
	t.Logf("%d of %d leads were given away in %v, under %d writes; dense: %v", leads[name], count, took, len(u.w.revs), planned)
}

// TestMetaLeaderRemoved removes the member that leads the meta group, under load: the oracle is silent for less than an election, no revision is left
// out and none is given twice.
func TestMetaLeaderRemoved(t *testing.T) {
	lengthy(t)
	u := newUnderLoad(t, harness.Options{Nodes: 4, Ranges: 8, Args: byHand().Args}, 4*time.Minute)
	c, ctx := u.c, u.ctx
	at := metaNow(t, c, 0)
	i := slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == nameOf(at) })
	rest := but(c, i)
	u.watching.stop(t)
	u.c, u.cl = rest, newClient(t, rest)
	u.rec = newRecorder()
	u.watching = u.rec.watch(ctx, newClient(t, rest, rest.Nodes[0].ClientURL))
	u.write(t, "k/removed")
	var lat latencies
	ended := make(chan struct{})
	var one sync.WaitGroup
	one.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
			}
			began := time.Now()
			resp, err := u.cl.Put(ctx, "/order/beside", "x")
			if lat.note(time.Since(began), err); err == nil {
				u.w.also(resp.Header.Revision)
			}
		}
	})
	eventually(t, limit(30*time.Second), "the member is removed", func() error { // the others are to have been within reach for a while
		_, err := u.cl.MemberRemove(ctx, at.Leader)
		return err
	})
	eventually(t, limit(time.Minute), "it holds nothing", func() error {
		for _, r := range append(ranges(t, rest.Nodes[0]), metaNow(t, rest, at.Generation+1)) {
			for _, on := range r.Replicas {
				if on.Node == at.Leader {
					return fmt.Errorf("r%d is on it", r.ID)
				}
			}
		}
		return nil
	})
	close(ended)
	one.Wait()
	u.before = termsByRange(t, rest)
	planned := u.finish(t, termsByRange(t, rest))
	waits := lat.take()
	t.Logf("puts beside it: %s; dense: %v", quantiles(waits), planned)
	if lat.err != nil {
		t.Errorf("a client's error: %v", lat.err)
	}
}
