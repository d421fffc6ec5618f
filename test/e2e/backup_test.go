package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
	judge "pontoon/test/history"
)

// saved is a snapshot that etcdctl has saved.
type saved struct {
	path      string
	low, high int64 // revisions that were current before and after
}

// saveSnapshot saves one through a node.
func saveSnapshot(ctx context.Context, t *testing.T, cl *clientv3.Client, node *harness.Node, name string) (saved, error) {
	t.Helper()
	current := func() (int64, error) {
		resp, err := cl.Get(ctx, "revision?")
		if err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	}
	s := saved{path: filepath.Join(t.TempDir(), name)}
	var err error
	if s.low, err = current(); err != nil {
		return s, err
	}
	e := harness.Etcdctl{Binary: env.etcdctl, Endpoints: []string{node.ClientURL}}
	if out, err := e.Run(ctx, "", "snapshot", "save", s.path, "--command-timeout=8s"); err != nil {
		return s, fmt.Errorf("%s: %w", out, err)
	}
	s.high, err = current()
	return s, err
}

// rows are what a snapshot must have of the events that a watcher saw.
func rowsOf(h []recorded) (out []judge.Row) {
	var sub int64
	for i, r := range h {
		if sub++; i == 0 || r.ev.Kv.ModRevision != h[i-1].ev.Kv.ModRevision {
			sub = 0
		}
		out = append(out, judge.RowOf(r.ev.Type == mvccpb.DELETE, r.ev.Kv, sub))
	}
	return out
}

// check holds the file against all that a watcher saw.
func (s *saved) check(t *testing.T, events []judge.Row) *judge.Snapshot {
	t.Helper()
	snap, err := judge.OpenSnapshot(s.path)
	if err == nil {
		err = snap.Check(events, s.low, s.high)
	}
	if err != nil {
		t.Fatalf("%s: %v", s.path, err)
	}
	return snap
}

func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	bin := filepath.Join(filepath.Dir(env.etcdctl), name)
	if err := buildMissing(bin, filepath.Join("..", "etcdtools"), pkg); err != nil {
		t.Fatal(err)
	}
	return bin
}

func etcdutl(t *testing.T) string { return tool(t, "etcdutl", "go.etcd.io/etcd/etcdutl/v3") }

// run runs a program and returns what it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(testContext(t, limit(2*time.Minute)), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// etcdOn starts genuine etcd on a directory and returns a client of it. It ends with the test, or when stop is called.
func etcdOn(t *testing.T, dir string, args ...string) (cl *clientv3.Client, stop func(how ...os.Signal)) {
	t.Helper()
	return serverOn(t, tool(t, "etcd", "go.etcd.io/etcd/server/v3"), dir, args...)
}

// serverOn does that with any server. It is killed unless another signal is named.
func serverOn(t *testing.T, binary, dir string, args ...string) (cl *clientv3.Client, stop func(how ...os.Signal)) {
	t.Helper()
	port := func() string {
		p, err := harness.Port()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("http://127.0.0.1:%d", p)
	}
	client, peer := port(), port()
	cmd := exec.Command(binary, append([]string{"--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer}, args...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func(how ...os.Signal) {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(append(how, os.Kill)[0])
			_ = cmd.Wait()
			_ = log.Close()
		}
	}
	t.Cleanup(func() { stop() })
	cl = newClient(t, nil, client)
	eventually(t, limit(30*time.Second), "what was restored is served", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := cl.Get(ctx, "x")
		return err
	})
	return cl, stop
}

// inEtcd restores a snapshot with etcdutl, and compares what genuine etcd serves with the events: all keys at the snapshot's revision and at some
// before, every event from the compaction on, and leases with their keys.
func (s *saved) inEtcd(t *testing.T, snap *judge.Snapshot, events []judge.Row) {
	t.Helper()
	run(t, etcdutl(t), "snapshot", "status", s.path)
	dir := filepath.Join(t.TempDir(), "restored")
	run(t, etcdutl(t), "snapshot", "restore", s.path, "--data-dir", dir)
	cl, stop := etcdOn(t, dir)
	defer stop()
	sameAsEvents(t, cl, snap, events)
}

