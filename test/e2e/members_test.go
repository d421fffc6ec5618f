package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// memberCtl is etcdctl over all nodes of a cluster of the test's own.
func memberCtl(t *testing.T, c *harness.Cluster) *ctl {
	return &ctl{t: t, ctx: testContext(t, 4*time.Minute), e: harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}}
}

// memberList is what etcdctl tells of the members.
func (c *ctl) memberList() (out []*etcdserverpb.Member) {
	c.t.Helper()
	var list struct{ Members []*etcdserverpb.Member }
	if err := json.Unmarshal([]byte(c.run("member", "list", "-w", "json")), &list); err != nil {
		c.t.Fatal(err)
	}
	return list.Members
}

// memberAdd adds one, once the members have been within reach of each other for long enough, and returns its id and what etcdctl said.
func (c *ctl) memberAdd(args ...string) (id, out string) {
	c.t.Helper()
	eventually(c.t, limit(time.Minute), "a member can be added", func() (err error) {
		out, err = c.e.Run(c.ctx, "", append([]string{"member", "add"}, args...)...)
		if err != nil && !strings.Contains(err.Error(), "unhealthy cluster") {
			c.t.Fatal(err)
		}
		return err
	})
	m := regexp.MustCompile(`Member\s+([0-9a-f]+) added (?:as learner )?to cluster\s+[0-9a-f]+`).FindStringSubmatch(out)
	if m == nil {
		c.t.Fatalf("etcdctl member add %q: %q", args, out)
	}
	return m[1], out
}

// TestMemberCalls: the members change by etcdctl, from any node, and refusals are etcd's.
func TestMemberCalls(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	ctl := memberCtl(t, c)
	n1 := c.Nodes[0].PeerURL
	id, out := ctl.memberAdd("n4", "--peer-urls=http://127.0.0.1:9")
	for _, want := range []string{`ETCD_NAME="n4"`, `n1=` + n1, `n4=http://127.0.0.1:9`, `ETCD_INITIAL_CLUSTER_STATE="existing"`} {
		if !strings.Contains(out, want) {
			t.Errorf("member add does not say %q:\n%s", want, out)
		}
	}
	if list := ctl.run("member", "list"); !strings.Contains(list, id+", unstarted, , http://127.0.0.1:9, , false") || strings.Count(list, "\n") != 4 {
		t.Errorf("member list:\n%s", list)
	}
	ctl.fails("etcdserver: Peer URLs already exists", "member", "add", "n5", "--peer-urls="+n1)
	ctl.fails("etcdserver: member not found", "member", "remove", "abc")
	ctl.fails("etcdserver: member not found", "member", "update", "abc", "--peer-urls=http://127.0.0.1:10")
	ctl.fails("etcdserver: Peer URLs already exists", "member", "update", id, "--peer-urls="+n1)
	if out := ctl.run("member", "update", id, "--peer-urls=http://127.0.0.1:11"); !strings.Contains(out, "Member "+pad(id)+" updated in cluster") {
		t.Errorf("member update: %q", out)
	}
	ctl.fails("etcdserver: can only promote a learner member", "member", "promote", id)
	if out := ctl.run("member", "remove", id); !strings.Contains(out, "Member "+pad(id)+" removed from cluster") {
		t.Errorf("member remove: %q", out)
	}
	ctl.fails("etcdserver: member not found", "member", "remove", id)
	learner, _ := ctl.memberAdd("n4", "--peer-urls=http://127.0.0.1:9", "--learner")
	if learner == id {
		t.Error("an id was given out twice")
	}
	ctl.fails("etcdserver: can only promote a learner member which is in sync with leader", "member", "promote", learner)
	ctl.fails("etcdserver: too many learner members in cluster", "member", "add", "n5", "--peer-urls=http://127.0.0.1:12", "--learner")
	for _, n := range c.Nodes { // every node knows
		eventually(t, limit(10*time.Second), "the learner is listed", func() error {
			ms, err := newClient(t, c, n.ClientURL).MemberList(ctl.ctx)
			if err == nil && (len(ms.Members) != 4 || !strings.Contains(fmt.Sprint(ms.Members), "isLearner:true")) {
				err = fmt.Errorf("%v", ms.Members)
			}
			return err
		})
	}
	ctl.run("member", "remove", learner)
	if got := ctl.memberList(); len(got) != 3 {
		t.Errorf("%v", got)
	}
	// With a member down the next one would leave three of five.
	if err := c.Nodes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(time.Minute), "the cluster is unhealthy", func() error {
		_, err := ctl.e.Run(ctl.ctx, "", "member", "remove", fmt.Sprintf("%x", memberNamed(t, ctl, "n2").ID))
		if err != nil && strings.Contains(err.Error(), "etcdserver: unhealthy cluster") {
			return nil
		}
		return errors.Join(errors.New("not refused"), err)
	})
}

