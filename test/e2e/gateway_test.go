package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// startGateway starts a gateway in front of a cluster and waits until it serves.
func startGateway(t *testing.T, c *harness.Cluster, name string, args ...string) *harness.Node {
	t.Helper()
	g, err := c.AddGateway(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	restartGateway(t, g)
	return g
}

func restartGateway(t *testing.T, g *harness.Node) {
	t.Helper()
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := g.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// listedGateway is one of the gateways as a node shows them, or a gateway.
type listedGateway struct {
	Name        string `json:"name"`
	MirrorKeys  int64  `json:"mirror_keys"`
	MirrorBytes int64  `json:"mirror_bytes"`
	Level       uint32 `json:"level"`
	Upstreams   []struct {
		Gateway uint64 `json:"gateway"`
		Feeds   int64  `json:"feeds"`
		Refused string `json:"refused"`
	} `json:"upstreams"`
}

func listGateways(ctx context.Context, n *harness.Node) (all []listedGateway, err error) {
	return listGatewaysBy(ctx, http.DefaultClient, n)
}

func listGatewaysBy(ctx context.Context, by *http.Client, n *harness.Node) (all []listedGateway, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.ClientURL+"/pontoon/v1/gateways", nil)
	if err != nil {
		return nil, err
	}
	resp, err := by.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return all, json.NewDecoder(resp.Body).Decode(&all)
}

func gatewayNames(ctx context.Context, n *harness.Node) (names []string, err error) {
	all, err := listGateways(ctx, n)
	for _, g := range all {
		names = append(names, g.Name)
	}
	slices.Sort(names)
	return names, err
}

func awaitGateways(ctx context.Context, t *testing.T, n *harness.Node, want ...string) {
	t.Helper()
	eventually(t, limit(20*time.Second), fmt.Sprintf("the gateways that %s lists", n.Name), func() error {
		got, err := gatewayNames(ctx, n)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// TestGateway: genuine etcdctl works through a process that holds nothing as through a member, and gateways are known by those who ask.
func TestGateway(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(2*time.Minute))
	one, two := startGateway(t, c, "g1"), startGateway(t, c, "g2")
	ctl := harness.Etcdctl{Binary: env.etcdctl, Endpoints: []string{one.ClientURL}}
	run := func(stdin, want string, args ...string) {
		t.Helper()
		out, err := ctl.Run(ctx, stdin, args...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("etcdctl %s: %q, %v; want %q", strings.Join(args, " "), out, err, want)
		}
	}
	run("", "OK", "put", "a", "1")
	run("", "OK", "put", "/order/5", "2")
	run("", "a\n1", "get", "a")
	run("", "/order/5\n2", "get", "/order/", "--prefix", "--consistency=s")
	run("mod(\"a\") > \"0\"\n\nput b 3\nget /order/5\n\n\n", "SUCCESS", "txn")
	run("", "inside", "lock", "l", "--", "echo", "inside")
	run("", "is healthy", "endpoint", "health")
	run("", "3.7.3", "endpoint", "status")
	run("", "compacted revision 2", "compact", "2")

	awaitGateways(ctx, t, c.Nodes[0], "g1", "g2")
	awaitGateways(ctx, t, two, "g1", "g2")
	eventually(t, limit(20*time.Second), "the members that a gateway's client is told of", func() error {
		out, err := ctl.Run(ctx, "", "member", "list")
		if err == nil && (!strings.Contains(out, "g1") || !strings.Contains(out, two.ClientURL) || strings.Contains(out, "n1")) {
			err = errors.New(out)
		}
		return err
	})
	run("", "is healthy", "endpoint", "health", "--cluster")
	members := startGateway(t, c, "g3", "--member-list=members")
	if ms, err := newClient(t, c, members.ClientURL).MemberList(ctx); err != nil || len(ms.Members) != 3 || ms.Members[0].Name == "g1" {
		t.Errorf("with --member-list=members: %v, %v", ms, err)
	}
	out, err := exec.CommandContext(ctx, clientBinary(t), "--endpoints", c.Nodes[1].ClientURL, "gateways").CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 3 || !strings.Contains(string(out), members.ClientURL) {
		t.Errorf("client gateways: %v\n%s", err, out)
	}
	if _, code, err := members.Stop(ctx); err != nil || code != 0 {
		t.Errorf("stopped with %d, %v", code, err)
	}
	got, err := gatewayNames(ctx, c.Nodes[2])
	if err != nil || !slices.Equal(got, []string{"g1", "g2"}) {
		t.Errorf("one that was stopped is listed: %v, %v", got, err)
	}
	if testing.Short() {
		return
	}
	if err := two.Kill(); err != nil { // which nobody hears of for 15 s
		t.Fatal(err)
	}
	awaitGateways(ctx, t, c.Nodes[0], "g1")
}

// TestGatewayUnderLoad: ranges are cut, moved and merged, and a node and a gateway are killed, while writers and a watcher of everything work through two
// gateways: every write is delivered once and in order.
func TestGatewayUnderLoad(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, limit(4*time.Minute))
	one, two := startGateway(t, c, "g1"), startGateway(t, c, "g2")
	rec := newRecorder()
	watcher := newClient(t, c, one.ClientURL, two.ClientURL)
	watching := rec.watch(ctx, watcher)
	go askProgress(ctx, watcher)
	cl := newClient(t, c)
	w := startWriters(ctx, t, &harness.Cluster{Nodes: []*harness.Node{two}}, "k/gate")
	for i := range 12 {
		split(ctx, t, c, fmt.Sprintf("k/gate/%02d", 5*i+1))
	}
	for i := range 6 {
		merge(ctx, t, c, fmt.Sprintf("k/gate/%02d", 10*i+1))
	}
	mid := w.newest()
	rec.waitFor(t, mid, limit(20*time.Second))
	for range 3 { // the watcher goes on at the other one
		if err := one.Kill(); err != nil {
			t.Fatal(err)
		}
		rec.waitFor(t, w.newest(), limit(20*time.Second))
		restartGateway(t, one)
	}
	w.finish(ctx, t, cl, false)
	last := w.revs[len(w.revs)-1]
	rec.waitFor(t, last, limit(30*time.Second))

	w = startWriters(ctx, t, &harness.Cluster{Nodes: []*harness.Node{two}}, "k/late")
	if err := c.Nodes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, last+200, limit(30*time.Second))
	if err := c.Nodes[2].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	w.end() // requests that were under way when the node died may have failed
	put, err := cl.Put(ctx, "k/last", "")
	if err != nil {
		t.Fatal(err)
	}
	rec.waitFor(t, put.Header.Revision, limit(30*time.Second))
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	checkState(ctx, t, cl, h, put.Header.Revision)
}

// mirroredAtHand is a serializable list of a prefix: a mirror answers it without asking anybody.
func mirroredAtHand(op *clientv3.Op) {
	clientv3.WithPrefix()(op)
	clientv3.WithSerializable()(op)
}

// TestGatewayRights: what was granted and revoked is in force at gateways from the acknowledgement on, though nobody calls them, and whether
// a list comes from memory or from ranges.
func TestGatewayRights(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	for _, mode := range []string{"lease", "quorum"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, harness.Options{Args: []string{"--oracle-mode=" + mode}})
			ctx := testContext(t, limit(2*time.Minute))
			gate := startGateway(t, c, "g1", "--mirror-prefixes=/order/")
			awaitMirrors(ctx, t, gate, 1)
			nobody := newClient(t, c, gate.ClientURL)
			admin := newClient(t, c)
			if _, err := nobody.Put(ctx, "/order/5", "1"); err != nil {
				t.Fatal(err)
			}
			if _, err := nobody.Get(ctx, "/order/5", clientv3.WithSerializable()); err != nil {
				t.Fatal(err)
			}
			events := nobody.Watch(ctx, "/order/", clientv3.WithPrefix())
			for _, err := range []error{errOf(admin.UserAdd(ctx, "root", authPassword)), errOf(admin.UserGrantRole(ctx, "root", "root")),
				errOf(admin.UserAdd(ctx, "alice", authPassword)), errOf(admin.RoleAdd(ctx, "r")), errOf(admin.UserGrantRole(ctx, "alice", "r")),
				errOf(admin.RoleGrantPermission(ctx, "r", "/order/", "/order0", clientv3.PermissionType(clientv3.PermReadWrite))), errOf(admin.AuthEnable(ctx))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				for _, op := range []clientv3.OpOption{clientv3.WithSerializable(), clientv3.WithLimit(0), clientv3.WithPrefix(), mirroredAtHand} {
					if _, err := nobody.Get(ctx, "/order/5", op); !errors.Is(err, rpctypes.ErrUserEmpty) {
						t.Fatalf("nobody reads after authentication was enabled: %v", err)
					}
				}
				if _, err := nobody.Put(ctx, "/order/5", "2"); !errors.Is(err, rpctypes.ErrUserEmpty) {
					t.Fatalf("nobody writes: %v", err)
				}
			}
			root, alice := userClient(t, "root", c.Nodes[0].ClientURL), userClient(t, "alice", gate.ClientURL)
			put, err := root.Put(ctx, "/order/6", "secret")
			if err != nil {
				t.Fatal(err)
			}
			r, ok := <-events
			for ; ok && !r.Canceled && r.Err() == nil; r, ok = <-events {
				for _, ev := range r.Events {
					if ev.Kv.ModRevision >= put.Header.Revision {
						t.Fatalf("nobody is told of %s", ev.Kv.Key)
					}
				}
			}
			began := time.Now()
			const rounds = 10
			for i := range rounds {
				if _, err := alice.Put(ctx, "/order/7", fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
				if list, err := alice.Get(ctx, "/order/", clientv3.WithPrefix()); err != nil || len(list.Kvs) != 3 {
					t.Fatalf("a list that alice may read: %v, %v", list, err)
				}
				if _, err := root.UserRevokeRole(ctx, "alice", "r"); err != nil {
					t.Fatal(err)
				}
				for _, op := range []clientv3.OpOption{clientv3.WithSerializable(), clientv3.WithLimit(0), clientv3.WithPrefix(), mirroredAtHand} {
					if _, err := alice.Get(ctx, "/order/7", op); !isDenied(err) {
						t.Fatalf("a right that was revoked is used: %v", err)
					}
				}
				if _, err := root.UserGrantRole(ctx, "alice", "r"); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d changes, each used at once: %v", 2*rounds, time.Since(began))
		})
	}
}