func sameAsEvents(t *testing.T, cl *clientv3.Client, snap *judge.Snapshot, events []judge.Row) {
	t.Helper()
	ctx := testContext(t, limit(time.Minute))
	rev := snap.Revision()
	for _, at := range []int64{rev, max(snap.Compact, 1), (rev + snap.Compact) / 2} {
		resp, err := cl.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(at))
		if err != nil {
			t.Fatalf("all keys at %d of %d, compacted at %d: %v", at, rev, snap.Compact, err)
		}
		if resp.Header.Revision != rev {
			t.Errorf("the revision is %d, not %d", resp.Header.Revision, rev)
		}
		var got, want []judge.Row
		for _, kv := range resp.Kvs {
			got = append(got, judge.RowOf(false, kv, 0))
		}
		for _, r := range judge.Survivors(events, at, at) {
			if r.Sub = 0; !r.Del {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, func(a, b judge.Row) int { return strings.Compare(a.Key, b.Key) })
		if !slices.Equal(got, want) {
			t.Errorf("at %d there are %d keys, not %d: %+v, not %+v", at, len(got), len(want), got, want)
		}
	}
	sameWatch(ctx, t, cl, snap, events)
	for id := range snap.Leases {
		want := 0
		for _, r := range judge.Survivors(events, rev, rev) {
			if r.LeaseID == id && !r.Del {
				want++
			}
		}
		if resp, err := cl.TimeToLive(ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys()); err != nil || want > 0 && len(resp.Keys) != want {
			t.Errorf("lease %x: %+v, %v, not %d keys", id, resp, err, want)
		}
	}
}

// sameWatch reads the whole history that is left.
func sameWatch(ctx context.Context, t *testing.T, cl *clientv3.Client, snap *judge.Snapshot, events []judge.Row) {
	t.Helper()
	var want []judge.Row
	for _, r := range events {
		if r.Main > snap.Compact && r.Main <= snap.Revision() {
			want = append(want, r)
		}
	}
	if len(want) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	i := 0
	for resp := range cl.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(snap.Compact+1)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		for _, ev := range resp.Events {
			got := judge.RowOf(ev.Type == mvccpb.DELETE, ev.Kv, want[i].Sub)
			if got != want[i] {
				t.Fatalf("event %d is %+v, not %+v", i, got, want[i])
			}
			if i++; i == len(want) {
				return
			}
		}
	}
	t.Fatalf("%d of %d events came", i, len(want))
}

// TestSnapshotSave: snapshots are saved through all nodes and a gateway in turn while clients write over all ranges, with leases, and compact. Each is the state at
// one revision, byte for byte, and genuine etcd serves it.
func TestSnapshotSave(t *testing.T) {
	pontoonOnly(t)
	for _, ranges := range []int{1, 8} {
		t.Run(fmt.Sprintf("%d ranges", ranges), func(t *testing.T) {
			c := newCluster(t, harness.Options{Ranges: ranges})
			b := newBackup(t, c)
			through := append(slices.Clone(c.Nodes), startGateway(t, c, "g1"))
			for i := range 2 * len(through) {
				b.save(through[i%len(through)])
				b.compact()
			}
			if len(b.saved) != 2*len(through) {
				t.Errorf("%d snapshots were saved", len(b.saved))
			}
			each := 2
			if testing.Short() {
				each = 4
			}
			b.judge(each)
		})
	}
}

// TestSnapshotSaveWhileRangesChange is the same while ranges are cut, merged and moved.
func TestSnapshotSaveWhileRangesChange(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, byHand())
	b := newBackup(t, c)
	done := make(chan struct{})
	stop, stopped := context.WithCancel(b.ctx)
	go func() {
		defer close(done)
		ops := harness.Ops{ClientURL: c.Nodes[0].ClientURL}
		for i := 0; stop.Err() == nil; i++ {
			key := fmt.Sprintf("%s/load/%02d", loadPrefixes()[rand.IntN(len(loadPrefixes()))], rand.IntN(6))
			if rand.IntN(3) == 0 {
				_, _ = ops.BeginMerge(stop, key, "test") // refused where there is no border
			} else {
				_, _ = ops.BeginSplit(stop, key, "test")
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	for i := range 15 {
		b.save(c.Nodes[i%len(c.Nodes)])
		b.compact()
	}
	stopped()
	<-done
	t.Logf("%d ranges at the end", len(ranges(t, c.Nodes[0])))
	b.judge(2)
}

// TestSnapshotSaveKill is the same while nodes are killed, of which some are just making a snapshot: that one fails, and nothing is left of it.
func TestSnapshotSaveKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Ranges: 8})
	b := newBackup(t, c)
	for i := range 9 {
		victim := c.Nodes[rand.IntN(len(c.Nodes))]
		killed := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			killed <- victim.Kill()
		}()
		b.save(c.Nodes[i%len(c.Nodes)])
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		b.save(c.Nodes[(i+1)%len(c.Nodes)])
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if err := victim.WaitReady(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.save(victim)
		b.compact()
	}
	if len(b.saved) < 9 {
		t.Errorf("only %d snapshots were saved", len(b.saved))
	}
	b.judge(1)
	for _, n := range c.Nodes {
		left, err := filepath.Glob(filepath.Join(c.Dir, n.Name, "pontoon-export-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left on %s: %v, %v", n.Name, left, err)
		}
	}
}