// pad is an id as etcdctl prints it.
func pad(id string) string { return fmt.Sprintf("%16s", id) }

func memberNamed(t *testing.T, c *ctl, name string) *etcdserverpb.Member {
	t.Helper()
	for _, m := range c.memberList() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no member has the name %s", name)
	return nil
}

// initialCluster is what etcdctl member add says that the new node is to be started with.
func initialCluster(t *testing.T, out string) string {
	t.Helper()
	m := regexp.MustCompile(`ETCD_INITIAL_CLUSTER="([^"]+)"`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no initial cluster in %q", out)
	}
	return m[1]
}

// ends waits until a node has ended with a code, and has said why since a place in its log.
func ends(t *testing.T, n *harness.Node, code int, says string, since int) {
	t.Helper()
	got, err := n.WaitExit(testContext(t, limit(time.Minute)))
	if err != nil || got != code || !strings.Contains(n.Log()[since:], says) {
		t.Fatalf("%s ended with code %d, %v, and was to say %q:\n%s", n.Name, got, err, says, n.LogTail(10))
	}
}

// logged is how much a node has said so far.
func logged(n *harness.Node) int {
	if _, err := os.Stat(n.LogFile); err != nil {
		return 0
	}
	return len(n.Log())
}

// startReady starts a node and waits for it.
func startReady(t *testing.T, n *harness.Node) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(testContext(t, startTimeout)); err != nil {
		t.Fatal(err)
	}
}

// TestMemberJoins: a node that was added joins with nothing, serves clients by the others, comes back after kill -9 and with all others, is
// refused without its data, and ends when it was removed, also when it is started again.
func TestMemberJoins(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Ranges: 4})
	ctl := memberCtl(t, c)
	n4, err := c.AddNode("n4")
	if err != nil {
		t.Fatal(err)
	}
	three := c.Nodes[:3]
	n4.Joins(harness.InitialCluster(c.Nodes...))
	if err := n4.Start(); err != nil {
		t.Fatal(err)
	}
	ends(t, n4, 1, "member count is unequal", 0)

	id, out := ctl.memberAdd("n4", "--peer-urls="+n4.PeerURL)
	n4.Joins(strings.Replace(initialCluster(t, out), n4.PeerURL, "http://127.0.0.1:9", 1))
	at := logged(n4)
	if err := n4.Start(); err != nil {
		t.Fatal(err)
	}
	ends(t, n4, 1, "PeerURLs: no match found for existing member", at)

	n4.Joins(initialCluster(t, out))
	startReady(t, n4)
	clients(t, ctl.ctx, c, n4, "first")
	if list := ctl.run("member", "list"); !strings.Contains(list, id+", started, n4, "+n4.PeerURL+", "+n4.ClientURL+", false") {
		t.Errorf("member list:\n%s", list)
	}
	if err := n4.Kill(); err != nil {
		t.Fatal(err)
	}
	startReady(t, n4)
	clients(t, ctl.ctx, c, n4, "second")
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(testContext(t, startTimeout)); err != nil {
		t.Fatal(err)
	}
	clients(t, ctl.ctx, c, n4, "third")

	// Without its data a node would vote again: the new one, and one of the first.
	for i, n := range []*harness.Node{n4, three[2]} {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		aside := n.DataDir + ".aside"
		if err := os.Rename(n.DataDir, aside); err != nil {
			t.Fatal(err)
		}
		at := logged(n)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		ends(t, n, 1, "has already been bootstrapped", at)
		if err := errors.Join(os.RemoveAll(n.DataDir), os.Rename(aside, n.DataDir)); err != nil {
			t.Fatal(err)
		}
		startReady(t, n)
		clients(t, ctl.ctx, c, n, fmt.Sprint("with its data ", i))
	}

	at = logged(n4)
	eventually(t, limit(time.Minute), "the member can be removed", func() error {
		_, err := ctl.e.Run(ctl.ctx, "", "member", "remove", id)
		return err
	})
	ends(t, n4, 0, "the member has been permanently removed from the cluster", at)
	at = logged(n4)
	if err := n4.Start(); err != nil {
		t.Fatal(err)
	}
	ends(t, n4, 0, "the member has been permanently removed from the cluster", at)
	if got := ctl.memberList(); len(got) != 3 {
		t.Errorf("%v", got)
	}
	clients(t, ctl.ctx, c, three[0], "at the end")
}

