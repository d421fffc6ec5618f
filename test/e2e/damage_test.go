package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// rangeFiles are the files of a node's replicas.
func rangeFiles(t *testing.T, n *harness.Node) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.DataDir, "ranges", "*", "mvcc.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of %s: %v, %v", n.Name, files, err)
	}
	return files
}

// flipBytes changes so many bytes, anywhere in a file.
func flipBytes(t *testing.T, rnd *rand.Rand, path string, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		var b [1]byte
		at := rnd.Int63n(st.Size())
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= byte(1 + rnd.Intn(255))
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// flipValues changes so many bytes in the middle of values that fill has written. It is for files that
// are in use: their structure is looked at when they are opened.
func flipValues(t *testing.T, rnd *rand.Rand, path string, n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for tries := 0; n > 0 && tries < 100_000; tries++ {
		at := 16 + rnd.Intn(len(b)-32)
		if bytes.Count(b[at-16:at+16], b[at:at+1]) != 32 || b[at] < 'a' || b[at] > 'c' {
			continue
		}
		if _, err := f.WriteAt([]byte{b[at] ^ 8}, int64(at)); err != nil {
			t.Fatal(err)
		}
		n--
	}
	if err := f.Close(); err != nil || n > 0 {
		t.Fatalf("%d bytes left to change in %s, %v", n, path, err)
	}
}

// fill writes enough to every range for its log to be cut, and returns the last revision.
func fill(ctx context.Context, t *testing.T, cl *clientv3.Client, round string) int64 {
	t.Helper()
	value := strings.Repeat(round, 8000)
	prefixes := loadPrefixes()
	parallel(t, len(prefixes), len(prefixes), func(i int) error {
		for n := range 700 {
			if _, err := cl.Put(ctx, fmt.Sprintf("%s/fill/%03d", prefixes[i], n%400), value); err != nil {
				return err
			}
		}
		_, err := cl.Delete(ctx, prefixes[i]+"/fill/", clientv3.WithRange(prefixes[i]+"/fill/100"))
		return err
	})
	last, err := cl.Put(ctx, "/a/last", round)
	if err != nil {
		t.Fatal(err)
	}
	return last.Header.Revision
}

// whole waits until a node has no replica that is being rebuilt.
func whole(ctx context.Context, t *testing.T, n *harness.Node) {
	t.Helper()
	eventually(t, limit(60*time.Second), "all replicas of "+n.Name+" are rebuilt", func() error {
		if left := metric(ctx, t, n, "pontoon_replicas_rebuilding"); left != 0 {
			return fmt.Errorf("%d replicas wait for their state", left)
		}
		return nil
	})
}

// TestDamagedReplicas damages all files of a stopped node. It starts all the same, says what is
// damaged, keeps the damaged files, and holds what the others hold in the end. Then the files of a
// running node are damaged.
func TestDamagedReplicas(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Args: []string{"--snapshot-count=50", "--snapshot-catchup-entries=64"}})
	ctx := testContext(t, 6*time.Minute)
	cl := newClient(t, c)
	rnd := rand.New(rand.NewSource(1))
	fill(ctx, t, cl, "a")

	hurt := c.Nodes[2]
	if _, code, err := hurt.Stop(ctx); err != nil || code != 0 {
		t.Fatalf("stop: %d, %v", code, err)
	}
	files := rangeFiles(t, hurt)
	for _, f := range files {
		flipBytes(t, rnd, f, 300)
	}
	others := newClient(t, c, c.Nodes[0].ClientURL, c.Nodes[1].ClientURL)
	var last int64 // of what it misses, too
	for _, p := range loadPrefixes() {
		resp, err := others.Put(ctx, p+"/missed", "x")
		if err != nil {
			t.Fatal(err)
		}
		last = resp.Header.Revision
	}
	mark := len(hurt.Log())
	if err := hurt.Start(); err != nil {
		t.Fatal(err)
	}
	if err := hurt.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	own := newClient(t, c, hurt.ClientURL)
	if resp, err := own.Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || resp.Count == 0 {
		t.Errorf("it serves while it is being rebuilt: %v, %v", resp, err)
	}
	sameHash(ctx, t, cl, c, last)
	whole(ctx, t, hurt)
	sameHash(ctx, t, cl, c, last)
	if n := metric(ctx, t, hurt, "pontoon_replica_damaged_total"); n != len(files) {
		t.Errorf("%d damaged replicas reported, %d were damaged", n, len(files))
	}
	for _, f := range files {
		if _, err := os.Stat(f + ".damaged-1"); err != nil {
			t.Errorf("the damaged file was not kept: %v", err)
		}
		if log := hurt.Log()[mark:]; !strings.Contains(log, f) {
			t.Errorf("the log does not name %s", f)
		}
	}

	// It is a full member again: with it, another may go.
	watched := hurtWatch(ctx, own)
	if err := c.Nodes[0].Kill(); err != nil {
		t.Fatal(err)
	}
	var revs []int64
	eventually(t, limit(20*time.Second), "writes without the first node", func() error {
		for _, p := range loadPrefixes()[len(revs):] {
			resp, err := own.Put(ctx, p+"/again", "x")
			if err != nil {
				return err
			}
			revs = append(revs, resp.Header.Revision)
		}
		return nil
	})
	for _, ev := range collect(t, watched, len(revs)) {
		if ev.Kv.ModRevision != revs[0] {
			t.Errorf("an event of revision %d, want %d", ev.Kv.ModRevision, revs[0])
		}
		revs = revs[1:]
	}
	if err := c.Nodes[0].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[0].WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	damageRunning(ctx, t, c, rnd)
}

