package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestGatewayLinks: a gateway has the feeds of 65 ranges by a link to each node. Ranges are cut, and each node is killed in turn, while
// everything is written to and a watcher at the gateway watches it all: every write is delivered once and in order, and the links are there
// again in the end.
func TestGatewayLinks(t *testing.T) {
	pontoonOnly(t)
	cuts := []string{"/order/1k"}
	for i := 1; i < writersAtOnce; i++ {
		cuts = append(cuts, fmt.Sprintf("k/links/%02d", i))
	}
	o := byHand()
	o.Args = append(o.Args, "--initial-split-keys="+strings.Join(cuts, ","))
	c := newCluster(t, o)
	ctx := testContext(t, limit(4*time.Minute))
	gate := startGateway(t, c, "g1")
	rec := newRecorder()
	watcher := newClient(t, c, gate.ClientURL)
	watching := rec.watch(ctx, watcher)
	go askProgress(ctx, watcher)
	cl := newClient(t, c)

	writers := startIdleWriters(ctx, t, &harness.Cluster{Nodes: []*harness.Node{gate}}, "k/links", 5*time.Millisecond)
	rec.waitFor(t, 100, limit(20*time.Second))
	if n := metric(ctx, t, gate, "pontoon_links"); n != 3 {
		t.Errorf("%d links bring the feeds of %d ranges", n, len(cuts)+1)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i, dies := range c.Nodes {
		ops := harness.Ops{ClientURL: c.Nodes[(i+1)%len(c.Nodes)].ClientURL}
		for n := range 6 {
			if n == 3 {
				if err := dies.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			op, err := ops.BeginSplit(ctx, fmt.Sprintf("k/links/%02d/%d", rng.IntN(writersAtOnce), rng.IntN(1000)), "test")
			if err == nil && n < 3 { // one that began as a node died ends when it can
				carriedOut(ctx, t, ops, op)
			}
		}
		rec.waitFor(t, writers.newest(), limit(40*time.Second))
		if err := dies.Start(); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	writers.end() // requests that were under way when a node died may have failed
	put, err := cl.Put(ctx, "k/last", "")
	if err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, put.Header.Revision, limit(40*time.Second))
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	checkState(ctx, t, cl, h, put.Header.Revision)
	if n := metric(ctx, t, gate, "pontoon_links"); n < 2 || n > 3 {
		t.Errorf("%d links are open in the end", n)
	}
	t.Logf("%d revisions; links broke %d times; %d histories were read", put.Header.Revision, metric(ctx, t, gate, "pontoon_watch_feed_failures_total"), metric(ctx, t, gate, "pontoon_watch_history_reads_total"))
}

// TestGatewayLeavesASilentNode: a node is stopped, and its system keeps its connections. A gateway has the feeds from others as soon as it has heard
// nothing for three seconds, and its watcher goes on.
func TestGatewayLeavesASilentNode(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	var cuts []string // so many that some feed comes from each node
	for i := 1; i < writersAtOnce; i += 2 {
		cuts = append(cuts, fmt.Sprintf("k/silent/%02d", i))
	}
	o := byHand()
	o.Args = append(o.Args, "--initial-split-keys="+strings.Join(cuts, ","))
	c := newCluster(t, o)
	ctx := testContext(t, limit(2*time.Minute))
	gate := startGateway(t, c, "g1")
	rec := newRecorder()
	watching := rec.watch(ctx, newClient(t, c, gate.ClientURL))
	cl := newClient(t, c)
	var last int64
	put := func(cl *clientv3.Client) { // to every range
		for i := range writersAtOnce {
			eventually(t, limit(20*time.Second), "a put", func() error {
				resp, err := cl.Put(ctx, fmt.Sprintf("k/silent/%02d", i), "")
				if err == nil {
					last = resp.Header.Revision
				}
				return err
			})
		}
		rec.waitFor(t, last, limit(20*time.Second))
	}
	put(cl)
	for i, silent := range c.Nodes {
		if err := silent.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		eventually(t, limit(12*time.Second), "the gateway leaves a silent node", func() error {
			if n := strings.Count(gate.Log(), "it has said nothing for three intervals"); n <= i {
				return fmt.Errorf("%d links were left", n)
			}
			return nil
		})
		left := time.Since(began)
		put(newClient(t, c, c.Nodes[(i+1)%len(c.Nodes)].ClientURL))
		t.Logf("%s was left after %v, and watched around after %v", silent.Name, left, time.Since(began))
		if err := silent.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	put(cl)
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	checkState(ctx, t, cl, h, last)
}