// TestJoinRefused: a node that cannot be what it was told to be ends with the reason, and with what to do.
func TestJoinRefused(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{})
	ctl := memberCtl(t, c)
	n4, err := c.AddNode("n4")
	if err != nil {
		t.Fatal(err)
	}
	initial := harness.InitialCluster(c.Nodes...)
	refused := func(says ...string) {
		t.Helper()
		at := logged(n4)
		if err := n4.Start(); err != nil {
			t.Fatal(err)
		}
		for _, w := range says {
			ends(t, n4, 1, w, at)
		}
		if err := os.RemoveAll(n4.DataDir); err != nil {
			t.Fatal(err)
		}
	}
	n4.Joins(initial)
	added := n4.Args
	n4.Args = append(slices.Clone(added), "--initial-cluster-state=new", "--initial-cluster-token=another")
	if err := n4.Start(); err != nil { // as in etcd, it waits: the others may be about to be replaced, one by one
		t.Fatal(err)
	}
	waitLog(t, n4, "members of another cluster are still at the addresses that --initial-cluster names")
	if err := errors.Join(n4.Kill(), os.RemoveAll(n4.DataDir)); err != nil {
		t.Fatal(err)
	}
	n4.Args = append(slices.Clone(added), "--name=n5")
	refused("couldn't find local name", "--initial-cluster must have an entry")
	n4.Args = append(slices.Clone(added), "--initial-cluster="+initial+",n4="+c.Nodes[0].PeerURL)
	refused("has duplicate url")
	n4.Args = added
	refused("member count is unequal", "etcdctl member add")

	// Who was removed, and added again, has another id: the old data are not its own.
	id, out := ctl.memberAdd("n4", "--peer-urls="+n4.PeerURL)
	n4.Joins(initialCluster(t, out))
	startReady(t, n4)
	at := logged(n4)
	eventually(t, limit(time.Minute), "the member can be removed", func() error {
		_, err := ctl.e.Run(ctl.ctx, "", "member", "remove", id)
		return err
	})
	ends(t, n4, 0, "start it with an empty data directory", at)
	_, out = ctl.memberAdd("n4", "--peer-urls="+n4.PeerURL)
	n4.Joins(initialCluster(t, out))
	at = logged(n4)
	if err := n4.Start(); err != nil {
		t.Fatal(err)
	}
	ends(t, n4, 0, "start it with an empty data directory", at)
	if err := os.RemoveAll(n4.DataDir); err != nil {
		t.Fatal(err)
	}
	startReady(t, n4)
	clients(t, ctl.ctx, c, n4, "at the end")
}

// TestRemovedAndStopped: members are removed one after the other, each stopped as soon as that is answered, until one is left, which serves all ranges: a
// node that was removed ends when it holds nothing any more that the others need.
func TestRemovedAndStopped(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{Ranges: 8})
	ctl := memberCtl(t, c)
	clients(t, ctl.ctx, c, c.Nodes[2], "three")
	for i, n := range c.Nodes[:2] {
		removeMember(t, ctl.ctx, newClient(t, c, c.Endpoints()[i+1:]...), n.Name)
		took, code, err := n.Stop(ctl.ctx)
		if err != nil || code != 0 {
			t.Fatalf("%s ended with code %d, %v", n.Name, code, err)
		}
		t.Logf("%s has ended in %v", n.Name, took)
		clients(t, ctl.ctx, c, c.Nodes[2], "without "+n.Name)
	}
}

