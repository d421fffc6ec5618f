package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/certs"
	"pontoon/test/e2e/harness"
)

// mutual makes a cluster in which everybody, clients and peers, must present a certificate; each node has its own.
func (tr *trust) mutual(nodes int) *harness.Cluster {
	tr.t.Helper()
	c := describeCluster(tr.t, harness.Options{Nodes: nodes, ClientScheme: "https", PeerScheme: "https", Args: []string{
		"--client-cert-auth", "--trusted-ca-file=" + tr.path("ca.pem"), "--peer-client-cert-auth", "--peer-trusted-ca-file=" + tr.path("ca.pem"),
	}})
	for _, n := range c.Nodes {
		tr.node(n.Name, c)
		cert, key := tr.path(n.Name+".pem"), tr.path(n.Name+".key")
		n.Args = append(n.Args, "--cert-file="+cert, "--key-file="+key, "--peer-cert-file="+cert, "--peer-key-file="+key)
	}
	return c
}

// wire passes on what goes to a node's peer port, and keeps a copy of the beginnings.
type wire struct {
	l    net.Listener
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	kept []*tape
	open []net.Conn
}

// tape is one direction of a connection.
type tape struct {
	mu   sync.Mutex
	text []byte
}

func (t *tape) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if left := 4<<20 - len(t.text); left > 0 {
		t.text = append(t.text, p[:min(left, len(p))]...)
	}
	return len(p), nil
}

func (t *tape) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.text)
}

// tap puts a wire in front of every peer port: peers are told its address, and the node listens at another.
func tap(t *testing.T, c *harness.Cluster) []*wire {
	t.Helper()
	var wires []*wire
	for _, n := range c.Nodes {
		u, err := url.Parse(n.PeerURL)
		if err != nil {
			t.Fatal(err)
		}
		port, err := harness.Port()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{l: l, to: net.JoinHostPort(u.Hostname(), fmt.Sprint(port))}
		n.Args = append(n.Args, "--listen-peer-urls", u.Scheme+"://"+w.to)
		w.wg.Add(1)
		go w.run()
		t.Cleanup(w.close)
		wires = append(wires, w)
	}
	return wires
}

func (w *wire) run() {
	defer w.wg.Done()
	for {
		in, err := w.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", w.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		there, back := &tape{}, &tape{}
		w.mu.Lock()
		w.kept, w.open = append(w.kept, there, back), append(w.open, in, out)
		w.mu.Unlock()
		for _, way := range []struct {
			from, to net.Conn
			tape     *tape
		}{{in, out, there}, {out, in, back}} {
			w.wg.Add(1)
			go func() {
				defer w.wg.Done()
				_, _ = io.Copy(way.to, io.TeeReader(way.from, way.tape))
				_ = way.to.Close()
			}()
		}
	}
}

func (w *wire) close() {
	_ = w.l.Close()
	w.mu.Lock()
	for _, c := range w.open {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// seen are the texts of some that were on the wires, and how many directions of connections there were.
func seen(wires []*wire, texts ...string) (found []string, tapes int) {
	for _, w := range wires {
		w.mu.Lock()
		kept := slices.Clone(w.kept)
		w.mu.Unlock()
		for _, t := range kept {
			b := t.bytes()
			if len(b) == 0 {
				continue
			}
			tapes++
			if b[0] != 0x16 && !slices.Contains(found, "no handshake") {
				found = append(found, "no handshake")
			}
			for _, text := range texts {
				if bytes.Contains(b, []byte(text)) && !slices.Contains(found, text) {
					found = append(found, text)
				}
			}
		}
	}
	return found, tapes
}

// TestNoPlainTextBetweenPeers: what goes between nodes with TLS, gossip too, cannot be read; the same without it can.
func TestNoPlainTextBetweenPeers(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			tr := newTrust(t)
			c := describeCluster(t, harness.Options{Nodes: 3})
			flags := []string(nil)
			if secure {
				c = tr.mutual(3)
				tr.issue("me", certs.Options{CN: "me"})
				flags = tr.flags("me")
			}
			wires := tap(t, c)
			start(t, c)
			if out, err := ctlAt(t, c.Endpoints(), append(flags, "put", "a-key-that-is-a-secret", "a-value-that-is-a-secret")...); err != nil {
				t.Fatalf("%v, %s", err, out)
			}
			texts := []string{"a-key-that-is-a-secret", "a-value-that-is-a-secret", "pontoon.Peer", "pontoon-cluster"}
			eventually(t, limit(20*time.Second), "every kind of traffic between the nodes", func() error {
				found, tapes := seen(wires, texts...)
				if tapes < 24 { // four classes of two ways, between three pairs
					return fmt.Errorf("%d directions", tapes)
				}
				if !secure && !slices.Contains(found, texts[0]) {
					return fmt.Errorf("seen in plain text: %q", found)
				}
				return nil
			})
			if found, _ := seen(wires, texts...); secure && len(found) > 0 {
				t.Errorf("in plain text: %q", found)
			}
		})
	}
}