// TestGatewayRefusals: what cannot be a gateway says why, and one without a cluster waits for it and can be stopped.
func TestGatewayRefusals(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	ctx := testContext(t, limit(time.Minute))
	for _, bad := range []struct {
		args []string
		want string
	}{
		{[]string{"--role=gateway"}, "needs --join"},
		{[]string{"--role=gateway", "--join=http://127.0.0.1:1", "--initial-cluster=a=http://127.0.0.1:1"}, "--initial-cluster is for members"},
		{[]string{"--join=http://127.0.0.1:1"}, "--join is for --role=gateway"},
		{[]string{"--role=proxy"}, "invalid value"},
	} {
		out, err := exec.CommandContext(ctx, env.server, bad.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), bad.want) {
			t.Errorf("%v: %v\n%s", bad.args, err, out)
		}
	}
	c := describeCluster(t, harness.Options{})
	g, err := c.AddGateway("g1")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(10*time.Second), "a gateway whose cluster is not there says so", func() error {
		if log := g.Log(); !strings.Contains(log, "no member that --join names has told of its cluster") {
			return errors.New(log)
		}
		return nil
	})
	if _, code, err := g.Stop(ctx); err != nil || code != 0 {
		t.Errorf("stopped with %d, %v", code, err)
	}
	restartLater := make(chan error, 1)
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { restartLater <- c.Start(ctx) }()
	if err := errors.Join(<-restartLater, g.WaitReady(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, c, g.ClientURL).Put(ctx, "a", "1"); err != nil {
		t.Error(err)
	}
}

