package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// trust is an authority, the files that it has made, and who uses them.
type trust struct {
	t   *testing.T
	dir string
	ca  *certs.Authority
}

func newTrust(t *testing.T) *trust {
	t.Helper()
	ca, err := certs.NewAuthority("pontoon-e2e")
	if err != nil {
		t.Fatal(err)
	}
	tr := &trust{t: t, dir: t.TempDir(), ca: ca}
	tr.replace("ca.pem", ca.PEM)
	return tr
}

func (tr *trust) path(name string) string { return filepath.Join(tr.dir, name) }

func (tr *trust) replace(name string, text []byte) {
	tr.t.Helper()
	if err := certs.Replace(tr.path(name), text); err != nil {
		tr.t.Fatal(err)
	}
}

// issue makes name.pem and name.key, instead of what is there.
func (tr *trust) issue(name string, o certs.Options) *certs.Pair {
	tr.t.Helper()
	p, err := tr.ca.Issue(o)
	if err == nil {
		_, _, err = p.Write(tr.dir, name)
	}
	if err != nil {
		tr.t.Fatal(err)
	}
	return p
}

// node makes a certificate for the nodes of a cluster, whatever their addresses.
func (tr *trust) node(name string, c *harness.Cluster) *certs.Pair {
	tr.t.Helper()
	o := certs.Options{CN: name, IPs: []string{"127.0.0.1"}} // from which they call one another
	for _, n := range c.Nodes {
		u, err := url.Parse(n.ClientURL)
		if err != nil {
			tr.t.Fatal(err)
		}
		o.IPs = append(o.IPs, u.Hostname())
	}
	return tr.issue(name, o)
}

// flags are those of etcdctl, of bin/client and of curl; who "" has no certificate.
func (tr *trust) flags(who string) []string {
	out := []string{"--cacert", tr.path("ca.pem")}
	if who != "" {
		out = append(out, "--cert", tr.path(who+".pem"), "--key", tr.path(who+".key"))
	}
	return out
}

// config is what a client of clientv3 connects with.
func (tr *trust) config(p *certs.Pair) *tls.Config {
	cfg := &tls.Config{RootCAs: tr.ca.Pool(), MinVersion: tls.VersionTLS12}
	if p != nil {
		cfg.Certificates = []tls.Certificate{p.TLSPair}
	}
	return cfg
}

// ctlAt runs etcdctl against endpoints of its own.
func ctlAt(t *testing.T, endpoints []string, args ...string) (string, error) {
	t.Helper()
	e := harness.Etcdctl{Binary: env.etcdctl, Endpoints: endpoints}
	return e.Run(testContext(t, limit(30*time.Second)), "", args...)
}

// refusedAt runs etcdctl, which is not to wait for long until it gives up.
func refusedAt(t *testing.T, endpoint string, args ...string) {
	t.Helper()
	ctx := testContext(t, limit(30*time.Second))
	all := append([]string{"--endpoints", endpoint, "--command-timeout=2s", "--dial-timeout=2s"}, args...)
	if out, err := exec.CommandContext(ctx, env.etcdctl, all...).CombinedOutput(); err == nil {
		t.Errorf("%v was let in: %s", args, out)
	}
}

// curl fetches a page.
func curl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl")
	}
	out, err := exec.CommandContext(testContext(t, limit(20*time.Second)), bin, append([]string{"-sS", "--max-time", "10"}, args...)...).CombinedOutput()
	return string(out), err
}

// waitLog waits for a line in a node's log.
func waitLog(t *testing.T, n *harness.Node, parts ...string) {
	t.Helper()
	eventually(t, limit(10*time.Second), fmt.Sprintf("a line with %q in the log of %s", parts, n.Name), func() error {
	line:
		for _, l := range lines(n.Log()) {
			for _, p := range parts {
				if !strings.Contains(l, p) {
					continue line
				}
			}
			return nil
		}
		return errors.New("none")
	})
}

func start(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.Start(testContext(t, startTimeout)); err != nil {
		t.Fatal(err)
	}
}

