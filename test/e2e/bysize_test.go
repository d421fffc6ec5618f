package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// sizedKeys of 4 KiB are loaded, 12 MiB.
const sizedKeys = 3072

// loadSized puts the keys, with eight writers. No client sees an error.
func loadSized(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	cl := newClient(t, c)
	value := strings.Repeat("v", 4<<10)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < sizedKeys; i += 8 {
				if _, err := cl.Put(ctx, fmt.Sprintf("k/size/%05d", i), value); err != nil {
					t.Errorf("key %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestSplitsBySize: what is loaded into one range becomes several, none of them much too large, while clients see no error; and
// nothing is missing.
func TestSplitsBySize(t *testing.T) {
	pontoonOnly(t)
	const limitBytes = 2 << 20
	c := newCluster(t, harness.Options{Ranges: 1, Args: []string{fmt.Sprintf("--range-max-bytes=%d", limitBytes)}})
	ctx := testContext(t, 3*time.Minute)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // somebody goes on while ranges are cut
		cl := newClient(t, c)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := cl.Put(ctx, fmt.Sprintf("k/size/%05d/more", i*37%sizedKeys), "x"); err != nil {
				t.Errorf("beside splits: %v", err)
				return
			}
		}
	})
	loadSized(ctx, t, c)
	eventually(t, limit(time.Minute), "ranges are as large as they may be", func() error {
		rs := ranges(t, c.Nodes[0])
		if len(rs) < 4 {
			return fmt.Errorf("%d ranges", len(rs))
		}
		for _, r := range rs {
			if r.InUse > 2*limitBytes {
				return fmt.Errorf("r%d, of %d ranges, has %d bytes in use", r.ID, len(rs), r.InUse)
			}
		}
		return nil
	})
	close(stop)
	wg.Wait()
	cl := newClient(t, c, c.Nodes[1].ClientURL)
	resp, err := cl.Get(ctx, "k/size/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, kv := range resp.Kvs {
		if !bytes.HasSuffix(kv.Key, []byte("/more")) {
			n++
		}
	}
	if n != sizedKeys {
		t.Errorf("%d keys of %d are there", n, sizedKeys)
	}
	ops, err := harness.Ops{ClientURL: c.Nodes[0].ClientURL}.List(ctx)
	if err != nil || len(ops) == 0 {
		t.Fatalf("%v, %v", ops, err)
	}
	for _, op := range ops {
		if !strings.HasPrefix(op.Reason, "by size: ") || op.Failure != "" {
			t.Errorf("%+v", op)
		}
	}
	t.Logf("%d ranges after %d splits", len(ranges(t, c.Nodes[0])), len(ops))
}

// TestPlacementOff: nothing is cut by itself where that was not wanted. That it would have been by now, a cluster beside it shows.
func TestPlacementOff(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	args := []string{"--range-max-bytes=1MiB"}
	off := newCluster(t, harness.Options{Ranges: 1, Nodes: 1, Args: append(args, "--placement=off")})
	on := newCluster(t, harness.Options{Ranges: 1, Nodes: 1, Args: args})
	ctx := testContext(t, 3*time.Minute)
	loadSized(ctx, t, off)
	loadSized(ctx, t, on)
	eventually(t, limit(time.Minute), "the other cluster has been cut twice", func() error {
		if n := len(ranges(t, on.Nodes[0])); n < 3 {
			return fmt.Errorf("%d ranges", n)
		}
		return nil
	})
	if n := len(ranges(t, off.Nodes[0])); n != 1 {
		t.Errorf("%d ranges", n)
	}
}