// hurtWatch watches what is written from now on.
func hurtWatch(ctx context.Context, cl *clientv3.Client) clientv3.WatchChan {
	return cl.Watch(ctx, "\x00", clientv3.WithFromKey())
}

// damageRunning damages the files of the node that leads most, while it runs and is written to.
func damageRunning(ctx context.Context, t *testing.T, c *harness.Cluster, rnd *rand.Rand) {
	cl := newClient(t, c)
	byID := memberIDs(ctx, t, cl, c)
	leads := map[*harness.Node]int{}
	for _, r := range ranges(t, c.Nodes[1]) {
		leads[byID[r.Leader]]++
	}
	hurt := c.Nodes[0]
	for _, n := range c.Nodes {
		if leads[n] > leads[hurt] {
			hurt = n
		}
	}
	before := metric(ctx, t, hurt, "pontoon_replica_damaged_total")
	for _, f := range rangeFiles(t, hurt) {
		flipValues(t, rnd, f, 500)
	}
	fill(ctx, t, cl, "c")
	end, err := cl.Put(ctx, "/page/99", "end")
	if err != nil {
		t.Fatal(err)
	}
	last := end.Header.Revision
	// Watchers that read the past read what was damaged, and must see all of it.
	want := past(ctx, t, newClient(t, c, other(c, hurt).ClientURL), last)
	if got := past(ctx, t, newClient(t, c, hurt.ClientURL), last); !slices.Equal(got, want) {
		t.Errorf("a watcher on %s saw %d events, one on another node %d", hurt.Name, len(got), len(want))
	}
	whole(ctx, t, hurt)
	sameHash(ctx, t, cl, c, last)
	if after := metric(ctx, t, hurt, "pontoon_replica_damaged_total"); after == before {
		t.Errorf("no damage was reported by %s, which leads %d ranges", hurt.Name, leads[hurt])
	}
	for _, n := range c.Nodes {
		if late := metric(ctx, t, n, "pontoon_watch_late_events_total"); late != 0 {
			t.Errorf("%d late events on %s", late, n.Name)
		}
	}
}

func other(c *harness.Cluster, n *harness.Node) *harness.Node {
	if c.Nodes[0] == n {
		return c.Nodes[1]
	}
	return c.Nodes[0]
}

// past are the revisions of all events of a prefix, up to the last one.
func past(ctx context.Context, t *testing.T, cl *clientv3.Client, last int64) []int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var revs []int64
	ch := cl.Watch(ctx, "/page/", clientv3.WithPrefix(), clientv3.WithRev(1))
	timeout := time.After(limit(60 * time.Second))
	for len(revs) == 0 || revs[len(revs)-1] < last {
		select {
		case w, ok := <-ch:
			if !ok || w.Err() != nil {
				t.Fatalf("the watch ended with %v after %d events", w.Err(), len(revs))
			}
			for _, ev := range w.Events {
				revs = append(revs, ev.Kv.ModRevision)
			}
		case <-timeout:
			t.Fatalf("%d events came", len(revs))
		}
	}
	return revs
}

// TestDamagedAlone: a replica that nobody else has is refused with a message that names its file.
func TestDamagedAlone(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	ctx := testContext(t, time.Minute)
	cl := newClient(t, c)
	if _, err := cl.Put(ctx, "/a", "x"); err != nil {
		t.Fatal(err)
	}
	n := c.Nodes[0]
	if _, _, err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	file := rangeFiles(t, n)[0]
	if err := os.Truncate(file, 5000); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	code, err := n.WaitExit(ctx)
	if err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if log := n.LogTail(20); !strings.Contains(log, file) || !strings.Contains(log, "only replica") {
		t.Errorf("the log does not say what is wrong:\n%s", log)
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 {
		t.Errorf("the damaged file was moved: %v, %v", left, err)
	}
}

// TestDamagedSharedLog: a node whose Raft log is damaged does not start, and says which file it is.
func TestDamagedSharedLog(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	ctx := testContext(t, time.Minute)
	cl := newClient(t, c)
	for i := range 50 {
		if _, err := cl.Put(ctx, fmt.Sprintf("/a/%d", i), strings.Repeat("x", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	n := c.Nodes[0]
	if _, _, err := n.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(n.DataDir, "raftlog", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables of the log: %v, %v", tables, err)
	}
	rnd := rand.New(rand.NewSource(1))
	for _, f := range tables {
		flipBytes(t, rnd, f, 200)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	code, err := n.WaitExit(ctx)
	if err != nil || code != 1 {
		t.Errorf("exit code %d, %v", code, err)
	}
	log := n.LogTail(20)
	if !strings.Contains(log, tables[0]) || strings.Contains(log, "goroutine ") {
		t.Errorf("the log does not say what is wrong:\n%s", log)
	}
}
