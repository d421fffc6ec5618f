package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
	judge "pontoon/test/history"
)

var clientOnce struct {
	sync.Once
	path string
	err  error
}

// clientBinary is bin/client.
func clientBinary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("E2E_CLIENT"); path != "" {
		return path
	}
	clientOnce.Do(func() {
		root, err := filepath.Abs("../..")
		clientOnce.path = filepath.Join(root, "build", "e2e", "client")
		if clientOnce.err = err; err == nil {
			clientOnce.err = build(clientOnce.path, root, "./cmd/client")
		}
	})
	if clientOnce.err != nil {
		t.Fatal(clientOnce.err)
	}
	return clientOnce.path
}

// fromEtcd fills a genuine etcd, with versions, deletes, transactions, leases and a compaction, and saves a snapshot of it.
func fromEtcd(t *testing.T) (file string) {
	t.Helper()
	cl, stop := etcdOn(t, filepath.Join(t.TempDir(), "etcd"))
	ctx := testContext(t, limit(2*time.Minute))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lease, err := cl.Grant(ctx, 3600)
	must(err)
	key := func(i int) string { return fmt.Sprintf("%s/load/%02d", loadPrefixes()[i%len(loadPrefixes())], i%40) }
	for i := range 600 {
		switch rand.IntN(8) {
		case 0:
			_, err = cl.Delete(ctx, key(rand.IntN(300)))
		case 1:
			_, err = cl.Put(ctx, key(i), fmt.Sprint(i), clientv3.WithLease(lease.ID))
		case 2:
			_, err = cl.Txn(ctx).Then(clientv3.OpPut(key(i), "a"), clientv3.OpPut(key(i+1), "b"), clientv3.OpDelete(key(i+2))).Commit()
		default:
			_, err = cl.Put(ctx, key(i), strings.Repeat("x", rand.IntN(300)))
		}
		must(err)
		if i == 300 {
			_, err = cl.Compact(ctx, 200, clientv3.WithCompactPhysical())
			must(err)
		}
	}
	_, err = cl.Put(ctx, "\x00\x00", "zeros") // keys that have to be escaped
	must(err)
	file = filepath.Join(t.TempDir(), "etcd.db")
	e := harness.Etcdctl{Binary: env.etcdctl, Endpoints: cl.Endpoints()}
	if out, err := e.Run(ctx, "", "snapshot", "save", file); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stop()
	return file
}

// restoreInto makes the data directories of a cluster that does not run yet.
func restoreInto(t *testing.T, c *harness.Cluster, file string, args ...string) {
	t.Helper()
	for _, n := range c.Nodes {
		run(t, clientBinary(t), restoreArgs(n, c, file, args...)...)
	}
}

func restoreArgs(n *harness.Node, _ *harness.Cluster, file string, args ...string) []string {
	i := slices.Index(n.Args, "--initial-cluster")
	token := slices.Index(n.Args, "--initial-cluster-token")
	return append([]string{"snapshot", "restore", file, "--name", n.Name, "--data-dir", n.DataDir, "--initial-cluster", n.Args[i+1],
		"--initial-cluster-token", n.Args[token+1], "--initial-advertise-peer-urls", n.PeerURL}, args...)
}

