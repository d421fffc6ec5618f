package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// What a recovery should take with default timeouts. It is printed and not enforced: a machine that
// stands still for a second proves nothing about the server.
const (
	recoveryMedianGoal = 3 * time.Second
	recoveryGoal       = 6 * time.Second
)

// ordeal is a cluster under load that is hurt again and again.
type ordeal struct {
	t        *testing.T
	ctx      context.Context
	c        *harness.Cluster
	load     *load
	rec      *recorder
	watching *watching
	took     []time.Duration
	report   []string
}

func newOrdeal(t *testing.T) *ordeal { return newOrdealOf(t, harness.Options{}) }

func newOrdealOf(t *testing.T, c harness.Options) *ordeal {
	return newOrdealWith(t, c, 5*time.Millisecond)
}

// newOrdealWith lets every writer rest for so long after each write.
func newOrdealWith(t *testing.T, c harness.Options, rest time.Duration) *ordeal {
	patience := 8 * time.Minute
	if env.long {
		patience = 30 * time.Minute
	}
	o := &ordeal{t: t, ctx: testContext(t, patience), c: newCluster(t, c)}
	o.rec = newRecorder()
	o.watching = o.rec.watch(o.ctx, newClient(t, o.c))
	o.load = newLoad(t, o.c, loadOptions{Writers: 8, Keys: 6, Deletes: true, Txns: true, Pause: rest, Timeout: 3 * time.Second})
	o.load.start(o.ctx)
	o.progress(50)
	return o
}

// progress waits until so many further writes were acknowledged.
func (o *ordeal) progress(n int) {
	o.t.Helper()
	from := o.load.count()
	eventually(o.t, limit(30*time.Second), "writes go on", func() error {
		if got := o.load.count() - from; got < n {
			return fmt.Errorf("%d of %d writes; last error: %v", got, n, o.load.lastError.Load())
		}
		return nil
	})
}

// measure waits until every range takes writes through the given nodes, and notes how long that
// took since began.
func (o *ordeal) measure(what string, began time.Time, through []*harness.Node) {
	o.t.Helper()
	var eps []string
	for _, n := range through {
		eps = append(eps, n.ClientURL)
	}
	cl := newClient(o.t, o.c, eps...)
	deadline := began.Add(limit(30 * time.Second))
	results := make(chan error)
	prefixes := loadPrefixes()
	for _, p := range prefixes {
		go func() {
			for {
				ctx, cancel := context.WithTimeout(o.ctx, 400*time.Millisecond)
				_, err := cl.Put(ctx, p+"/probe", what)
				cancel()
				if err == nil || time.Now().After(deadline) {
					results <- err
					return
				}
			}
		}()
	}
	for range prefixes {
		if err := <-results; err != nil {
			o.t.Errorf("%s: a range is not back after %v: %v", what, time.Since(began), err)
		}
	}
	took := time.Since(began)
	o.took = append(o.took, took)
	o.report = append(o.report, fmt.Sprintf("%-28s %6.2f s", what, took.Seconds()))
}

// kill kills one node, measures, and brings it back.
func (o *ordeal) kill(what string, n *harness.Node) {
	o.t.Helper()
	began := time.Now()
	if err := n.Kill(); err != nil {
		o.t.Fatal(err)
	}
	o.measure(what+" ("+n.Name+")", began, o.others(n))
	o.progress(30)
	o.restart(n)
}

func (o *ordeal) others(n *harness.Node) []*harness.Node {
	return slices.DeleteFunc(slices.Clone(o.c.Nodes), func(x *harness.Node) bool { return x == n })
}

