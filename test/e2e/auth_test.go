package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"pontoon/shard/router/etcdshim"
	"pontoon/test/e2e/harness"
)

const authPassword = "secret"

// authSplits cut between and within what users may do.
var authSplits = []string{"a", "g", "m", "mm", "n", "t", "z"}

// userClient is a client of a user by some nodes; closed with the test.
func userClient(t testing.TB, name string, endpoints ...string) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: limit(5 * time.Second), Username: name, Password: authPassword, Logger: zap.NewNop()})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// authCluster is a cluster of eight ranges with authentication on: alice may read and write [a, m) by one role and [m, z) by another.
func authCluster(t *testing.T, args ...string) (c *harness.Cluster, root *clientv3.Client) {
	t.Helper()
	c = newCluster(t, harness.Options{SplitKeys: authSplits, Args: append([]string{"--bcrypt-cost=4"}, args...)})
	ctx := testContext(t, 60*time.Second)
	cli := newClient(t, c)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(cli.UserAdd(ctx, "root", authPassword))
	must(cli.UserGrantRole(ctx, "root", "root"))
	must(cli.UserAdd(ctx, "alice", authPassword))
	for role, span := range map[string][2]string{"low": {"a", "m"}, "high": {"m", "z"}} {
		must(cli.RoleAdd(ctx, role))
		must(cli.RoleGrantPermission(ctx, role, span[0], span[1], clientv3.PermissionType(clientv3.PermReadWrite)))
		must(cli.UserGrantRole(ctx, "alice", role))
	}
	must(cli.AuthEnable(ctx))
	return c, userClient(t, "root", c.Endpoints()...)
}

func isDenied(err error) bool { return errors.Is(err, rpctypes.ErrPermissionDenied) }

// TestAuthAcrossRanges: rights that touch at a border of ranges are one, what goes beyond them is refused as a whole, and every node says so.
func TestAuthAcrossRanges(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c, root := authCluster(t)
	ctx := testContext(t, 60*time.Second)
	for _, key := range []string{"b", "l", "mmm", "y", "zz"} {
		if _, err := root.Put(ctx, key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes {
		alice, nobody := userClient(t, "alice", n.ClientURL), newClient(t, c, n.ClientURL)
		if resp, err := alice.Get(ctx, "a", clientv3.WithRange("z")); err != nil || resp.Count != 4 {
			t.Errorf("%s: what is hers: %v, %v", n.Name, resp, err)
		}
		if _, err := alice.Get(ctx, "a", clientv3.WithRange("z"), clientv3.WithSerializable()); err != nil {
			t.Errorf("%s: what is hers, serializable: %v", n.Name, err)
		}
		if _, err := alice.Delete(ctx, "c", clientv3.WithRange("n")); err != nil {
			t.Errorf("%s: a delete over a border: %v", n.Name, err)
		}
		for _, key := range []string{"l", "mmm"} {
			if _, err := root.Put(ctx, key, "1"); err != nil {
				t.Fatal(err)
			}
		}
		for what, err := range map[string]error{
			"a read":                     errOf(alice.Get(ctx, "a", clientv3.WithRange("zz"))),
			"a read with a limit":        errOf(alice.Get(ctx, "a", clientv3.WithRange("zz"), clientv3.WithLimit(1))),
			"a count":                    errOf(alice.Get(ctx, "a", clientv3.WithFromKey(), clientv3.WithCountOnly())),
			"a serializable read":        errOf(alice.Get(ctx, "zz", clientv3.WithSerializable())),
			"a put":                      errOf(alice.Put(ctx, "zz", "2")),
			"a delete":                   errOf(alice.Delete(ctx, "y", clientv3.WithFromKey())),
			"a branch that is not taken": errOf(alice.Txn(ctx).Then(clientv3.OpGet("b")).Else(clientv3.OpDelete("a", clientv3.WithFromKey())).Commit()),
			"a compare":                  errOf(alice.Txn(ctx).If(clientv3.Compare(clientv3.Value("zz"), "=", "1")).Then(clientv3.OpGet("b")).Commit()),
		} {
			if !isDenied(err) {
				t.Errorf("%s: %s beyond: %v", n.Name, what, err)
			}
		}
		if _, err := nobody.Get(ctx, "b"); !errors.Is(err, rpctypes.ErrUserEmpty) {
			t.Errorf("%s: nobody reads: %v", n.Name, err)
		}
		if err := httpStatus(ctx, n.ClientURL+"/pontoon/v1/ranges", ""); err != http.StatusUnauthorized {
			t.Errorf("%s: the layout is shown to nobody with status %d", n.Name, err)
		}
	}
	shim, err := etcdshim.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: limit(5 * time.Second), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shim.Close() }()
	if _, err := shim.Put(ctx, "b", "2"); !errors.Is(err, rpctypes.ErrUserEmpty) {
		t.Errorf("a routing client that is nobody: %v", err)
	}
}

func errOf[T any](_ T, err error) error { return err }

func httpStatus(ctx context.Context, url, token string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}

// login makes a token by a node, and bare asks a node with it.
func login(ctx context.Context, t *testing.T, n *harness.Node, name string) string {
	t.Helper()
	resp, err := etcdserverpb.NewAuthClient(bareConn(t, n)).Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: name, Password: authPassword})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Token
}

