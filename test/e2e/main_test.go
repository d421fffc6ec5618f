package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/e2e/harness"
)

// startTimeout bounds the start of a cluster on a busy machine.
const startTimeout = 60 * time.Second

// splitKeys cut the key space of test clusters: a transaction's keys lie within one part, and
// listings run over several.
var splitKeys = []string{"/order/3", "/order/6", "/page/05", "/page/10", "/page/15", "k", "/奥"}

// suite is what TestMain prepares.
type suite struct {
	kind    harness.Kind
	server  string // binary
	etcdctl string
	slack   float64
	long    bool

	shared struct {
		once    sync.Once
		cluster *harness.Cluster
		dir     string
		err     error
	}
}

var env suite

func TestMain(m *testing.M) {
	flag.Parse()
	if err := errors.Join(boundBeside(), env.prepare()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	if c := env.shared.cluster; c != nil {
		_ = c.Close()
		if code == 0 && os.Getenv("E2E_KEEP") == "" {
			_ = os.RemoveAll(env.shared.dir)
		}
	}
	os.Exit(code)
}

// lengthy skips a test that kills, waits or fills where only a minute is given.
func lengthy(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("lengthy")
	}
}

// besideAtOnce is how many tests run beside each other unless -parallel says it: processors are not what they want.
const besideAtOnce = 4

func boundBeside() (err error) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		err = flag.Set("test.parallel", strconv.Itoa(besideAtOnce))
	}
	return err
}

// beside lets a test run beside others with -short, once all that run alone are through. It is for tests that have clusters of their own and wait: for nodes to start, for elections, for what is
// done by and by. These run alone: one that keeps the processors busy, one that judges how fast or how often something is done, or that writers see no error under it, one that sets the
// environment, and one of the shared cluster, whose alarms, users and compactions are everybody's.
func beside(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Parallel()
	}
}

func (s *suite) prepare() error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	s.kind = harness.Kind(or(os.Getenv("E2E_SERVER"), string(harness.Pontoon)))
	s.long = os.Getenv("E2E_LONG") != ""
	if s.slack, err = strconv.ParseFloat(or(os.Getenv("E2E_SLACK"), "2"), 64); err != nil {
		return err
	}
	bin := or(os.Getenv("E2E_BIN"), filepath.Join(root, "build", "bin"))
	tools := filepath.Join(root, "test", "etcdtools")
	s.etcdctl = filepath.Join(bin, "etcdctl")
	if err := buildMissing(s.etcdctl, tools, "go.etcd.io/etcd/etcdctl/v3"); err != nil {
		return err
	}
	s.server = os.Getenv("E2E_NODE")
	switch {
	case s.server != "":
		return nil
	case s.kind == harness.Etcd:
		s.server = filepath.Join(bin, "etcd")
		return buildMissing(s.server, tools, "go.etcd.io/etcd/server/v3")
	}
	s.server = filepath.Join(root, "build", "e2e", "node")
	if os.Getenv("E2E_RACE") != "" {
		return build(s.server, root, "-race", "./cmd/node")
	}
	return build(s.server, root, "./cmd/node")
}

var building sync.Mutex // tests beside each other may want the same tool

func buildMissing(out, dir, pkg string) error {
	building.Lock()
	defer building.Unlock()
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	return build(out, dir, pkg)
}

func build(out, dir string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", out}, args...)...)
	cmd.Dir = dir
	if !slices.Contains(args, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile builds it
	}
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, b)
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// limit stretches a time limit for slow machines.
func limit(d time.Duration) time.Duration { return time.Duration(float64(d) * env.slack) }

func pontoonOnly(t *testing.T) {
	t.Helper()
	if env.kind != harness.Pontoon {
		t.Skip("only Pontoon has this")
	}
}

// byHand is a cluster in which nothing moves, and no lead changes hands, unless a test wants it.
func byHand() harness.Options { return harness.Options{Args: []string{"--placement=off"}} }

// newCluster starts a cluster of its own for a test and ends it with the test.
func newCluster(t *testing.T, o harness.Options) *harness.Cluster {
	t.Helper()
	c := describeCluster(t, o)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// describeCluster prepares a cluster without starting it.
func describeCluster(t *testing.T, o harness.Options) *harness.Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "pontoon-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	o.Kind, o.Binary, o.Dir = env.kind, env.server, dir
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.SplitKeys == nil && o.Ranges == 0 {
		o.SplitKeys = splitKeys
	}
	c, err := harness.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range slices.Concat(c.Nodes, c.Gateways) {
				t.Logf("--- log of %s (%s), running: %v\n%s", n.Name, n.LogFile, n.Running(), n.LogTail(40))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() && os.Getenv("E2E_KEEP") == "" {
			_ = c.Remove()
		}
	})
	return c
}

// sharedCluster is one cluster for all tests that hurt nothing.
func sharedCluster(t *testing.T) *harness.Cluster {
	t.Helper()
	s := &env.shared
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "pontoon-e2e-shared-"); s.err != nil {
			return
		}
		s.cluster, s.err = harness.New(harness.Options{Kind: env.kind, Binary: env.server, Dir: s.dir, Nodes: 3, SplitKeys: splitKeys})
		if s.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		s.err = s.cluster.Start(ctx)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range s.cluster.Nodes {
				t.Logf("--- log of %s (%s)\n%s", n.Name, n.LogFile, n.LogTail(15))
			}
		}
	})
	return s.cluster
}

// newClient connects to some endpoints, all of the cluster if none are named.
func newClient(t testing.TB, c *harness.Cluster, endpoints ...string) *clientv3.Client {
	t.Helper()
	if len(endpoints) == 0 {
		endpoints = c.Endpoints()
	}
	cl, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() }) // some tests have closed it
	return cl
}

// testContext ends with the test, or before the test binary's own patience does.
func testContext(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually repeats a check until it succeeds.
func eventually(t testing.TB, d time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// rangeInfo is what a test wants of /pontoon/v1/ranges.
type rangeInfo = harness.RangeInfo

type replicaInfo = harness.ReplicaInfo

func httpGet(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func ranges(t testing.TB, n *harness.Node) []rangeInfo {
	t.Helper()
	ctx := testContext(t, 20*time.Second)
	rs, err := rangesAt(ctx, n.ClientURL)
	if err != nil {
		t.Fatalf("ranges of %s: %v", n.Name, err)
	}
	return rs
}

// rangesAt is the list as a node tells it.
func rangesAt(ctx context.Context, clientURL string) ([]rangeInfo, error) {
	return harness.Ops{ClientURL: clientURL}.Ranges(ctx)
}

// memberIDs maps member ids to nodes.
func memberIDs(ctx context.Context, t testing.TB, cl *clientv3.Client, c *harness.Cluster) map[uint64]*harness.Node {
	t.Helper()
	resp, err := cl.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]*harness.Node{}
	for _, m := range resp.Members {
		i := slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == m.Name })
		if i < 0 {
			t.Fatalf("unknown member %q", m.Name)
		}
		out[m.ID] = c.Nodes[i]
	}
	return out
}

// sampleKeys are keys of all ranges.
func sampleKeys() []string {
	keys := []string{"\x01first"}
	for _, s := range splitKeys {
		keys = append(keys, s+"/sample")
	}
	return keys
}

func lines(s string) []string {
	return strings.Split(strings.TrimRight(s, "\n"), "\n")
}
