package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/e2e/harness"
)

// howToInstall is what a skipped test says.
const howToInstall = "`make e2e-languages` installs it, where Debian and npm serve it"

// python is a Python that has a module; the test is skipped where there is none.
func python(t *testing.T, module string) string {
	t.Helper()
	for _, bin := range []string{os.Getenv("E2E_PYTHON"), "/usr/bin/python3", "python3"} { // Debian's packages are for Debian's Python
		if bin != "" && exec.Command(bin, "-c", "import "+module).Run() == nil {
			return bin
		}
	}
	t.Skipf("no Python here has %s: %s", module, howToInstall)
	return ""
}

// nodeModules is where Node's client is installed; the test is skipped where it is not.
func nodeModules(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../build/clients/node_modules")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "etcd3"))
	}
	if err == nil {
		_, err = exec.LookPath("node")
	}
	if err != nil {
		t.Skipf("Node's etcd3 is not there (%v): %s", err, howToInstall)
	}
	return dir
}

// script is a program in another language that tells its steps, line by line, and asks for what it cannot do itself.
type script struct {
	cmd   *exec.Cmd
	steps []string // that must be told, in order
}

// run runs it to its end. What it asks for is done by the function of that name.
func (s script) run(ctx context.Context, t *testing.T, asked map[string]func()) {
	t.Helper()
	var complaints bytes.Buffer
	s.cmd.Stderr = &complaints
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() })
	defer stop()
	var told []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, asks := strings.CutPrefix(lines.Text(), "? ")
		if !asks {
			told = append(told, what)
			continue
		}
		if do := asked[what]; do != nil {
			do()
		}
		if _, err := io.WriteString(in, "\n"); err != nil {
			break // it has ended, and Wait says how
		}
	}
	if err := s.cmd.Wait(); err != nil || !slices.Equal(told, s.steps) {
		t.Fatalf("%v: %v\nsteps: %q, want %q\n%s", s.cmd.Args, err, told, s.steps, complaints.String())
	}
}

// restartEach restarts the nodes, one after the other.
func restartEach(ctx context.Context, t *testing.T, c *harness.Cluster) func() {
	return func() {
		t.Helper()
		for _, n := range c.Nodes {
			if _, _, err := n.Stop(ctx); err != nil {
				t.Error(err)
				return
			}
			if err := errorsOf(n.Start(), n.WaitReady(ctx)); err != nil {
				t.Error(err)
				return
			}
		}
	}
}

// atFronts runs a test against the nodes of a new cluster, and against two gateways in front of another one, which have args.
func atFronts(t *testing.T, test func(t *testing.T, fronts *harness.Cluster), args ...string) {
	t.Run("nodes", func(t *testing.T) { test(t, newCluster(t, harness.Options{})) })
	t.Run("gateways", func(t *testing.T) {
		pontoonOnly(t)
		c := newCluster(t, harness.Options{})
		test(t, &harness.Cluster{Kind: c.Kind, Dir: c.Dir, Nodes: []*harness.Node{startGateway(t, c, "g1", args...), startGateway(t, c, "g2", args...)}})
	})
}

// errorsOf is the first of some errors.
func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// withUser turns authentication on, with a user who has all keys with a prefix.
func withUser(ctx context.Context, t *testing.T, cl *clientv3.Client, name, password, prefix string) {
	t.Helper()
	_, e1 := cl.UserAdd(ctx, "root", "secret")
	_, e2 := cl.UserGrantRole(ctx, "root", "root")
	_, e3 := cl.RoleAdd(ctx, "its")
	_, e4 := cl.RoleGrantPermission(ctx, "its", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	_, e5 := cl.UserAdd(ctx, name, password)
	_, e6 := cl.UserGrantRole(ctx, name, "its")
	_, e7 := cl.AuthEnable(ctx)
	if err := errorsOf(e1, e2, e3, e4, e5, e6, e7); err != nil {
		t.Fatal(err)
	}
}

// TestPythonEtcd3: Python's etcd3, on gRPC's C core: keys, transactions, leases, locks, watches, compaction, maintenance; and users, with TLS.
func TestPythonEtcd3(t *testing.T) {
	lengthy(t)
	bin := python(t, "etcd3")
	ctx := testContext(t, 4*time.Minute)
	run := func(t *testing.T, c *harness.Cluster, steps []string, args ...string) {
		n := c.Nodes[0] // it knows one address
		_, address, _ := strings.Cut(n.ClientURL, "://")
		cmd := exec.Command(bin, append([]string{"../clients/python_etcd3.py", address}, args...)...)
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "no_proxy=*")
		script{cmd, steps}.run(ctx, t, map[string]func(){"restart": restartEach(ctx, t, &harness.Cluster{Nodes: c.Nodes[:1]})})
	}
	atFronts(t, func(t *testing.T, c *harness.Cluster) {
		run(t, c, []string{"keys", "transactions", "leases", "locks", "watches", "maintenance", "restart"})
	}, "--member-list=members") // it looks for the leader among the members
	t.Run("users", func(t *testing.T) {
		tr := newTrust(t)
		c := describeCluster(t, harness.Options{ClientScheme: "https", Args: []string{"--cert-file=" + tr.path("server.pem"), "--key-file=" + tr.path("server.key")}})
		tr.node("server", c)
		start(t, c)
		root, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: tr.config(nil), Logger: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = root.Close() }()
		withUser(ctx, t, root, "alice", "wonder", "/py/")
		run(t, c, []string{"users"}, tr.path("ca.pem"), "alice", "wonder")
	})
}

// TestNodeEtcd3: Node's etcd3, on grpc-js: the same, with elections and software transactions, and a watch through the restart of every node.
func TestNodeEtcd3(t *testing.T) {
	lengthy(t)
	modules := nodeModules(t)
	atFronts(t, func(t *testing.T, c *harness.Cluster) {
		ctx := testContext(t, 4*time.Minute)
		cmd := exec.Command("node", "../clients/node/etcd3.js", strings.Join(c.Endpoints(), ","))
		cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "no_proxy=*")
		script{cmd, []string{"keys", "transactions", "leases", "locks", "watches", "compaction", "users", "maintenance"}}.run(ctx, t,
			map[string]func(){"restart": restartEach(ctx, t, c)})
	})
}

// TestPatroni: Patroni's own code keeps, loses and takes the leader's lock by the JSON gateway, through the restart of every node; without and with
// authentication.
func TestPatroni(t *testing.T) {
	lengthy(t)
	bin := python(t, "patroni.dcs.etcd3")
	atFronts(t, func(t *testing.T, c *harness.Cluster) {
		ctx := testContext(t, 6*time.Minute)
		for i, args := range [][]string{nil, {"patroni", "secret"}} {
			if i == 1 {
				withUser(ctx, t, newClient(t, c), "patroni", "secret", "/service/")
			}
			cmd := exec.Command(bin, append([]string{"../clients/patroni_dcs.py", strings.Join(c.Endpoints(), ",")}, args...)...)
			cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "no_proxy=*")
			t.Run(fmt.Sprintf("users=%v", i == 1), func(t *testing.T) {
				if i == 1 && env.kind == harness.Etcd {
					t.Skip("an etcd's tokens die with a member's restart, and this Patroni loses its lock over that")
				}
				script{cmd, []string{"birth", "kept", "lost", "taken", "settings", "restart", "gone"}}.run(ctx, t,
					map[string]func(){"restart": restartEach(ctx, t, c)})
			})
		}
	})
}