// backup is snapshots of a cluster under load.
type backup struct {
	t     *testing.T
	ctx   context.Context
	c     *harness.Cluster
	cl    *clientv3.Client
	load  *load
	rec   *recorder
	watch *watching
	saved []saved
}

func newBackup(t *testing.T, c *harness.Cluster) *backup {
	b := &backup{t: t, ctx: testContext(t, limit(4*time.Minute)), c: c, cl: newClient(t, c), rec: newRecorder()}
	b.watch = b.rec.watch(b.ctx, newClient(t, c))
	b.load = newLoad(t, c, loadOptions{Writers: 6, Keys: 6, Deletes: true, Txns: true, Pause: 2 * time.Millisecond})
	b.load.start(b.ctx)
	b.leases()
	return b
}

// leases lets keys come and go with leases, in all ranges, until the test ends.
func (b *backup) leases() {
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			lease, err := b.cl.Grant(ctx, 60)
			for _, p := range loadPrefixes() {
				if err == nil {
					_, err = b.cl.Put(ctx, fmt.Sprintf("%s/lease/%d", p, i%7), fmt.Sprint(i), clientv3.WithLease(lease.ID))
				}
			}
			if err == nil && i%2 == 0 {
				_, _ = b.cl.Revoke(ctx, lease.ID) // nodes are killed
			}
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// save saves a snapshot through a node. Where nodes are killed it may fail.
func (b *backup) save(n *harness.Node) {
	ctx, cancel := context.WithTimeout(b.ctx, limit(30*time.Second))
	defer cancel()
	time.Sleep(50 * time.Millisecond)
	s, err := saveSnapshot(ctx, b.t, b.cl, n, fmt.Sprintf("snap%d", len(b.saved)))
	if err != nil {
		b.t.Logf("not saved through %s: %v", n.Name, err)
		return
	}
	b.saved = append(b.saved, s)
}

// compact forgets all but some hundred revisions, of which the watcher has seen what is forgotten.
func (b *backup) compact() {
	resp, err := b.cl.Get(b.ctx, "revision?")
	if err == nil && resp.Header.Revision > 600 {
		_, _ = b.cl.Compact(b.ctx, resp.Header.Revision-400-rand.Int64N(200))
	}
}

// judge ends the load and holds every snapshot against what was seen, and one of so many against genuine etcd, too.
func (b *backup) judge(each int) {
	b.t.Helper()
	acked := b.load.stop()
	last, err := b.cl.Put(b.ctx, "k/load/last", "x")
	if err != nil {
		b.t.Fatal(err)
	}
	b.rec.waitFor(b.t, last.Header.Revision, limit(30*time.Second))
	h := b.rec.snapshot()
	h.checkAcked(b.t, acked)
	events := rowsOf(h)
	var rows, compacted int
	for i := range b.saved {
		snap := b.saved[i].check(b.t, events)
		rows += len(snap.Rows)
		if snap.Compact > 0 {
			compacted++
		}
		if i%each == 0 || i == len(b.saved)-1 {
			b.saved[i].inEtcd(b.t, snap, events)
		}
	}
	if len(b.saved) == 0 {
		b.t.Fatal("nothing was saved")
	}
	b.t.Logf("%d snapshots with %d rows, %d of them compacted, of %d events", len(b.saved), rows, compacted, len(events))
}
