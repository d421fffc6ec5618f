package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"pontoon/test/e2e/harness"
)

// fileBytes is what the files of a node's ranges take on its disk. They are longer than that: bbolt makes room at their ends.
func fileBytes(t *testing.T, n *harness.Node) (sum int64) {
	t.Helper()
	for _, path := range rangeFiles(t, n) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		sum += st.Blocks * 512
	}
	return sum
}

// churn writes keys of several ranges again and again, and compacts all but the newest versions away.
func churn(ctx context.Context, t *testing.T, c *harness.Cluster, rounds int) {
	t.Helper()
	cl := newClient(t, c)
	value := strings.Repeat("v", 4000)
	prefixes := loadPrefixes()
	parallel(t, len(prefixes), len(prefixes), func(i int) error {
		for n := range rounds {
			if _, err := cl.Put(ctx, fmt.Sprintf("%s/churn/%02d", prefixes[i], n%10), value); err != nil {
				return err
			}
		}
		return nil
	})
	last, err := cl.Get(ctx, "none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Compact(ctx, last.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes { // each in its own time
		eventually(t, limit(30*time.Second), "what was compacted is gone", func() error {
			st, err := cl.Status(ctx, n.ClientURL)
			if err == nil && (st.DbSize < int64(rounds)*4000*int64(len(prefixes))/2 || st.DbSizeInUse > st.DbSize/4) {
				err = fmt.Errorf("%d bytes of %d are in use", st.DbSizeInUse, st.DbSize)
			}
			return err
		})
	}
}

// says: a node's log has the text.
func says(n *harness.Node, text string) error {
	if !strings.Contains(n.Log(), text) {
		return fmt.Errorf("%s does not say %q", n.Name, text)
	}
	return nil
}

// TestDefragment: `etcdctl defrag --cluster` gives back what a compaction has freed, under 64 writers who notice nothing.
func TestDefragment(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 150
	}
	u := newUnderLoad(t, harness.Options{}, 4*time.Minute)
	churn(u.ctx, t, u.c, rounds)
	u.write(t, "k/defragment")
	before := make([]int64, len(u.c.Nodes))
	for i, n := range u.c.Nodes {
		before[i] = fileBytes(t, n)
	}
	e := harness.Etcdctl{Binary: env.etcdctl, Endpoints: u.c.Endpoints()}
	out, err := e.Run(u.ctx, "", "defrag", "--cluster", "--command-timeout=60s")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, "Finished defragmenting etcd member"); n != len(u.c.Nodes) {
		t.Errorf("etcdctl says %q", out)
	}
	for i, n := range u.c.Nodes {
		after := fileBytes(t, n)
		t.Logf("%s: %d bytes, %d before", n.Name, after, before[i])
		if after > before[i]/2 {
			t.Errorf("%s gave back too little: %d bytes of %d are left", n.Name, after, before[i])
		}
		st, err := u.cl.Status(u.ctx, n.ClientURL)
		if err != nil {
			t.Fatal(err)
		}
		if st.DbSizeInUse > st.DbSize {
			t.Errorf("%s: %d bytes of %d are in use", n.Name, st.DbSizeInUse, st.DbSize)
		}
		for _, line := range []string{"starting defragment", "finished defragmenting directory", "finished defragment"} {
			if err := says(n, line); err != nil {
				t.Error(err)
			}
		}
	}
	u.finish(t, termsByRange(t, u.c))
	noOrphans(t, u.c)
}

// TestDefragmentKill kills everything at random moments of defragmentations: what was acknowledged is there, all nodes hold the same, and no half
// of a file is left over.
func TestDefragmentKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdeal(t)
	rounds := 6
	if env.long {
		rounds = 200
	}
	churn(o.ctx, t, o.c, 300)
	begun := o.killDuring(rounds, time.Second, func(ctx context.Context, ops harness.Ops, _ int) error {
		cl, err := clientv3.New(clientv3.Config{Endpoints: []string{ops.ClientURL}, DialTimeout: time.Second})
		if err != nil {
			return err
		}
		defer cl.Close() // nothing is lost by it
		_, err = cl.Defragment(ctx, ops.ClientURL)
		return err
	})
	t.Logf("%d nodes were defragmented", begun)
	o.verify()
	noOrphans(t, o.c)
	for _, n := range o.c.Nodes {
		if files, err := filepath.Glob(filepath.Join(n.DataDir, "ranges", "*", "*.defragment")); err != nil || len(files) > 0 {
			t.Errorf("%s has %v, %v", n.Name, files, err)
		}
	}
}

// TestDefragmentAtStart: a node that is told to defragments its files once it has started, if that gives enough back.
func TestDefragmentAtStart(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Args: []string{"--bootstrap-defrag-threshold-megabytes=1"}})
	ctx := testContext(t, 2*time.Minute)
	n := c.Nodes[0]
	eventually(t, limit(10*time.Second), "the node says that there is nothing to give back", func() error {
		return says(n, "Skipping defragmentation")
	})
	churn(ctx, t, c, 300)
	before := fileBytes(t, n)
	if _, _, err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(30*time.Second), "the files are defragmented", func() error { return says(n, "finished defragmenting directory") })
	if after := fileBytes(t, n); after > before/2 {
		t.Errorf("%d bytes of %d are left", after, before)
	}
}

// TestDefragmentOffline: bin/client defragments the files of a node that does not run, and leaves those of one that does alone.
func TestDefragmentOffline(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(t.TempDir(), "client")
	if err := build(client, root, "./cmd/client"); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	churn(ctx, t, c, 300)
	n := c.Nodes[2]
	if out, err := exec.CommandContext(ctx, client, "defrag", "--data-dir", n.DataDir).CombinedOutput(); err == nil || !strings.Contains(string(out), "in use by another process") {
		t.Errorf("a node that runs: %v, %s", err, out)
	}
	if _, _, err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	before := fileBytes(t, n)
	if out, err := exec.CommandContext(ctx, client, "defrag", "--data-dir", n.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if after := fileBytes(t, n); after > before/2 {
		t.Errorf("%d bytes of %d are left", after, before)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	last, err := cl.Put(ctx, "k/behind", "v")
	if err != nil {
		t.Fatal(err)
	}
	sameHash(ctx, t, cl, c, last.Header.Revision)
}
