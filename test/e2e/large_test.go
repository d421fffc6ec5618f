package e2e

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// each runs fn for 0…n-1 by 64 workers.
func each(n int, fn func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range next {
				fn(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// wideKey spreads keys over the ranges of a cluster that is cut into equal parts.
func wideKey(i int, rest string) string { return string([]byte{byte(i * 4)}) + rest }

// TestLargeDelete deletes everything at once: one revision for every watcher. Long: a million keys.
func TestLargeDelete(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	txns := 1000
	if env.long {
		txns = 10_000
	}
	const perTxn = 100
	c := newCluster(t, harness.Options{Ranges: 64})
	ctx := testContext(t, limit(8*time.Minute))
	cl, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: 10 * time.Second, Logger: zap.NewNop(), MaxCallRecvMsgSize: math.MaxInt32})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	each(txns, func(i int) {
		var ops []clientv3.Op
		for j := range perTxn {
			ops = append(ops, clientv3.OpPut(wideKey(i, fmt.Sprintf("/large/%06d/%02d", i, j)), "some value of a key"))
		}
		if _, err := cl.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Error(err)
		}
	})
	all, err := cl.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || all.Count != int64(txns*perTxn) {
		t.Fatalf("%v, %v", all, err)
	}
	watch := cl.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithRev(all.Header.Revision+1), clientv3.WithFragment())
	began := time.Now()
	del, err := cl.Delete(ctx, "", clientv3.WithPrefix())
	if err != nil || del.Deleted != all.Count || del.Header.Revision != all.Header.Revision+1 {
		t.Fatalf("%v, %v", del, err)
	}
	took := time.Since(began)
	seen := int64(0)
	for seen < all.Count {
		w := <-watch
		if err := w.Err(); err != nil || len(w.Events) == 0 {
			t.Fatalf("the watch ended after %d of %d events: %v", seen, all.Count, err)
		}
		for _, ev := range w.Events {
			if ev.Kv.ModRevision != del.Header.Revision {
				t.Fatalf("an event at %d, deleted at %d", ev.Kv.ModRevision, del.Header.Revision)
			}
			seen++
		}
	}
	t.Logf("%d keys of 64 ranges were deleted in %v, and watched after %v", seen, took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// TestExpiryStorm lets many leases run out at once: they all end, and other writes go on meanwhile.
// Long: a hundred thousand.
func TestExpiryStorm(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	n, ttl := 2000, int64(5)
	if env.long {
		n, ttl = 100_000, 120
	}
	c := newCluster(t, harness.Options{Ranges: 64})
	ctx := testContext(t, limit(8*time.Minute))
	cl := newClient(t, c)
	each(n, func(i int) {
		l, err := cl.Grant(ctx, ttl)
		if err != nil {
			t.Error(err)
			return
		}
		ops := []clientv3.Op{clientv3.OpPut(wideKey(i, fmt.Sprintf("/storm/%d", i)), "", clientv3.WithLease(l.ID))}
		if i%10 == 0 { // some over two ranges
			ops = append(ops, clientv3.OpPut(wideKey(i+7, fmt.Sprintf("/storm/%d", i)), "", clientv3.WithLease(l.ID)))
		}
		if _, err := cl.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Error(err)
		}
	})
	loaded := time.Now()
	var slowest time.Duration
	puts := 0
	eventually(t, limit(7*time.Minute), "all leases end", func() error {
		began := time.Now()
		if _, err := cl.Put(ctx, "\x80probe", ""); err != nil {
			t.Fatalf("a write during the storm: %v", err)
		}
		puts++
		slowest = max(slowest, time.Since(began))
		left, err := cl.Leases(ctx)
		if err != nil {
			return err
		}
		if len(left.Leases) > 0 {
			return fmt.Errorf("%d are left", len(left.Leases))
		}
		return nil
	})
	all, err := cl.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || all.Count != 1 {
		t.Errorf("keys are left: %v, %v", all, err)
	}
	t.Logf("%d leases had ended %v after the last was granted (TTL %d s); of %d other writes the slowest took %v",
		n, time.Since(loaded).Round(time.Millisecond), ttl, puts, slowest.Round(time.Millisecond))
}
