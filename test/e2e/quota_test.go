package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestQuota: 64 writers on 8 ranges fill a small quota. From the first refusal on nothing comes through but what was under way, deletes go on, and compaction,
// Defragment and a disarm lead out without a restart.
func TestQuota(t *testing.T) {
	for _, quota := range []int64{13 * 4096, 64 << 20} {
		t.Run(fmt.Sprint(quota), func(t *testing.T) { fillQuota(t, quota) })
	}
}

func fillQuota(t *testing.T, quota int64) {
	const writers = 64
	c := newCluster(t, harness.Options{Ranges: 8, Args: []string{fmt.Sprintf("--quota-backend-bytes=%d", quota)}})
	ctx := testContext(t, limit(3*time.Minute))
	clients := make([]*clientv3.Client, len(c.Nodes))
	for i, n := range c.Nodes {
		clients[i] = newClient(t, c, n.ClientURL)
	}
	// Alarms go by a format of their own, which comes into force once all members have said that they know it: until then none can be raised.
	eventually(t, limit(10*time.Second), "alarms can be raised", func() error {
		for _, n := range c.Nodes {
			if says(n, "every member speaks a newer version of the formats") == nil {
				return nil
			}
		}
		return fmt.Errorf("no node says so")
	})
	value := strings.Repeat("v", int(min(quota/64, 64<<10)))
	var refused, after atomic.Int64 // when the first was told; writes that were begun after that and came through
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				begun := refused.Load() > 0
				_, err := clients[w%len(clients)].Put(ctx, fmt.Sprintf("%c/%d/%d", byte(w*4), w, i), value)
				switch {
				case err == nil && begun:
					after.Add(1)
				case err != nil && err != rpctypes.ErrNoSpace:
					t.Errorf("writer %d: %v", w, err)
					return
				case err != nil:
					refused.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if n := after.Load(); n > 0 {
		t.Errorf("%d writes came through that were begun after one was told that there is no space", n)
	}
	emptyAgain(ctx, t, clients, quota)
}

// emptyAgain makes room while the alarm stands, and clears it.
func emptyAgain(ctx context.Context, t *testing.T, clients []*clientv3.Client, quota int64) {
	cl := clients[0]
	if alarms, err := cl.AlarmList(ctx); err != nil || len(alarms.Alarms) == 0 {
		t.Errorf("alarms: %v, %v", alarms, err)
	}
	if _, err := cl.Grant(ctx, 60); err != rpctypes.ErrNoSpace {
		t.Errorf("a lease: %v", err)
	}
	del, err := cl.Delete(ctx, "", clientv3.WithPrefix())
	if err != nil || del.Deleted == 0 {
		t.Fatalf("deletes under the alarm: %v, %v", del, err)
	}
	if _, err := cl.Compact(ctx, del.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatalf("compaction under the alarm: %v", err)
	}
	for _, c := range clients { // each carries the compaction out in its own time
		eventually(t, limit(20*time.Second), "defragmentation makes room under the alarm", func() error {
			if _, err := c.Defragment(ctx, c.Endpoints()[0]); err != nil {
				return err
			}
			st, err := c.Status(ctx, c.Endpoints()[0])
			if err == nil && st.DbSize >= quota/2 {
				err = fmt.Errorf("%d bytes of %d are taken", st.DbSize, quota)
			}
			return err
		})
	}
	if _, err := cl.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		t.Fatalf("disarm: %v", err)
	}
	for i, c := range clients {
		if _, err := c.Put(ctx, fmt.Sprint("again ", i), "v"); err != nil {
			t.Errorf("after the disarm: %v", err)
		}
	}
}