func (o *ordeal) restart(ns ...*harness.Node) {
	o.t.Helper()
	for _, n := range ns {
		if err := n.Start(); err != nil {
			o.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(o.ctx, startTimeout)
	defer cancel()
	if err := o.c.WaitReady(ctx); err != nil {
		o.t.Fatal(err)
	}
}

// killAll kills every node at once; the clock starts when a majority listens again.
func (o *ordeal) killAll() {
	o.t.Helper()
	if err := o.c.KillAll(); err != nil {
		o.t.Fatal(err)
	}
	for _, n := range o.c.Nodes {
		if err := n.Start(); err != nil {
			o.t.Fatal(err)
		}
	}
	up := 0
	eventually(o.t, startTimeout, "a majority listens", func() error {
		if up = listening(o.c); up < len(o.c.Nodes)/2+1 {
			return fmt.Errorf("%d listen", up)
		}
		return nil
	})
	o.measure("all nodes", time.Now(), o.c.Nodes)
	o.progress(30)
	o.restart()
}

func listening(c *harness.Cluster) int {
	n := 0
	for _, node := range c.Nodes {
		u, err := url.Parse(node.PeerURL)
		if err != nil {
			continue
		}
		if conn, err := net.DialTimeout("tcp", u.Host, time.Second); err == nil {
			_ = conn.Close()
			n++
		}
	}
	return n
}

// oracleNode is the node that Status names as the leader: the meta group's, where the revision
// oracle is.
func (o *ordeal) oracleNode() *harness.Node {
	o.t.Helper()
	cl := newClient(o.t, o.c)
	var leader *harness.Node
	eventually(o.t, limit(20*time.Second), "a leader is known", func() error {
		ctx, cancel := context.WithTimeout(o.ctx, 5*time.Second)
		defer cancel()
		st, err := cl.Status(ctx, o.c.Nodes[0].ClientURL)
		if err != nil {
			return err
		}
		leader = memberIDs(ctx, o.t, cl, o.c)[st.Leader]
		if leader == nil {
			return fmt.Errorf("leader %x", st.Leader)
		}
		return nil
	})
	return leader
}

// rangeLeader is a node that leads ranges, not the oracle's if there is another.
func (o *ordeal) rangeLeader() *harness.Node {
	o.t.Helper()
	oracle := o.oracleNode()
	if env.kind != harness.Pontoon {
		return oracle
	}
	ids := memberIDs(o.ctx, o.t, newClient(o.t, o.c), o.c)
	best := oracle
	for _, r := range ranges(o.t, o.c.Nodes[0]) {
		if n := ids[r.Leader]; n != nil && n != oracle {
			best = n
		}
	}
	return best
}

// verify ends the load and compares what was promised with what is there.
func (o *ordeal) verify() {
	o.t.Helper()
	acked := o.load.stop()
	last := lastRevision(acked)
	o.rec.waitFor(o.t, last, limit(30*time.Second))
	o.t.Logf("%d writes acknowledged, %d failed; last revision %d", len(acked), o.load.failed.Load(), last)
	o.t.Logf("recovery of all ranges:\n%s", strings.Join(o.report, "\n"))

	cl := newClient(o.t, o.c)
	resp, err := cl.Get(o.ctx, "/no/such/key")
	if err != nil {
		o.t.Fatal(err)
	}
	o.rec.mu.Lock()
	seen := o.rec.last
	o.rec.mu.Unlock()
	o.watching.stop(o.t)
	h := o.rec.snapshot()
	h.checkOrder(o.t)
	h.checkAcked(o.t, acked)
	checkState(o.ctx, o.t, cl, h, min(last, seen))
	o.sameHash(cl, min(seen, resp.Header.Revision))

	slices.Sort(o.took)
	median, worst := o.took[len(o.took)/2], o.took[len(o.took)-1]
	o.t.Logf("median %.2f s (goal %v), worst %.2f s (goal %v)", median.Seconds(), recoveryMedianGoal, worst.Seconds(), recoveryGoal)
}

func (o *ordeal) sameHash(cl *clientv3.Client, rev int64) {
	o.t.Helper()
	sameHash(o.ctx, o.t, cl, o.c, rev)
}

// sameHash waits until all nodes have the same hash at a revision: a follower may be a little
// late.
func sameHash(ctx context.Context, t *testing.T, cl *clientv3.Client, c *harness.Cluster, rev int64) {
	t.Helper()
	eventually(t, limit(30*time.Second), "equal hashes", func() error {
		var hashes []uint32
		for _, n := range c.Nodes {
			h, err := cl.HashKV(ctx, n.ClientURL, rev)
			if err != nil {
				return fmt.Errorf("%s: %w", n.Name, err)
			}
			hashes = append(hashes, h.Hash)
		}
		if len(slices.Compact(hashes)) != 1 {
			return fmt.Errorf("at %d: %x", rev, hashes)
		}
		return nil
	})
}

// TestKill kills nodes by their roles under load, brings them back, and proves that nothing
// acknowledged was lost, reordered or shown twice to a watcher that lived through it all.
func TestKill(t *testing.T) {
	lengthy(t)
	o := newOrdeal(t)
	rounds := 1
	if env.long {
		rounds = 5
	}
	for range rounds {
		o.kill("any node", o.c.Nodes[rand.IntN(3)])
		o.kill("a range's leader", o.rangeLeader())
		o.kill("the oracle's node", o.oracleNode())
		o.killAll()
	}
	o.verify()
}

// TestPause freezes the oracle's node beyond every lease and lets it go on: what it answers then
// must not be old.
func TestPause(t *testing.T) {
	lengthy(t)
	o := newOrdeal(t)
	victim := o.oracleNode()
	frozen := newClient(t, o.c, victim.ClientURL)
	began := time.Now()
	if err := victim.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	o.measure("paused oracle's node ("+victim.Name+")", began, o.others(victim))
	put, err := newClient(t, o.c, o.others(victim)[0].ClientURL).Put(o.ctx, "/a/fresh", "new")
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var got *clientv3.GetResponse
	eventually(t, limit(20*time.Second), "the woken node answers", func() (err error) {
		ctx, cancel := context.WithTimeout(o.ctx, 3*time.Second)
		defer cancel()
		got, err = frozen.Get(ctx, "/a/fresh")
		return err
	})
	if got.Header.Revision < put.Header.Revision || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "new" {
		t.Errorf("the woken node answered %v after revision %d was acknowledged", got, put.Header.Revision)
	}
	o.verify()
}

// TestCleanStop stops nodes with SIGTERM under load: they go at once, and others take over.
func TestCleanStop(t *testing.T) {
	lengthy(t)
	o := newOrdeal(t)
	for _, n := range []*harness.Node{o.rangeLeader(), o.oracleNode()} {
		began := time.Now()
		ctx, cancel := context.WithTimeout(o.ctx, 20*time.Second)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			took, code, err := n.Stop(ctx)
			if err != nil || env.kind == harness.Pontoon && code != 0 {
				t.Errorf("%s: exit code %d, %v", n.Name, code, err)
			}
			t.Logf("%s stopped in %v", n.Name, took)
			if took > limit(1500*time.Millisecond) {
				t.Errorf("%s took %v to stop", n.Name, took)
			}
		}()
		o.measure("stopped "+n.Name, began, o.others(n))
		<-stopped
		cancel()
		o.restart(n)
	}
	o.verify()
}

// TestLeaseOutlivesItsLeader kills the node that keeps the leases: a lease that is kept alive
// stays, one that is not goes, with its keys.
func TestLeaseOutlivesItsLeader(t *testing.T) {
	lengthy(t)
	o := newOrdeal(t)
	victim := o.oracleNode()
	cl := newClient(t, o.c, o.others(victim)[0].ClientURL)
	kept, err := cl.Grant(o.ctx, 6)
	if err != nil {
		t.Fatal(err)
	}
	dying, err := cl.Grant(o.ctx, 4)
	if err != nil {
		t.Fatal(err)
	}
	for key, id := range map[string]clientv3.LeaseID{"/a/kept": kept.ID, "/a/dying": dying.ID, "k/dying": dying.ID} {
		if _, err := cl.Put(o.ctx, key, "x", clientv3.WithLease(id)); err != nil {
			t.Fatal(err)
		}
	}
	alive, err := cl.KeepAlive(o.ctx, kept.ID)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range alive { // until the client is closed
		}
	}()
	o.kill("the leases' node", victim)
	eventually(t, limit(30*time.Second), "the lease that nobody renews is gone with its keys", func() error {
		for _, key := range []string{"/a/dying", "k/dying"} {
			resp, err := cl.Get(o.ctx, key)
			if err != nil {
				return err
			}
			if resp.Count != 0 {
				return fmt.Errorf("%s is still there", key)
			}
		}
		return nil
	})
	resp, err := cl.Get(o.ctx, "/a/kept")
	if err != nil || resp.Count != 1 {
		t.Errorf("the key under the renewed lease: %v, %v", resp, err)
	}
	o.verify()
}
