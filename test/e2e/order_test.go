package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestGlobalOrder lets many writers work on all ranges while one watcher follows the whole key
// space from revision 1, then compares what it saw with what the cluster holds.
func TestGlobalOrder(t *testing.T) {
	lengthy(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 3*time.Minute)
	watcher := newClient(t, c, c.Nodes[2].ClientURL)
	rec := newRecorder()
	watching := rec.watch(ctx, watcher)

	l := newLoad(t, c, loadOptions{Writers: 16, Keys: 8, Deletes: true, Txns: true})
	before := terms(t, c)
	l.start(ctx)
	time.Sleep(4 * time.Second)
	acked := l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d writes failed without a failure: %v", l.failed.Load(), l.lastError.Load())
	}

	last := lastRevision(acked)
	t.Logf("%d acknowledged writes, last revision %d", len(acked), last)
	rec.waitFor(t, last, limit(20*time.Second))
	watching.stop(t)

	h := rec.snapshot()
	h.checkOrder(t)
	h.checkAcked(t, acked)
	if after := terms(t, c); after == before {
		h.checkDense(t, last)
	} else { // the machine stood still for so long that leaders were elected
		t.Logf("revisions may have gaps: leaders changed, from terms %s to %s", before, after)
	}
	cl := newClient(t, c)
	for range 12 {
		checkState(ctx, t, cl, h, 2+rand.Int64N(last-1))
	}
	checkState(ctx, t, cl, h, last)
	checkSecondWatch(ctx, t, newClient(t, c, c.Nodes[0].ClientURL), h, last)
}

// terms tells of every change of a leader.
func terms(t *testing.T, c *harness.Cluster) string {
	t.Helper()
	if env.kind != harness.Pontoon {
		return ""
	}
	st, err := newClient(t, c).Status(testContext(t, 20*time.Second), c.Nodes[0].ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprint(st.RaftTerm)
	for _, r := range ranges(t, c.Nodes[0]) {
		out += fmt.Sprintf(" %d", r.Term)
	}
	return out
}

// checkState compares the state at a revision with the history replayed up to it.
func checkState(ctx context.Context, t *testing.T, cl *clientv3.Client, h history, rev int64) {
	t.Helper()
	resp, err := cl.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(rev))
	if err != nil {
		t.Fatal(err)
	}
	want := h.stateAt(rev)
	if len(resp.Kvs) != len(want) {
		t.Errorf("at %d: %d keys, the events say %d", rev, len(resp.Kvs), len(want))
	}
	for _, kv := range resp.Kvs {
		w, ok := want[string(kv.Key)]
		if !ok || w.value != string(kv.Value) || w.rev != kv.ModRevision || w.version != kv.Version || w.create != kv.CreateRevision {
			t.Errorf("at %d: %s is %v, the events say %+v", rev, kv.Key, kv, w)
		}
	}
}

// checkSecondWatch replays from the past through another node: the same events.
func checkSecondWatch(ctx context.Context, t *testing.T, cl *clientv3.Client, h history, last int64) {
	t.Helper()
	rec := newRecorder()
	w := rec.watch(ctx, cl)
	rec.waitFor(t, last, limit(20*time.Second))
	w.stop(t)
	again := rec.snapshot()
	if a, b := h.text(last), again.text(last); a != b {
		t.Errorf("a second watcher saw another history:\n%s", firstDifference(a, b))
	}
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return fmt.Sprintf("line %d: %s\n      or: %s", i, as[i], bs[i])
		}
	}
	return fmt.Sprintf("%d or %d lines", len(as), len(bs))
}
