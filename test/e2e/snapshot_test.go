package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// TestSnapshotCatchUp keeps a node down until the others have cut their logs: it can only come
// back by a snapshot, and must then hold what they hold.
func TestSnapshotCatchUp(t *testing.T) {
	lengthy(t)
	c := newCluster(t, harness.Options{Args: []string{"--snapshot-count=50", "--snapshot-catchup-entries=50"}})
	ctx := testContext(t, 4*time.Minute)
	cl := newClient(t, c, c.Nodes[0].ClientURL, c.Nodes[1].ClientURL)
	if _, err := cl.Put(ctx, "/page/07/before", "x"); err != nil {
		t.Fatal(err)
	}
	late := c.Nodes[2]
	if err := late.Kill(); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("v", 1000)
	// One writer per range and one write per entry, so that every log grows far beyond the cut.
	prefixes := loadPrefixes()
	parallel(t, len(prefixes), len(prefixes), func(i int) error {
		for n := range 600 {
			if _, err := cl.Put(ctx, fmt.Sprintf("%s/snap/%03d", prefixes[i], n%300), value); err != nil {
				return err
			}
		}
		_, err := cl.Delete(ctx, prefixes[i]+"/snap/", clientv3.WithRange(prefixes[i]+"/snap/100"))
		return err
	})
	last, err := cl.Put(ctx, "/page/07/after", "x")
	if err != nil {
		t.Fatal(err)
	}
	mark := len(late.Log())
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	if err := late.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	all := newClient(t, c)
	sameHash(ctx, t, all, c, last.Header.Revision)
	if log := late.Log()[mark:]; !strings.Contains(log, "snapshot") {
		t.Errorf("the node says nothing of a snapshot")
	}

	// The late node answers by itself, and takes part again: with it, any other may go.
	own := newClient(t, c, late.ClientURL)
	eventually(t, limit(20*time.Second), "the late node has everything", func() error {
		resp, err := own.Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil {
			return err
		}
		want, err := cl.Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		if resp.Count != want.Count {
			return fmt.Errorf("it has %d keys of %d", resp.Count, want.Count)
		}
		return nil
	})
	if err := c.Nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(20*time.Second), "writes without the first node", func() error {
		for _, p := range prefixes {
			if _, err := own.Put(ctx, p+"/snap/again", "x"); err != nil {
				return err
			}
		}
		return nil
	})
}