// TestGatewayTLS: where peers must show a certificate a gateway must, too, and clients speak TLS with it.
func TestGatewayTLS(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	tr := newTrust(t)
	c := tr.mutual(3)
	tr.issue("me", certs.Options{CN: "me"})
	start(t, c)
	ca := "--peer-trusted-ca-file=" + tr.path("ca.pem")
	g, err := c.AddGateway("g1", "--cert-file="+tr.path("n1.pem"), "--key-file="+tr.path("n1.key"), "--client-cert-auth", "--trusted-ca-file="+tr.path("ca.pem"),
		"--peer-cert-file="+tr.path("n1.pem"), "--peer-key-file="+tr.path("n1.key"), ca)
	if err != nil {
		t.Fatal(err)
	}
	restartGateway(t, g)
	for _, args := range [][]string{{"put", "a", "1"}, {"get", "a"}} {
		if out, err := ctlAt(t, []string{g.ClientURL}, append(tr.flags("me"), args...)...); err != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if out, err := ctlAt(t, []string{g.ClientURL}, "--cacert="+tr.path("ca.pem"), "--command-timeout=2s", "--dial-timeout=1s", "get", "a"); err == nil {
		t.Errorf("a client without a certificate is served: %s", out)
	}
	other := newTrust(t)
	other.issue("them", certs.Options{CN: "them"})
	stranger, err := c.AddGateway("g2", "--cert-file="+tr.path("n1.pem"), "--key-file="+tr.path("n1.key"),
		"--peer-cert-file="+other.path("them.pem"), "--peer-key-file="+other.path("them.key"), ca)
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	waitLog(t, stranger, "no member that --join names has told of its cluster")
}
