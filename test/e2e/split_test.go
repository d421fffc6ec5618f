package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// split cuts a range and waits until it is done. Requests of the range have stood for so long.
func split(ctx context.Context, t *testing.T, c *harness.Cluster, key string) time.Duration {
	t.Helper()
	ops := harness.Ops{ClientURL: c.Nodes[rand.IntN(len(c.Nodes))].ClientURL}
	op, err := ops.BeginSplit(ctx, key, "test")
	if err != nil {
		t.Fatalf("split at %q: %v", key, err)
	}
	op = carriedOut(ctx, t, ops, op)
	return op.Stood()
}

// carriedOut waits until an op is done.
func carriedOut(ctx context.Context, t *testing.T, ops harness.Ops, op harness.Op) harness.Op {
	t.Helper()
	if op = awaitOver(ctx, t, ops, op); op.Failure != "" {
		t.Fatalf("op %d, a %s of r%d: %s", op.ID, op.Kind, op.Range, op.Failure)
	}
	return op
}

// awaitOver waits until an op is over.
func awaitOver(ctx context.Context, t *testing.T, ops harness.Ops, op harness.Op) harness.Op {
	t.Helper()
	eventually(t, limit(time.Minute), fmt.Sprintf("op %d, a %s of r%d, is over", op.ID, op.Kind, op.Range), func() error {
		now, err := ops.Op(ctx, op.ID)
		if err != nil {
			return err
		}
		if !now.Over() {
			return fmt.Errorf("%s: %s", now.Outcome, now.Waiting)
		}
		op = now
		return nil
	})
	return op
}

// TestSplit cuts a range under 64 writers, and the parts again, while one watcher watches everything: no client sees an
// error, no revision is left out, no write is lost, and the watcher hears of each once and in order.
func TestSplit(t *testing.T) {
	u := newUnderLoad(t, byHand(), 4*time.Minute)
	c, ctx, cl := u.c, u.ctx, u.cl
	splits := 200
	if testing.Short() {
		splits = 24
	}
	lease, err := cl.Grant(ctx, 3600) // its keys will be in many ranges
	if err != nil {
		t.Fatal(err)
	}
	leased := 0
	for i := 0; i < splits; i += 7 {
		if _, err := cl.Put(ctx, fmt.Sprintf("k/split/%02d/%03d/leased", i%writersAtOnce, i), "x", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		leased++
	}
	was := len(ranges(t, c.Nodes[0]))
	u.write(t, "k/split")
	var most time.Duration
	for i := range splits {
		key := fmt.Sprintf("k/split/%02d", i%writersAtOnce)
		if i >= writersAtOnce { // beside a key, not at one
			key = fmt.Sprintf("%s/%03d", key, i)
		}
		most = max(most, split(ctx, t, c, key))
	}
	planned := u.finish(t, termsByRange(t, c))
	t.Logf("%d splits, %d writes; requests of a range waited for %v at most; dense: %v", splits, len(u.w.revs), most, planned)
	if n := len(ranges(t, c.Nodes[0])); n != was+splits {
		t.Errorf("%d ranges, there were %d", n, was)
	}
	left, err := cl.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || len(left.Keys) != leased {
		t.Errorf("the lease has %d keys, %d were attached: %v", len(left.Keys), leased, err)
	}
	if _, err := cl.Revoke(ctx, lease.ID); err != nil {
		t.Error(err)
	}
	if resp, err := cl.Get(ctx, "k/split/", clientv3.WithPrefix()); err != nil || resp.Count != writersAtOnce {
		t.Errorf("%d keys are left after the lease has ended: %v", resp.Count, err)
	}
	splitErrors(ctx, t, c)
}

// firstTerm is that of a child's first leader.
const firstTerm = 6

// termsByRange are the terms of all leaders, the meta group's under 0.
func termsByRange(t *testing.T, c *harness.Cluster) map[uint64]uint64 {
	t.Helper()
	st, err := newClient(t, c).Status(testContext(t, 20*time.Second), c.Nodes[0].ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]uint64{0: st.RaftTerm}
	for _, r := range ranges(t, c.Nodes[0]) {
		out[r.ID] = r.Term
	}
	return out
}

// keptLeaders reports whether nobody was elected but the first leaders of new ranges.
func keptLeaders(before, after map[uint64]uint64) bool {
	for id, term := range after {
		if was, old := before[id]; old && term != was || !old && term != firstTerm {
			return false
		}
	}
	return true
}

// splitErrors: who asks for what cannot be is told why, and nothing changes.
func splitErrors(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	n := len(ranges(t, c.Nodes[0]))
	for _, key := range []string{"", "k/split/00"} {
		op, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.BeginSplit(ctx, key, "test")
		refused(t, fmt.Sprintf("split at %q", key), op, err)
	}
	if got := len(ranges(t, c.Nodes[0])); got != n {
		t.Errorf("%d ranges, there were %d", got, n)
	}
}

// TestSplitKill kills everything at random moments of splits, again and again: what was acknowledged is there, every op comes to
// its end, and all nodes hold the same.
func TestSplitKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdeal(t)
	rounds, pause := 6, 300*time.Millisecond
	if env.long {
		rounds, pause = 200, 2*time.Second // for no more ranges than nodes would have
	}
	begun := o.killDuring(rounds, pause, func(ctx context.Context, ops harness.Ops, i int) error {
		prefix := loadPrefixes()[rand.IntN(len(loadPrefixes()))]
		_, err := ops.BeginSplit(ctx, fmt.Sprintf("%s/load/%02d/%d", prefix, rand.IntN(6), i), "test")
		return err
	})
	t.Logf("%d splits begun, %d ranges", begun, len(ranges(t, o.c.Nodes[0])))
	o.verify()
}

// killDuring begins ops, with pauses up to so long in between, and kills at random moments of them. All have come to their end when it
// returns how many began.
func (o *ordeal) killDuring(rounds int, pause time.Duration, begin func(ctx context.Context, ops harness.Ops, i int) error) (begun int) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(rand.N(pause)):
			}
			ctx, cancel := context.WithTimeout(o.ctx, 2*time.Second)
			if begin(ctx, harness.Ops{ClientURL: o.c.Nodes[i%len(o.c.Nodes)].ClientURL}, i) == nil {
				begun++
			}
			cancel()
		}
	})
	for i := range rounds {
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		switch i % 3 {
		case 0:
			o.killAll()
		case 1:
			o.kill("a range's leader", o.rangeLeader())
		default:
			o.kill("the oracle's node", o.oracleNode())
		}
	}
	close(stop)
	wg.Wait()
	eventually(o.t, limit(2*time.Minute), "all ops are over", func() error {
		_, err := harness.Ops{ClientURL: o.c.Nodes[0].ClientURL}.AllOver(o.ctx)
		return err
	})
	return begun
}