// TestPeerTLS: a node that another authority vouches for stays out, and the others do not mind.
func TestPeerTLS(t *testing.T) {
	beside(t)
	tr := newTrust(t)
	c := tr.mutual(3)
	tr.issue("me", certs.Options{CN: "me"})
	stranger := c.Nodes[2]
	other := newTrust(t)
	other.node(stranger.Name, c)
	stranger.Args = append(stranger.Args, "--peer-cert-file="+other.path("n3.pem"), "--peer-key-file="+other.path("n3.key"), "--peer-trusted-ca-file="+other.path("ca.pem"))
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes[:2] {
		if err := n.WaitReady(testContext(t, startTimeout)); err != nil {
			t.Fatal(err)
		}
		waitLog(t, n, `"msg":"rejected connection on peer endpoint"`)
		waitLog(t, n, `"msg":"starting with peer TLS"`)
	}
	ends := []string{c.Nodes[0].ClientURL, c.Nodes[1].ClientURL}
	if out, err := ctlAt(t, ends, append(tr.flags("me"), "put", "k", "v")...); err != nil {
		t.Errorf("%v, %s", err, out)
	}
	if strings.Contains(stranger.Log(), "ready to serve client requests") {
		t.Error("the stranger serves")
	}
	if err := stranger.Kill(); err != nil {
		t.Fatal(err)
	}
	stranger.Args = stranger.Args[:len(stranger.Args)-3]
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	if err := stranger.WaitReady(testContext(t, startTimeout)); err != nil {
		t.Error(err)
	}
}

// TestPeerAutoTLS: nodes that make their certificates themselves find together, and again after a restart.
func TestPeerAutoTLS(t *testing.T) {
	beside(t)
	c := describeCluster(t, harness.Options{Nodes: 3, PeerScheme: "https", Args: []string{"--peer-auto-tls"}})
	start(t, c)
	if out, err := ctlAt(t, c.Endpoints(), "put", "k", "v"); err != nil {
		t.Errorf("%v, %s", err, out)
	}
	startAndCheckAgain(t, c)
	if out, err := ctlAt(t, c.Endpoints(), "get", "k"); err != nil || !strings.Contains(out, "v") {
		t.Errorf("%v, %s", err, out)
	}
}

// TestAllCertificatesAreRenewed: the certificates of all nodes are renewed one by one under load. No request fails, and nodes that
// start again find the others.
func TestAllCertificatesAreRenewed(t *testing.T) {
	tr := newTrust(t)
	c := tr.mutual(3)
	me := tr.issue("me", certs.Options{CN: "me"})
	start(t, c)
	open := func() (*clientv3.Client, error) {
		return clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: limit(10 * time.Second), TLS: tr.config(me), Logger: zap.NewNop()})
	}
	load := newTraffic(t, 6, open)
	for _, n := range c.Nodes {
		load.grow(t, 100)
		pair := tr.node(n.Name, c)
		for _, port := range []string{n.ClientURL, n.PeerURL} {
			conn, err := tls.Dial("tcp", strings.TrimPrefix(port, "https://"), tr.config(me))
			if err != nil {
				t.Fatal(err)
			}
			if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(pair.Leaf) {
				t.Errorf("%s shows another certificate", port)
			}
			_ = conn.Close()
		}
	}
	load.grow(t, 100)
	if err := load.end(); err != nil {
		t.Error(err)
	}
	t.Logf("%d writes", load.count.Load())
	for _, n := range c.Nodes { // each in turn, so that all have been called by new certificates
		if _, _, err := n.Stop(testContext(t, limit(30*time.Second))); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitReady(testContext(t, startTimeout)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := ctlAt(t, c.Endpoints(), append(tr.flags("me"), "put", "k", "v")...); err != nil {
		t.Errorf("%v, %s", err, out)
	}
}

// TestRoutingClientWithTLS: bin/client goes to the leaders by their advertised URLs with the TLS that it was given, as it does without, and never around it.
func TestRoutingClientWithTLS(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	tr := newTrust(t)
	c := tr.mutual(3)
	tr.issue("me", certs.Options{CN: "me"})
	bin := clientBinary(t)
	start(t, c)
	run := func(flags []string, args ...string) (string, error) {
		all := slices.Concat([]string{"--endpoints", strings.Join(c.Endpoints(), ","), "--dial-timeout=10s", "--command-timeout=20s"}, flags, args)
		out, err := exec.CommandContext(testContext(t, limit(40*time.Second)), bin, all...).CombinedOutput()
		return string(out), err
	}
	for i, key := range sampleKeys() {
		if out, err := run(tr.flags("me"), "--direct=always", "put", "--", key, fmt.Sprint("v", i)); err != nil {
			t.Errorf("put %q: %v, %s", key, err, out)
		}
		if out, err := run(tr.flags("me"), "--direct=always", "get", "--", key); err != nil || !strings.Contains(out, fmt.Sprint("v", i)) {
			t.Errorf("get %q: %v, %s", key, err, out)
		}
	}
	for _, args := range [][]string{{"status"}, {"members"}, {"ranges"}, {"nodes", "show", "n1"}, {"plan"}} {
		if out, err := run(tr.flags("me"), args...); err != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if out, err := run([]string{"--insecure-skip-tls-verify", "--insecure-transport=false", "--command-timeout=2s", "--dial-timeout=2s"}, "get", "k"); err == nil {
		t.Errorf("without a certificate: %s", out)
	}
	if out, err := run([]string{"--cert", tr.path("me.pem"), "--key", tr.path("me.key"), "--command-timeout=2s", "--dial-timeout=2s"}, "get", "k"); err == nil {
		t.Errorf("an authority that the client does not know: %s", out)
	}
}