// TestClientTLS: who has a genuine certificate is served, by gRPC and by HTTP, and nobody else; what was revoked since is out.
func TestClientTLS(t *testing.T) {
	beside(t)
	tr := newTrust(t)
	c := describeCluster(t, harness.Options{Nodes: 1, ClientScheme: "https", Args: []string{
		"--cert-file=" + tr.path("server.pem"), "--key-file=" + tr.path("server.key"), "--client-cert-auth", "--trusted-ca-file=" + tr.path("ca.pem"),
		"--client-crl-file=" + tr.path("crl.der"), "--tls-min-version=TLS1.3",
	}})
	tr.node("server", c)
	me, other := tr.issue("me", certs.Options{CN: "me"}), newTrust(t)
	other.issue("they", certs.Options{CN: "they"})
	crl, err := tr.ca.Revoked()
	if err != nil {
		t.Fatal(err)
	}
	tr.replace("crl.der", crl)
	start(t, c)
	n := c.Nodes[0]
	for _, args := range [][]string{{"put", "k", "v"}, {"get", "k"}, {"endpoint", "health"}, {"lock", "l", "true"}} {
		if out, err := ctlAt(t, c.Endpoints(), append(tr.flags("me"), args...)...); err != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	for _, page := range []string{"/health", "/version", "/metrics"} {
		out, err := "", error(nil)
		for _, version := range []string{"--http1.1", "--http2"} {
			out, err = curl(t, append(tr.flags("me"), version, "--fail", n.ClientURL+page)...)
			if err != nil || page == "/health" && !strings.Contains(out, `"health":"true"`) {
				t.Errorf("%s %s: %v, %s", version, page, err, out)
			}
		}
		if page == "/metrics" && env.kind == harness.Pontoon && !strings.Contains(out, `pontoon_tls_certificate_expiry_seconds{port="client"}`) {
			t.Error("no metric tells when the certificate ends")
		}
		if page == "/metrics" && env.kind == harness.Pontoon && !strings.Contains(out, `pontoon_tls_handshakes_total{end="done",port="client"}`) {
			t.Error("no metric counts handshakes")
		}
	}
	refusedAt(t, n.ClientURL, append(tr.flags(""), "get", "k")...)
	waitLog(t, n, `"level":"warn"`, `"msg":"rejected connection on client endpoint"`, "tls: client didn't provide a certificate")
	refusedAt(t, n.ClientURL, "--cacert="+tr.path("ca.pem"), "--cert="+other.path("they.pem"), "--key="+other.path("they.key"), "get", "k")
	refusedAt(t, strings.Replace(n.ClientURL, "https", "http", 1), "get", "k")
	waitLog(t, n, `"msg":"rejected connection on client endpoint"`, "tls: first record does not look like a TLS handshake")
	if _, err := tls.Dial("tcp", strings.TrimPrefix(n.ClientURL, "https://"), &tls.Config{RootCAs: tr.ca.Pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
	waitLog(t, n, `"msg":"serving client traffic securely"`, `"traffic":"grpc+http"`)
	waitLog(t, n, `"msg":"starting with client TLS"`)

	if crl, err = tr.ca.Revoked(me); err != nil {
		t.Fatal(err)
	}
	tr.replace("crl.der", crl)
	refusedAt(t, n.ClientURL, append(tr.flags("me"), "get", "k")...)
	waitLog(t, n, `"msg":"rejected connection on client endpoint"`, "revoked")
}

// TestClientTLSByItself: the node makes its certificate, and serves an address with TLS and without.
func TestClientTLSByItself(t *testing.T) {
	beside(t)
	c := describeCluster(t, harness.Options{Nodes: 1, Args: []string{"--auto-tls"}})
	n := c.Nodes[0]
	secure := strings.Replace(n.ClientURL, "http", "https", 1)
	n.Args = append(n.Args, "--listen-client-urls", n.ClientURL+","+secure)
	start(t, c)
	for _, args := range [][]string{{"--endpoints=" + n.ClientURL, "put", "k", "v"}, {"--endpoints=" + secure, "--insecure-skip-tls-verify", "--insecure-transport=false", "get", "k"}} {
		if out, err := ctlAt(t, nil, args...); err != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	for _, args := range [][]string{{n.ClientURL + "/health"}, {"-k", "--http1.1", secure + "/health"}, {"-k", secure + "/health"}} {
		if out, err := curl(t, args...); err != nil || !strings.Contains(out, `"health":"true"`) {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(n.DataDir, "fixtures", "client", "cert.pem")); err != nil {
		t.Error(err)
	}
	waitLog(t, n, "serving client traffic securely")
	waitLog(t, n, "serving client traffic insecurely")
	waitLog(t, n, `"level":"warn"`, "scheme is http or unix while key and cert files are present; ignoring key and cert files")
	if env.kind == harness.Pontoon {
		startAndCheckAgain(t, c)
	}
}

// startAndCheckAgain starts the nodes once more on what they have.
func startAndCheckAgain(t *testing.T, c *harness.Cluster) {
	t.Helper()
	if err := c.StopAll(limit(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	start(t, c)
}

// TestClientSockets: clients are served by sockets of the machine, with TLS and without, and by several at once.
func TestClientSockets(t *testing.T) {
	beside(t)
	c := describeCluster(t, harness.Options{Nodes: 1, Args: []string{"--auto-tls"}})
	n := c.Nodes[0]
	dir := t.TempDir()
	plain, secure := "unix://"+dir+"/plain.sock", "unixs://"+dir+"/secure.sock"
	n.Args = append(n.Args, "--listen-client-urls", n.ClientURL+","+plain+","+secure, "--advertise-client-urls", plain)
	start(t, c)
	for _, args := range [][]string{
		{"--endpoints=" + plain, "put", "k", "v"}, {"--endpoints=" + n.ClientURL, "get", "k"},
		{"--endpoints=" + secure, "--insecure-skip-tls-verify", "--insecure-transport=false", "get", "k"},
	} {
		if out, err := ctlAt(t, nil, args...); err != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	for _, args := range [][]string{{"--unix-socket", dir + "/plain.sock", "http://x/health"}, {"-k", "--unix-socket", dir + "/secure.sock", "https://x/health"}} {
		if out, err := curl(t, args...); err != nil || !strings.Contains(out, `"health":"true"`) {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if _, _, err := n.Stop(testContext(t, limit(20*time.Second))); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) > 0 {
		t.Errorf("sockets are left: %v, %v", left, err)
	}
}

// traffic writes with clients that live on, and with others that connect anew each time.
type traffic struct {
	wg     sync.WaitGroup
	stop   context.CancelFunc
	count  atomic.Int64
	mu     sync.Mutex
	failed []error
}

func newTraffic(t *testing.T, writers int, open func() (*clientv3.Client, error)) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{stop: cancel}
	t.Cleanup(func() { _ = tr.end() })
	for i := range writers {
		tr.wg.Add(1)
		go func() {
			defer tr.wg.Done()
			var cl *clientv3.Client
			for n := 0; ctx.Err() == nil; n++ {
				if err := tr.one(&cl, open, fmt.Sprintf("k/%d/%d", i, n%50), i%2 == 1); err != nil {
					tr.mu.Lock()
					tr.failed = append(tr.failed, err)
					tr.mu.Unlock()
				} else {
					tr.count.Add(1)
				}
			}
			if cl != nil {
				_ = cl.Close()
			}
		}()
	}
	return tr
}

// one writes once. anew: by a connection that is made for it.
func (tr *traffic) one(cl **clientv3.Client, open func() (*clientv3.Client, error), key string, anew bool) (err error) {
	if *cl == nil {
		if *cl, err = open(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit(15*time.Second))
	defer cancel()
	_, err = (*cl).Put(ctx, key, "v")
	if anew {
		_ = (*cl).Close()
		*cl = nil
	}
	return err
}

// end stops the traffic and returns what has failed.
func (tr *traffic) end() error {
	tr.stop()
	tr.wg.Wait()
	return errors.Join(tr.failed...)
}

// grow waits until more has been written.
func (tr *traffic) grow(t *testing.T, by int64) {
	t.Helper()
	want := tr.count.Load() + by
	eventually(t, limit(30*time.Second), "writes go on", func() error {
		if n := tr.count.Load(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// TestClientCertificateIsRenewed: a node is given another certificate under load. No request fails, no watch breaks, and who connects from then on
// sees the new one.
func TestClientCertificateIsRenewed(t *testing.T) {
	beside(t)
	tr := newTrust(t)
	c := describeCluster(t, harness.Options{Nodes: 1, ClientScheme: "https", Args: []string{
		"--cert-file=" + tr.path("server.pem"), "--key-file=" + tr.path("server.key"), "--trusted-ca-file=" + tr.path("ca.pem"),
	}})
	pair, me := tr.node("server", c), tr.issue("me", certs.Options{CN: "me"})
	start(t, c)
	open := func() (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: limit(10 * time.Second), TLS: tr.config(me), Logger: zap.NewNop()})
	}
	load := newTraffic(t, 6, open)
	watcher, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Close() }()
	events := watcher.Watch(testContext(t, limit(2*time.Minute)), "k/", clientv3.WithPrefix(), clientv3.WithRev(1))
	shown := func() *tls.Conn {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.Nodes[0].ClientURL, "https://"), tr.config(me))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for range 4 {
		load.grow(t, 100)
		conn := shown()
		if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(pair.Leaf) {
			t.Errorf("shown is %v, and the certificate is %v", got.SerialNumber, pair.Leaf.SerialNumber)
		}
		_ = conn.Close()
		pair = tr.node("server", c)
	}
	if err := load.end(); err != nil {
		t.Error(err)
	}
	written := load.count.Load()
	for seen := int64(0); seen < written; {
		resp, ok := <-events
		if !ok || resp.Err() != nil {
			t.Fatalf("the watch has ended after %d of %d: %v", seen, written, resp.Err())
		}
		seen += int64(len(resp.Events))
	}
	t.Logf("%d writes", written)
}