// TestRemovedAndKilled: members are removed one after the other until one is left, each killed at the very answer: what was written is there, and every range
// takes writes. One of them is asked for its own removal.
func TestRemovedAndKilled(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprint(nodes, " members"), func(t *testing.T) {
			const ranges = 8
			c := newCluster(t, harness.Options{Nodes: nodes, Ranges: ranges})
			ctx := testContext(t, 3*time.Minute)
			stays := c.Nodes[nodes-1]
			cl := newClient(t, c, stays.ClientURL)
			want := ""
			use := func(when string) { // one key a range
				t.Helper()
				within, cancel := context.WithTimeout(ctx, limit(30*time.Second))
				defer cancel()
				for i := range ranges {
					key := string([]byte{byte(i * 256 / ranges), 'k'})
					if got, err := cl.Get(within, key); err != nil || len(got.Kvs) > 0 != (want != "") || want != "" && string(got.Kvs[0].Value) != want {
						t.Fatalf("%s: %q holds %v, %v, and was to hold %q", when, key, got, err, want)
					}
					_, err := cl.Put(within, key, when)
					for errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost) { // it was on its way to the one who was killed
						_, err = cl.Put(within, key, when)
					}
					if err != nil {
						t.Fatalf("%s: put %q: %v", when, key, err)
					}
				}
				want = when
			}
			use("at first")
			for i, n := range slices.Backward(c.Nodes[:nodes-1]) {
				asked := cl
				if i == 0 {
					asked = newClient(t, c, n.ClientURL)
				}
				took := removeMember(t, ctx, asked, n.Name)
				if err := n.Kill(); err != nil {
					t.Fatal(err)
				}
				t.Logf("the removal of %s was answered after %v", n.Name, took)
				use("without " + n.Name)
			}
			if list, err := cl.MemberList(ctx); err != nil || len(list.Members) != 1 {
				t.Errorf("members: %v, %v", list, err)
			}
			clients(t, ctx, c, stays, "at the end")
		})
	}
}

// removeMember removes a member as soon as the cluster lets it, and returns how long the answer took.
func removeMember(t *testing.T, ctx context.Context, cl *clientv3.Client, name string) (took time.Duration) {
	t.Helper()
	list, err := cl.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list.Members, func(m *etcdserverpb.Member) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("%s is not among %v", name, list.Members)
	}
	eventually(t, limit(time.Minute), "the member can be removed", func() error {
		began := time.Now()
		_, err := cl.MemberRemove(ctx, list.Members[i].ID)
		if err != nil && !errors.Is(err, rpctypes.ErrUnhealthy) {
			t.Fatal(err)
		}
		took = time.Since(began)
		return err
	})
	return took
}