func bareConn(t *testing.T, n *harness.Node) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(strings.TrimPrefix(n.ClientURL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func bareGet(ctx context.Context, t *testing.T, n *harness.Node, token string) error {
	_, err := etcdserverpb.NewKVClient(bareConn(t, n)).Range(metadata.AppendToOutgoingContext(ctx, "token", token), &etcdserverpb.RangeRequest{Key: []byte("b")})
	return rpctypes.Error(err)
}

// TestTokens: a token is taken by every node, by one that has just started too, and no other is; after disable and enable an old one is none.
func TestTokens(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c, root := authCluster(t)
	ctx := testContext(t, 90*time.Second)
	token := login(ctx, t, c.Nodes[0], "alice")
	if err := c.Nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[1].WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if err := bareGet(ctx, t, n, token); err != nil {
			t.Errorf("%s does not take a token of %s: %v", n.Name, c.Nodes[0].Name, err)
		}
		for what, wrong := range map[string]string{
			"empty": "", "of another shape": "abcdefghijklmnop.7", "cut off": token[:len(token)-1], "changed": "A" + token[1:], "long": strings.Repeat("x", 4096), "signed": "eyJhbGciOiJub25lIn0.e30.",
		} {
			if wrong == token {
				continue
			}
			if err := bareGet(ctx, t, n, wrong); !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
				t.Errorf("%s, a token that is %s: %v", n.Name, what, err)
			}
		}
	}
	restartAll(ctx, t, c)
	for _, n := range c.Nodes {
		if err := bareGet(ctx, t, n, token); err != nil {
			t.Errorf("%s does not take a token from before all nodes were killed: %v", n.Name, err)
		}
	}
	if _, err := root.AuthDisable(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, c).AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if err := bareGet(ctx, t, n, token); !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
			t.Errorf("%s takes a token from before authentication was off: %v", n.Name, err)
		}
	}
	for _, n := range c.Nodes {
		for line := range strings.Lines(n.Log()) {
			if strings.Contains(line, authPassword) || strings.Contains(line, token) {
				t.Errorf("%s logs a secret: %s", n.Name, line)
			}
		}
	}
}

// restartAll kills all nodes at once, and starts them again.
func restartAll(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// hunt revokes and grants a right of alice's, while she uses it through all nodes in every way. It counts what succeeded though it began after the
// revocation was acknowledged, and before the next grant was asked for.
type hunt struct {
	t       *testing.T
	epoch   atomic.Int64 // odd: the right is revoked, and that was acknowledged
	used    atomic.Int64
	refused atomic.Int64
	wrong   atomic.Int64
}

// try does something that needs the right.
func (h *hunt) try(what string, fn func() error) {
	before := h.epoch.Load()
	err := fn()
	switch {
	case err == nil && before%2 == 1 && h.epoch.Load() == before:
		if h.wrong.Add(1) < 10 {
			h.t.Errorf("%s succeeded in epoch %d, after the right was revoked", what, before)
		}
	case err == nil:
		h.used.Add(1)
	case isDenied(err):
		h.refused.Add(1)
	}
}

// huntSeconds is for how long a hunt goes on; AUTH_HUNT_SECONDS lengthens it.
func huntSeconds() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("AUTH_HUNT_SECONDS")); err == nil {
		return time.Duration(n) * time.Second
	}
	if testing.Short() {
		return 9 * time.Second
	}
	return 20 * time.Second
}

