package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
	"pontoon/test/nameserver"
)

// undiscovered makes a cluster whose nodes are not told of one another.
func undiscovered(t *testing.T, o harness.Options) *harness.Cluster {
	t.Helper()
	c := describeCluster(t, o)
	for _, n := range c.Nodes {
		n.Args = forget(n.Args, "--initial-cluster", "--initial-cluster-token")
	}
	return c
}

// forget takes flags out, with their values.
func forget(args []string, flags ...string) (out []string) {
	for i := 0; i < len(args); i++ {
		if slices.Contains(flags, args[i]) {
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// allThere fails unless every node serves, and all agree on who the members are.
func allThere(t *testing.T, c *harness.Cluster) {
	t.Helper()
	ctx := testContext(t, limit(startTimeout))
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes {
		cl := newClient(t, c, n.ClientURL)
		if _, err := cl.Put(ctx, fmt.Sprintf("k/%d", i), n.Name); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
		eventually(t, limit(10*time.Second), "members have their names", func() error {
			l, err := cl.MemberList(ctx)
			if err != nil {
				return err
			}
			var names []string
			for _, m := range l.Members {
				names = append(names, m.Name)
			}
			slices.Sort(names)
			if want := []string{"n1", "n2", "n3"}; !slices.Equal(names, want) {
				return fmt.Errorf("%s names %v", n.Name, names)
			}
			return nil
		})
	}
}

// TestDiscoveryService: nodes that know the address of another cluster and a token find one another there, be it etcd's or Pontoon; one more than there is room for is
// told so; a node that has data asks nobody.
func TestDiscoveryService(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	for _, kind := range []string{"etcd", "pontoon"} {
		t.Run(kind, func(t *testing.T) {
			binary := env.server
			if kind == "etcd" {
				binary = tool(t, "etcd", "go.etcd.io/etcd/server/v3")
			}
			cl, stop := serverOn(t, binary, filepath.Join(t.TempDir(), "registry"))
			ctx := testContext(t, limit(90*time.Second))
			if _, err := cl.Put(ctx, "/_etcd/registry/T0/_config/size", "3"); err != nil {
				t.Fatal(err)
			}
			flags := []string{"--discovery-token=T0", "--discovery-endpoints=" + strings.Join(cl.Endpoints(), ",")}
			c := undiscovered(t, harness.Options{Args: flags, SplitKeys: splitKeys})
			if err := c.Nodes[0].Start(); err != nil {
				t.Fatal(err)
			}
			if err := c.Nodes[1].Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, limit(20*time.Second), "two have registered", func() error { return registered(ctx, cl, 2) })
			if c.Nodes[0].Running() && strings.Contains(c.Nodes[0].Log(), "ready to serve client requests") {
				t.Error("a node serves before its cluster is there")
			}
			stopWaiting(t, c.Nodes[1])
			if err := c.Nodes[1].Start(); err != nil {
				t.Fatal(err)
			}
			if err := c.Nodes[2].Start(); err != nil {
				t.Fatal(err)
			}
			allThere(t, c)

			late, err := c.AddNode("n4")
			if err != nil {
				t.Fatal(err)
			}
			late.Joins("")
			late.Args = append(forget(late.Args, "--initial-cluster", "--initial-cluster-token", "--initial-cluster-state"), flags...)
			if err := late.Start(); err != nil {
				t.Fatal(err)
			}
			if code, err := late.WaitExit(ctx); err != nil || code != 1 {
				t.Errorf("one too many: %d, %v", code, err)
			}
			for _, want := range []string{"failed to bootstrap; discovery token was already used", "discovery: cluster is full", "do not reuse discovery token; generate a new one to bootstrap a cluster"} {
				if !strings.Contains(late.Log(), want) {
					t.Errorf("the log of one too many lacks %q", want)
				}
			}
			stop()
			if _, code, err := c.Nodes[0].Stop(ctx); err != nil || code != 0 {
				t.Errorf("stop: %d, %v", code, err)
			}
			if err := c.Nodes[0].Start(); err != nil {
				t.Fatal(err)
			}
			if err := c.Nodes[0].WaitReady(ctx); err != nil {
				t.Error(err)
			}
			if !strings.Contains(c.Nodes[0].Log(), "discovery token is ignored since cluster already initialized; valid logs are found") {
				t.Error("a node with data does not say that it asks nobody")
			}
		})
	}
}

func registered(ctx context.Context, cl *clientv3.Client, want int64) error {
	r, err := cl.Get(ctx, "/_etcd/registry/T0/members", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	if r.Count != want {
		return fmt.Errorf("%d have registered", r.Count)
	}
	return nil
}

// stopWaiting stops a node that waits for others.
func stopWaiting(t *testing.T, n *harness.Node) {
	t.Helper()
	if err := n.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := n.WaitExit(testContext(t, limit(10*time.Second))); err != nil || code != 0 {
		t.Errorf("a node that waits for others, stopped: %d, %v", code, err)
	}
}

// TestDiscoveryServiceSecure: the registry asks for a certificate, a name and a password.
func TestDiscoveryServiceSecure(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	tr := newTrust(t)
	registry := tr.mutual(1)
	ctx := testContext(t, limit(90*time.Second))
	if err := registry.Start(ctx); err != nil {
		t.Fatal(err)
	}
	tr.issue("client", certs.Options{CN: "nobody"})
	ctl := func(args ...string) {
		t.Helper()
		if out, err := ctlAt(t, registry.Endpoints(), append(tr.flags("client"), args...)...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	ctl("put", "/_etcd/registry/T0/_config/size", "1")
	ctl("user", "add", "root:secret")
	ctl("user", "grant-role", "root", "root")
	ctl("auth", "enable")
	c := undiscovered(t, harness.Options{Nodes: 1, Args: []string{"--discovery-token=T0", "--discovery-endpoints=" + registry.Endpoints()[0],
		"--discovery-cacert=" + tr.path("ca.pem"), "--discovery-cert=" + tr.path("client.pem"), "--discovery-key=" + tr.path("client.key"), "--discovery-user=root"}})
	n := c.Nodes[0]
	if err := n.Start("--discovery-password=wrong"); err != nil {
		t.Fatal(err)
	}
	if code, err := n.WaitExit(ctx); err != nil || code != 1 || !strings.Contains(n.Log(), "authentication failed, invalid user ID or password") {
		t.Errorf("a wrong password: %d, %v: %s", code, err, n.LogTail(5))
	}
	if err := n.Start("--discovery-password=secret"); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(n.Log(), "secret") || strings.Contains(n.Log(), "wrong") {
		t.Error("passwords are in the log")
	}
}

// named is a cluster whose nodes find one another in DNS: each runs with a resolv.conf of its own, which names a server of this test.
func named(t *testing.T, scheme, service string, args ...string) *harness.Cluster {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a process with a name server of its own needs root")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("there is no unshare")
	}
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	const script = `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	c := undiscovered(t, harness.Options{PeerScheme: scheme, SplitKeys: splitKeys, Args: append(args, "--discovery-srv=pontoon.test"),
		Within: func(int) []string { return []string{unshare, "-m", "--", "sh", "-c", script, conf} }})
	z := &nameserver.Zone{Hosts: map[string]netip.Addr{}}
	for _, n := range c.Nodes {
		u, err := url.Parse(n.PeerURL)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		host := n.Name + ".pontoon.test."
		z.Hosts[host] = netip.MustParseAddr(u.Hostname())
		z.Services = append(z.Services, nameserver.Service{Name: service + ".pontoon.test.", Target: host, Port: uint16(port)})
	}
	var s *nameserver.Server
	ip := ""
	for i := 1; s == nil && i < 200; i++ { // port 53 is the only one that resolv.conf can name
		ip = fmt.Sprintf("127.77.%d.%d", os.Getpid()%250, i)
		s, err = nameserver.Listen(ip+":53", z)
	}
	if s == nil {
		t.Skipf("no name server can run here: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := os.WriteFile(conf, []byte("nameserver "+ip+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDiscoverySRV: nodes that know a domain find one another in DNS; with TLS and no authorities of their own they hold one another to the domain's name.
func TestDiscoverySRV(t *testing.T) {
	pontoonOnly(t)
	t.Run("plain", func(t *testing.T) {
		c := named(t, "http", "_etcd-server._tcp")
		if err := c.Start(testContext(t, limit(startTimeout))); err != nil {
			t.Fatal(err)
		}
		allThere(t, c)
	})
	t.Run("of a name", func(t *testing.T) {
		c := named(t, "http", "_etcd-server-blue._tcp", "--discovery-srv-name=blue")
		if err := c.Start(testContext(t, limit(startTimeout))); err != nil {
			t.Fatal(err)
		}
		allThere(t, c)
	})
	t.Run("secure", func(t *testing.T) {
		tr := newTrust(t)
		tr.issue("domain", certs.Options{CN: "peers", Names: []string{"pontoon.test"}})
		t.Setenv("SSL_CERT_FILE", tr.path("ca.pem"))
		c := named(t, "https", "_etcd-server-ssl._tcp", "--peer-cert-file="+tr.path("domain.pem"), "--peer-key-file="+tr.path("domain.key"))
		ctx := testContext(t, limit(2*startTimeout))
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		allThere(t, c)
		if err := c.StopAll(limit(20 * time.Second)); err != nil { // a restart verifies in the same way
			t.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("nobody knows", func(t *testing.T) {
		c := named(t, "http", "_etcd-server-other._tcp")
		n := c.Nodes[0]
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if code, err := n.WaitExit(testContext(t, limit(20*time.Second))); err != nil || code != 1 {
			t.Errorf("exit %d, %v", code, err)
		}
		if !strings.Contains(n.Log(), "error setting up initial cluster: error querying DNS SRV records for _etcd-server") {
			t.Errorf("the log: %s", n.LogTail(5))
		}
	})
}
