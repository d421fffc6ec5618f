package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// falsify takes one version out of a replica's file, as if its node had never carried that out. Each record has its own checksum, so no look at
// the file alone shows it. The node is stopped.
func falsify(t *testing.T, n *harness.Node, id uint64) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(n.DataDir, "ranges", fmt.Sprintf("r%d", id), "mvcc.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		log := tx.Bucket([]byte("log"))
		c := log.Cursor()
		k, _ := c.First()
		for range 10 {
			k, _ = c.Next()
		}
		return log.Delete(k)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestReplicaThatDiffersIsRebuilt: a replica that does not hold what the others do is found by comparison, and gets the state of the others, while clients
// are served; by each of the three ways to ask for that.
func TestReplicaThatDiffersIsRebuilt(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	for name, args := range map[string][]string{
		"periodic":   {"--corrupt-check-time=1s"},
		"compaction": {"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"},
		"start":      {"--feature-gates=InitialCorruptCheck=true"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, harness.Options{Ranges: 1, Args: append(args, "--placement=off")})
			ctx := testContext(t, 2*time.Minute)
			cl := newClient(t, c, c.Nodes[0].ClientURL, c.Nodes[1].ClientURL)
			var last int64
			put := func(key string) {
				t.Helper()
				resp, err := cl.Put(ctx, key, "v")
				if err != nil {
					t.Fatal(err)
				}
				last = resp.Header.Revision
			}
			for i := range 50 {
				put(fmt.Sprintf("key/%02d", i))
			}
			bad := c.Nodes[2]
			if _, _, err := bad.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			falsify(t, bad, ranges(t, c.Nodes[0])[0].ID)
			mark := len(bad.Log())
			if err := bad.Start(); err != nil {
				t.Fatal(err)
			}
			if err := bad.WaitReady(ctx); err != nil {
				t.Fatal(err)
			}
			put("key/after")
			if name == "compaction" {
				if _, err := cl.Compact(ctx, last-1); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, limit(30*time.Second), "the replica is rebuilt", func() error {
				if !strings.Contains(bad.Log()[mark:], "a replica is damaged: it is stopped, and rebuilt from its peers") {
					return fmt.Errorf("%s says nothing", bad.Name)
				}
				own := newClient(t, c, bad.ClientURL)
				resp, err := own.Get(ctx, "key/", clientv3.WithPrefix(), clientv3.WithSerializable())
				if err != nil {
					return err
				}
				if len(resp.Kvs) != 51 {
					return fmt.Errorf("it has %d keys", len(resp.Kvs))
				}
				return nil
			})
			put("key/behind")
			sameHash(ctx, t, newClient(t, c), c, last)
			for _, n := range c.Nodes[:2] {
				if strings.Contains(n.Log(), "a replica is damaged") {
					t.Errorf("%s is taken for damaged, too", n.Name)
				}
			}
		})
	}
}
