package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestAutoCompaction: history that is older than the retention goes by itself, on all nodes and in all ranges; what is younger stays.
func TestAutoCompaction(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{Args: []string{"--auto-compaction-mode=periodic", "--auto-compaction-retention=2s"}})
	ctx := testContext(t, limit(60*time.Second))
	clients := make([]*clientv3.Client, len(c.Nodes))
	for i, n := range c.Nodes {
		clients[i] = newClient(t, c, n.ClientURL)
	}
	keys := sampleKeys()
	var first int64
	for i, key := range keys {
		resp, err := clients[0].Put(ctx, key, "old")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = resp.Header.Revision
		}
	}
	eventually(t, limit(30*time.Second), "the first put to be forgotten everywhere", func() error {
		resp, err := clients[0].Put(ctx, keys[0], "new")
		if err != nil {
			return err
		}
		for i, cl := range clients {
			if _, err := cl.Get(ctx, keys[len(keys)-1], clientv3.WithRev(first)); !errors.Is(err, rpctypes.ErrCompacted) {
				return fmt.Errorf("%s at %d: %v", c.Nodes[i].Name, first, err)
			}
			if _, err := cl.Get(ctx, keys[0], clientv3.WithRev(resp.Header.Revision)); err != nil {
				t.Fatalf("%s at the newest revision: %v", c.Nodes[i].Name, err)
			}
		}
		return nil
	})
	compact := 0
	for _, n := range c.Nodes {
		if strings.Contains(n.Log(), "completed auto periodic compaction") {
			compact++
		}
	}
	if compact == 0 {
		t.Error("no node says in its log that it has compacted")
	}
}