func startAll(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func openSnapshot(t *testing.T, path string) *judge.Snapshot {
	t.Helper()
	s, err := judge.OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSnapshotRestore takes a store from etcd to Pontoon, on one node and on three, in one range and in many, lets it be written to, and back to etcd:
// every version, create revision, lease and delete is what it was.
func TestSnapshotRestore(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	file := fromEtcd(t)
	before := openSnapshot(t, file)
	want := judge.Survivors(before.Rows, before.Revision(), before.Compact)
	for _, tc := range []struct{ nodes, ranges int }{{1, 1}, {3, 1}, {3, 8}, {1, 100}} {
		t.Run(fmt.Sprintf("%d nodes, %d ranges", tc.nodes, tc.ranges), func(t *testing.T) {
			c := describeCluster(t, harness.Options{Nodes: tc.nodes, SplitKeys: []string{}})
			restoreInto(t, c, file, "--initial-ranges", fmt.Sprint(tc.ranges))
			startAll(t, c)
			ctx := testContext(t, limit(2*time.Minute))
			cl := newClient(t, c)
			if rs := ranges(t, c.Nodes[0]); len(rs) < min(tc.ranges, 40) || len(rs) > tc.ranges {
				t.Errorf("%d ranges, not %d", len(rs), tc.ranges)
			}
			sameAsEvents(t, cl, before, want)
			again, err := saveSnapshot(ctx, t, cl, c.Nodes[0], "again")
			if err != nil {
				t.Fatal(err)
			}
			if got := openSnapshot(t, again.path); !slices.Equal(got.Rows, want) || got.Compact != before.Compact || len(got.Leases) != len(before.Leases) {
				t.Errorf("%d rows, compacted at %d, became %d, compacted at %d; leases %v became %v", len(want), before.Compact, len(got.Rows), got.Compact, before.Leases, got.Leases)
			}
			put, err := cl.Put(ctx, "k/more", "x")
			if err != nil || put.Header.Revision != before.Revision()+1 {
				t.Errorf("the next revision is %d, not %d: %v", put.Header.Revision, before.Revision()+1, err)
			}
			revokeAll(ctx, t, cl, before)
			again.restarts(t, c)
		})
	}
}

// revokeAll ends the leases: their keys go, wherever they are.
func revokeAll(ctx context.Context, t *testing.T, cl *clientv3.Client, of *judge.Snapshot) {
	t.Helper()
	for id := range of.Leases {
		if _, err := cl.Revoke(ctx, clientv3.LeaseID(id)); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := cl.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if kv.Lease != 0 {
			t.Errorf("%q has outlived its lease", kv.Key)
		}
	}
}

// restarts kills all nodes and starts them again: what was restored is there.
func (s *saved) restarts(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	startAll(t, c)
	resp, err := newClient(t, c).Get(testContext(t, limit(30*time.Second)), "k/more")
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("after a restart: %v, %v", resp, err)
	}
}

// TestEtcdutlRestore: nodes that are started on directories which genuine etcdutl has restored, or on that of an etcd which has ended cleanly, begin with
// them; the directories stay etcd's.
func TestEtcdutlRestore(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	file := fromEtcd(t)
	before := openSnapshot(t, file)
	want := judge.Survivors(before.Rows, before.Revision(), before.Compact)
	t.Run("etcdutl", func(t *testing.T) {
		c := describeCluster(t, harness.Options{SplitKeys: []string{}})
		for _, n := range c.Nodes {
			run(t, etcdutl(t), restoreArgs(n, c, file)...)
		}
		startAll(t, c)
		sameAsEvents(t, newClient(t, c), before, want)
	})
	t.Run("bumped", func(t *testing.T) {
		c := describeCluster(t, harness.Options{Nodes: 1, SplitKeys: []string{}})
		run(t, etcdutl(t), restoreArgs(c.Nodes[0], c, file, "--bump-revision", "1000", "--mark-compacted")...)
		startAll(t, c)
		bumped(t, newClient(t, c), before.Revision()+1000)
	})
	t.Run("bumped by the client", func(t *testing.T) {
		c := describeCluster(t, harness.Options{SplitKeys: []string{}})
		restoreInto(t, c, file, "--bump-revision", "1000", "--mark-compacted")
		startAll(t, c)
		bumped(t, newClient(t, c), before.Revision()+1000)
	})
	t.Run("stopped", func(t *testing.T) { // an etcd that has ended cleanly
		dir := filepath.Join(t.TempDir(), "etcd")
		cl, stop := etcdOn(t, dir)
		ctx := testContext(t, limit(time.Minute))
		if _, err := cl.Put(ctx, "k", "v"); err != nil {
			t.Fatal(err)
		}
		stop(syscall.SIGTERM)
		cl, stop = serverOn(t, env.server, dir)
		defer stop()
		if resp, err := cl.Get(ctx, "k"); err != nil || len(resp.Kvs) != 1 || resp.Header.Revision != 2 {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("killed", func(t *testing.T) { // its log goes beyond its database
		dir := filepath.Join(t.TempDir(), "etcd")
		cl, stop := etcdOn(t, dir, "--backend-batch-interval=1h")
		if _, err := cl.Put(testContext(t, limit(time.Minute)), "k", "v"); err != nil {
			t.Fatal(err)
		}
		stop()
		out, err := exec.CommandContext(testContext(t, limit(5*time.Second)), env.server, "--data-dir", dir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "has not ended cleanly") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// bumped: the revision is higher, all before is forgotten, and the next follows.
func bumped(t *testing.T, cl *clientv3.Client, rev int64) {
	t.Helper()
	ctx := testContext(t, limit(30*time.Second))
	resp, err := cl.Get(ctx, "\x00", clientv3.WithFromKey())
	if err != nil || resp.Header.Revision != rev || resp.Count == 0 {
		t.Fatalf("revision %d, not %d, with %d keys: %v", resp.Header.Revision, rev, resp.Count, err)
	}
	if _, err := cl.Get(ctx, "a", clientv3.WithRev(rev-1)); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("history below: %v", err)
	}
	if put, err := cl.Put(ctx, "a", "b"); err != nil || put.Header.Revision != rev+1 {
		t.Errorf("the next is %d: %v", put.Header.Revision, err)
	}
}

// TestRestoreRefused: what cannot be taken is refused, before anything is made, and by what is wrong.
func TestRestoreRefused(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	file := fromEtcd(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	db := good[:len(good)-sha256.Size]
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	edit := func(name string, fn func(tx *bolt.Tx) error) string {
		path := write(name, db)
		b, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Update(fn); err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	wrong := append(slices.Clone(db), good[len(db)+1:]...)
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	long := edit("long", func(tx *bolt.Tx) error {
		key := append([]byte{0x0a, 0x80, 0x80, 0x01}, make([]byte, 16384)...) // an mvccpb.KeyValue with a key of 16 KiB
		row := append([]byte{0, 0, 0, 0, 0, 1, 0, 0, '_'}, make([]byte, 8)...)
		return tx.Bucket([]byte("key")).Put(append(row, 't'), key)
	})
	for _, tc := range []struct {
		what, want string
		args       []string
	}{
		{"wrong sum", "expected sha256", []string{write("wrong", append(wrong, 7))}},
		{"no sum", "snapshot missing hash", []string{write("none", db)}},
		{"half a file", "cut off", []string{write("half", db[:len(db)/2/4096*4096]), "--skip-hash-check"}},
		{"no file of etcd's", "etcd's", []string{write("junk", make([]byte, 1<<16)), "--skip-hash-check"}},
		{"a bucket of somebody else's", `"photos"`, []string{edit("photos", func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("photos")); return err }), "--skip-hash-check"}},
		{"a key that is too long", "16384 bytes", []string{long, "--skip-hash-check"}},
		{"a target that is not empty", "not empty", []string{file, "--data-dir", full}},
		{"a bump without a mark", "--mark-compacted required", []string{file, "--bump-revision", "5"}},
		{"a name that is nobody's", "couldn't find local name", []string{file, "--initial-cluster", "x=http://a:1"}},
	} {
		target := filepath.Join(dir, "target")
		args := append([]string{"snapshot", "restore"}, tc.args...)
		if !slices.Contains(args, "--data-dir") {
			args = append(args, "--data-dir", target)
		}
		out, err := exec.CommandContext(testContext(t, limit(30*time.Second)), clientBinary(t), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%s: %v: %s", tc.what, err, out)
		}
		if _, err := os.Stat(target); err == nil {
			t.Errorf("%s: something was made", tc.what)
		}
	}
}

// TestRestoreOfTwoSnapshots: first members that begin with different content, or one of them with none, are no cluster, and nobody serves by mistake.
func TestRestoreOfTwoSnapshots(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	one := fromEtcd(t)
	other := fromEtcd(t)
	c := describeCluster(t, harness.Options{SplitKeys: []string{}})
	for i, file := range []string{one, one, other} {
		run(t, clientBinary(t), restoreArgs(c.Nodes[i], c, file)...)
	}
	ctx := testContext(t, limit(time.Minute))
	for _, n := range c.Nodes[:2] {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes[:2] {
		if err := n.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stranger := c.Nodes[2]
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	if code, err := stranger.WaitExit(ctx); err != nil || code == 0 || !strings.Contains(stranger.Log(), "restore the same one here, too") {
		t.Errorf("a node with another snapshot ends with %d, %v", code, err)
	}
	if err := os.RemoveAll(stranger.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	if code, err := stranger.WaitExit(ctx); err != nil || code == 0 {
		t.Errorf("a node with no snapshot ends with %d, %v", code, err)
	}
}

// TestSnapshotWithUsers: users come along, to genuine etcd and to a new cluster: who may not, may not there either.
func TestSnapshotWithUsers(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	ctl := func(args ...string) {
		t.Helper()
		if out, err := ctlAt(t, c.Endpoints(), args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	ctl("user", "add", "root:secret")
	ctl("role", "add", "reader")
	ctl("role", "grant-permission", "reader", "read", "k/", "--prefix")
	ctl("user", "add", "ann:word")
	ctl("user", "grant-role", "ann", "reader")
	ctl("user", "grant-role", "root", "root")
	ctl("put", "k/1", "v")
	ctl("put", "other", "v")
	ctl("auth", "enable")
	file := filepath.Join(t.TempDir(), "users.db")
	if out, err := ctlAt(t, c.Endpoints(), "--user=ann:word", "snapshot", "save", file); err == nil {
		t.Errorf("a reader has saved a snapshot: %s", out)
	}
	ctl("--user=root:secret", "snapshot", "save", file)
	judgeUsers := func(what string, endpoints []string) {
		t.Helper()
		for _, tc := range []struct {
			want string
			args []string
		}{
			{"v", []string{"--user=ann:word", "get", "k/1"}},
			{"permission denied", []string{"--user=ann:word", "get", "other"}},
			{"permission denied", []string{"--user=ann:word", "put", "k/1", "x"}},
			{"user name is empty", []string{"get", "k/1"}},
			{"invalid user ID or password", []string{"--user=ann:wrong", "get", "k/1"}},
			{"OK", []string{"--user=root:secret", "put", "other", "x"}},
		} {
			if out, err := ctlAt(t, endpoints, tc.args...); !strings.Contains(out+fmt.Sprint(err), tc.want) {
				t.Errorf("%s: %v: %s, %v, not %q", what, tc.args, out, err, tc.want)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "etcd")
	run(t, etcdutl(t), "snapshot", "restore", file, "--data-dir", dir)
	port, err := harness.Port()
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	cmd := exec.Command(tool(t, "etcd", "go.etcd.io/etcd/server/v3"), "--data-dir", dir, "--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, limit(30*time.Second), "etcd is there", func() error {
		_, err := ctlAt(t, []string{url}, "--user=root:secret", "--command-timeout=1s", "get", "k/1")
		return err
	})
	judgeUsers("etcd", []string{url})
	again := describeCluster(t, harness.Options{SplitKeys: []string{}})
	restoreInto(t, again, file)
	startAll(t, again)
	judgeUsers("three nodes", again.Endpoints())
}