// TestRevokeHunt: nothing that begins after a revocation was acknowledged succeeds: writes, transactions over ranges, reads, serializable ones, and
// events of watches, through any node, while the leader of the meta group, or another node, stands still for a while now and then.
func TestRevokeHunt(t *testing.T) {
	pontoonOnly(t)
	for _, mode := range []string{"lease", "quorum"} { // with the second nothing is lent: each asks
		t.Run(mode, func(t *testing.T) { huntIn(t, mode) })
	}
}

func huntIn(t *testing.T, mode string) {
	c, root := authCluster(t, "--oracle-mode="+mode)
	total := huntSeconds()
	ctx := testContext(t, total+120*time.Second)
	if _, err := root.UserRevokeRole(ctx, "alice", "high"); err != nil {
		t.Fatal(err)
	}
	h := &hunt{t: t}
	h.epoch.Store(1)
	hunting, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		h.use(hunting, &wg, userClient(t, "alice", n.ClientURL), fmt.Sprintf("%s-%d", n.Name, i))
	}
	wg.Go(func() { standStill(hunting, t, c) })
	h.watch(hunting, &wg, userClient(t, "alice", c.Endpoints()...), root)
	for end := time.Now().Add(total); time.Now().Before(end) && !t.Failed(); {
		h.turn(ctx, root)
	}
	stop()
	wg.Wait()
	t.Logf("%d uses, %d refusals, %d wrong", h.used.Load(), h.refused.Load(), h.wrong.Load())
	if h.used.Load() == 0 || h.refused.Load() == 0 {
		t.Error("the hunt has not hunted")
	}
}

// turn grants the right, waits, and revokes it.
func (h *hunt) turn(ctx context.Context, root *clientv3.Client) {
	h.epoch.Add(1)
	if _, err := root.UserGrantRole(ctx, "alice", "high"); err != nil {
		h.t.Logf("grant: %v", err)
	}
	pauseFor(ctx, 150*time.Millisecond)
	for ctx.Err() == nil {
		_, err := root.UserRevokeRole(ctx, "alice", "high")
		if err == nil || errors.Is(err, rpctypes.ErrRoleNotGranted) { // the second: an answer was lost, and whoever sees it gone sees it settled with the next
			if err == nil {
				break
			}
			if _, err := root.UserRevokeRole(ctx, "alice", "low"); err == nil {
				_, _ = root.UserGrantRole(ctx, "alice", "low")
				break
			}
		}
		h.t.Logf("revoke: %v", err)
	}
	h.epoch.Add(1)
	pauseFor(ctx, 150*time.Millisecond)
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// use uses the right through one node in every way but watches.
func (h *hunt) use(ctx context.Context, wg *sync.WaitGroup, alice *clientv3.Client, key string) {
	for what, fn := range map[string]func(ctx context.Context) error{
		"a put":    func(ctx context.Context) error { return errOf(alice.Put(ctx, "n"+key, "1")) },
		"a delete": func(ctx context.Context) error { return errOf(alice.Delete(ctx, "t"+key)) },
		"a read":   func(ctx context.Context) error { return errOf(alice.Get(ctx, "n"+key)) },
		"a read of a span": func(ctx context.Context) error {
			return errOf(alice.Get(ctx, "m", clientv3.WithRange("y"), clientv3.WithLimit(5)))
		},
		"a serializable read": func(ctx context.Context) error { return errOf(alice.Get(ctx, "mm", clientv3.WithSerializable())) },
		"a transaction of ranges": func(ctx context.Context) error {
			return errOf(alice.Txn(ctx).Then(clientv3.OpPut("b"+key, "1"), clientv3.OpPut("u"+key, "1")).Commit())
		},
		"a transaction that reads": func(ctx context.Context) error {
			return errOf(alice.Txn(ctx).If(clientv3.Compare(clientv3.Version("n"+key), "<", 0)).Then(clientv3.OpPut("n"+key, "1")).Else(clientv3.OpGet("t"), clientv3.OpGet("b")).Commit())
		},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				one, cancel := context.WithTimeout(ctx, 3*time.Second)
				h.try(what+" through "+key, func() error { return fn(one) })
				cancel()
				pauseFor(ctx, 5*time.Millisecond)
			}
		})
	}
}

