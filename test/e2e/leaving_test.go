package e2e

import (
	"fmt"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// TestSourceThatStops: a member and a gateway that are stopped in the planned way tell those who have feeds from them, which have them from elsewhere before: a watcher
// behind them has each event once and in order, and history is hardly read for it; and where a gateway above is there again, feeds come from it again.
func TestSourceThatStops(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(4*time.Minute))
	one := linkGateway(t, c, "g1")
	restartGateway(t, one)
	two := linkGateway(t, c, "g2", one)
	restartGateway(t, two)
	awaitListed(ctx, t, c.Nodes[0], "g2", "has found the other one", func(g listedGateway) bool { return g.Level == 2 })
	for i := range 8 {
		split(ctx, t, c, fmt.Sprintf("k/leave/%02d", 5*i+1))
	}
	rec := newRecorder()
	watching := rec.watch(ctx, newClient(t, c, two.ClientURL))
	cl := newClient(t, c)
	w := startWriters(ctx, t, &harness.Cluster{Nodes: c.Nodes[:2]}, "k/leave")
	rec.waitFor(t, w.newest()+100, limit(20*time.Second))
	reads := func() int { return metric(ctx, t, two, "pontoon_watch_history_reads_total") }
	moved := func() int { return metric(ctx, t, two, "pontoon_feeds_moved_total") }
	before := reads()
	stop := func(n *harness.Node) {
		t.Helper()
		took, code, err := n.Stop(ctx)
		if err != nil || code != 0 {
			t.Fatalf("%s stopped with %d, %v", n.Name, code, err)
		}
		rec.waitFor(t, w.newest(), limit(20*time.Second))
		t.Logf("%s stopped in %v: %d feeds of %s have moved, history was read %d times", n.Name, took, moved(), two.Name, reads()-before)
	}
	stop(one)
	n := moved()
	if n < 8 {
		t.Errorf("%d feeds moved from the gateway that stopped", n)
	}
	stop(c.Nodes[2])
	if err := c.Nodes[2].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	restartGateway(t, one)
	awaitListed(ctx, t, c.Nodes[0], "g2", "has its feeds from the other one again", func(g listedGateway) bool { return upstreamFeeds(g) >= 9 })
	rec.waitFor(t, w.newest(), limit(20*time.Second))
	if r, m := reads()-before, moved(); 2*r > m { // each feed that begins anew with a gap is one at least
		t.Errorf("history was read %d times, and %d feeds have moved", r, m)
	}
	w.end()
	put, err := cl.Put(ctx, "k/last", "")
	if err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, put.Header.Revision, limit(30*time.Second))
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	checkState(ctx, t, cl, h, put.Header.Revision)
	if late := metric(ctx, t, two, "pontoon_watch_late_events_total"); late != 0 {
		t.Errorf("%d events came late", late)
	}
}