// TestLearner: a learner holds a replica of the meta group that learns and nothing else, says that it is one, refuses what etcd's learners refuse, also after
// kill -9; it serves like the others as soon as whoever has promoted it hears of that.
func TestLearner(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{Ranges: 4})
	ctl := memberCtl(t, c)
	n4, err := c.AddNode("n4")
	if err != nil {
		t.Fatal(err)
	}
	first := newClient(t, c, c.Nodes[0].ClientURL)
	id, out := ctl.memberAdd("n4", "--peer-urls="+n4.PeerURL, "--learner")
	ctl.fails("etcdserver: can only promote a learner member which is in sync with leader", "member", "promote", id)
	n4.Joins(initialCluster(t, out))
	startReady(t, n4)
	if _, err := first.Put(ctl.ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	learns := func(when string) {
		t.Helper()
		cl := newClient(t, c, n4.ClientURL)
		if st, err := cl.Status(ctl.ctx, n4.ClientURL); err != nil || !st.IsLearner {
			t.Errorf("%s: status: %v, %v", when, st, err)
		}
		if r, err := cl.Get(ctl.ctx, "a", clientv3.WithSerializable()); err != nil || len(r.Kvs) != 1 {
			t.Errorf("%s: a serializable read: %v, %v", when, r, err)
		}
		if _, err := cl.Put(ctl.ctx, "a", "2"); err == nil || !strings.Contains(err.Error(), "etcdserver: rpc not supported for learner") {
			t.Errorf("%s: a put: %v", when, err)
		}
		if r, ok := <-cl.Watch(ctl.ctx, "a"); ok && (r.Err() == nil || !strings.Contains(r.Err().Error(), "etcdserver: rpc not supported for learner")) {
			t.Errorf("%s: a watch: %v, %v", when, r, ok)
		}
		if code, body, err := httpGet(ctl.ctx, n4.ClientURL+"/readyz"); err != nil || code == http.StatusOK || !strings.Contains(body, "[-]non_learner failed") {
			t.Errorf("%s: readyz: %d %s, %v", when, code, body, err)
		}
		if _, body, err := httpGet(ctl.ctx, n4.ClientURL+"/metrics"); err != nil || !strings.Contains(body, "\netcd_server_is_learner 1\n") {
			t.Errorf("%s: the metric does not say that it is a learner, %v", when, err)
		}
		if r := metaNow(t, c, 0); len(r.Replicas) != 4 || r.Replicas[3].Name != "n4" || r.Replicas[3].State != "learner" {
			t.Errorf("%s: the meta group: %+v", when, r)
		}
		if _, body, err := httpGet(ctl.ctx, c.Nodes[0].ClientURL+"/pontoon/v1/ranges"); err != nil || strings.Contains(body, `"n4"`) {
			t.Errorf("%s: it holds a range: %s, %v", when, body, err)
		}
	}
	learns("started")
	ctl.fails("etcdserver: bad leader transferee", "move-leader", id)
	if err := n4.Kill(); err != nil {
		t.Fatal(err)
	}
	startReady(t, n4)
	learns("after kill -9")

	if out := ctl.run("member", "promote", id); !strings.Contains(out, "Member "+pad(id)+" promoted in cluster") {
		t.Errorf("member promote: %q", out)
	}
	if _, err := newClient(t, c, n4.ClientURL).Put(ctl.ctx, "a", "3"); err != nil {
		t.Errorf("a put to the promoted member: %v", err)
	}
	clients(t, ctl.ctx, c, n4, "promoted")
	if st, err := first.Status(ctl.ctx, n4.ClientURL); err != nil || st.IsLearner {
		t.Errorf("status of the promoted member: %v, %v", st, err)
	}
	if code, body, err := httpGet(ctl.ctx, n4.ClientURL+"/readyz"); err != nil || code != http.StatusOK {
		t.Errorf("readyz: %d %s, %v", code, body, err)
	}
	ctl.fails("etcdserver: can only promote a learner member", "member", "promote", id)
}

// clients uses a node as clients do: what was there before is there, and writes, watches and leases work.
func clients(t *testing.T, ctx context.Context, c *harness.Cluster, n *harness.Node, when string) {
	t.Helper()
	cl := newClient(t, c, n.ClientURL)
	fail := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s by %s: %v", when, what, n.Name, err)
		}
	}
	before, err := cl.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	fail("get", err)
	wctx, cancel := context.WithTimeout(ctx, limit(20*time.Second))
	defer cancel()
	watch := cl.Watch(wctx, when, clientv3.WithPrefix())
	lease, err := cl.Grant(ctx, 600)
	fail("grant", err)
	put, err := cl.Put(ctx, when+"/a", "1", clientv3.WithLease(lease.ID))
	fail("put", err)
	_, err = cl.Txn(ctx).Then(clientv3.OpPut(when+"/b", "2"), clientv3.OpPut("\xff"+when, "3")).Commit()
	fail("txn over ranges", err)
	for i, ev := range collect(t, watch, 2) { // one response may have both
		if ev.Kv.ModRevision != put.Header.Revision+int64(i) {
			t.Fatalf("%s: watch by %s: %v after revision %d", when, n.Name, ev, put.Header.Revision)
		}
	}
	got, err := cl.Get(ctx, when, clientv3.WithPrefix())
	fail("get", err)
	now, err := cl.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	fail("count", err)
	if len(got.Kvs) != 2 || now.Count != before.Count+3 {
		t.Fatalf("%s: by %s: %v, and %d keys after %d", when, n.Name, got.Kvs, now.Count, before.Count)
	}
	_, err = cl.Revoke(ctx, lease.ID)
	fail("revoke", err)
	if got, err = cl.Get(ctx, when+"/a"); err != nil || len(got.Kvs) != 0 {
		t.Fatalf("%s: by %s: a key without its lease: %v, %v", when, n.Name, got, err)
	}
}