// watch has alice watch what root writes, and holds each event against when it was written: its value is the epoch before the write.
func (h *hunt) watch(ctx context.Context, wg *sync.WaitGroup, alice, root *clientv3.Client) {
	wg.Go(func() {
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(ctx, 3*time.Second)
			epoch := h.epoch.Load()
			_, _ = root.Put(one, "o/watched", strconv.FormatInt(epoch, 10))
			cancel()
			pauseFor(ctx, 10*time.Millisecond)
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			one, cancel := context.WithCancel(ctx)
			for resp := range alice.Watch(one, "o/watched") {
				if resp.Err() != nil {
					h.refused.Add(1)
					break
				}
				for _, e := range resp.Events {
					written, _ := strconv.ParseInt(string(e.Kv.Value), 10, 64)
					h.used.Add(1)
					if written%2 == 1 && h.epoch.Load() == written {
						h.wrong.Add(1)
						h.t.Errorf("an event of epoch %d was delivered in it, after the right was revoked", written)
					}
				}
			}
			cancel()
			pauseFor(ctx, 10*time.Millisecond)
		}
	})
}

// standStill stops the leader of the meta group, or another node, for longer than an election takes, now and then.
func standStill(ctx context.Context, t *testing.T, c *harness.Cluster) {
	for i := 0; ctx.Err() == nil; i++ {
		pauseFor(ctx, 4*time.Second)
		n := c.Nodes[i%len(c.Nodes)]
		if err := n.Signal(syscall.SIGSTOP); err != nil {
			t.Logf("stop %s: %v", n.Name, err)
			return
		}
		pauseFor(ctx, 2500*time.Millisecond)
		if err := n.Signal(syscall.SIGCONT); err != nil {
			t.Logf("go on %s: %v", n.Name, err)
		}
	}
}

// TestEnableUnderLoad: authentication is turned on while clients without a name write and read through all nodes: nothing of theirs that begins after
// that was acknowledged succeeds, their watches end, and no revision is left out.
func TestEnableUnderLoad(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{SplitKeys: authSplits, Args: []string{"--bcrypt-cost=4"}})
	ctx := testContext(t, 60*time.Second)
	cli := newClient(t, c)
	for _, err := range []error{errOf(cli.UserAdd(ctx, "root", authPassword)), errOf(cli.UserGrantRole(ctx, "root", "root"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	watched := cli.Watch(ctx, "o/watched", clientv3.WithCreatedNotify())
	<-watched
	h := &hunt{t: t}
	loading, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		h.use(loading, &wg, newClient(t, c, n.ClientURL), fmt.Sprintf("%s-%d", n.Name, i))
	}
	pauseFor(ctx, time.Second)
	if _, err := cli.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	h.epoch.Store(1)
	pauseFor(ctx, 2*time.Second)
	stop()
	wg.Wait()
	t.Logf("%d uses before, %d wrong", h.used.Load(), h.wrong.Load())
	if h.used.Load() == 0 {
		t.Error("nothing was written before")
	}
	root := userClient(t, "root", c.Endpoints()...)
	first, err := root.Put(ctx, "o/watched", "1")
	if err != nil {
		t.Fatal(err)
	}
	if next, err := root.Put(ctx, "b", "1"); err != nil || next.Header.Revision != first.Header.Revision+1 {
		t.Errorf("revisions %d and %v, %v", first.Header.Revision, next, err)
	}
	for resp := range watched {
		if len(resp.Events) > 0 {
			t.Errorf("a watch of nobody's goes on: %v", resp.Events)
		}
	}
}
