package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
)

// site is the cluster with what it stands on: processes, and where faults need one a lab.
type site struct {
	cfg      *config
	dir      string
	args     []string  // that the nodes are started with, beside what they are
	lab      *lab.Lab  // nil: on loopback
	security *security // nil: there is none
	c        *harness.Cluster
}

// describe prepares hosts and nodes; nothing runs yet.
func (s *site) describe(ctx context.Context, needs needs) error {
	opts := harness.Options{Kind: s.cfg.server, Binary: s.cfg.binary, Dir: s.dir, Nodes: s.cfg.nodes, SplitKeys: prefixes[1:]}
	if s.cfg.server == harness.Pontoon {
		s.args = []string{"--oracle-mode=" + s.cfg.oracle, fmt.Sprintf("--replication-factor=%d", s.cfg.replicas), "--corrupt-check-time=2s"}
		if needs.disk { // else a full disk raises NOSPACE, and nobody writes until that is cleared: see TestDiskFull. Here the others go on
			s.args = append(s.args, "--quota-backend-bytes=-1")
		}
		opts.Args = s.args
	}
	if needs.failpoints {
		opts.Env = []string{"PONTOON_FAILPOINTS=" + s.dir}
	}
	var err error
	if opts.Binary, err = s.build(ctx, needs.failpoints); err != nil {
		return err
	}
	if needs.lab {
		if s.lab, err = lab.New(s.cfg.nodes + 1 + s.cfg.gateways + 1); err != nil { // one is the clients', and one the guests'
			return err
		}
		for _, h := range s.lab.Hosts[:s.cfg.nodes] {
			opts.Places = append(opts.Places, harness.Place{IP: h.String(), Do: h.Do})
		}
	}
	if s.cfg.secure {
		addresses := []string{"127.0.0.1", harness.Loopback()}
		if s.lab != nil {
			for _, h := range s.lab.Hosts {
				addresses = append(addresses, h.String())
			}
		}
		if s.security, err = newSecurity(s.dir, addresses); err != nil {
			return err
		}
		s.args = append(s.args, s.security.args...)
		opts.Args, opts.ClientScheme, opts.PeerScheme = s.args, "https", "https"
	}
	if s.c, err = harness.New(opts); err != nil {
		return err
	}
	for i, n := range s.c.Nodes {
		if needs.disk {
			if err := s.lab.Hosts[i].Disk(n.DataDir, diskBytes); err != nil {
				return err
			}
		}
	}
	return gateways{s}.add()
}

// build makes the node's binary, unless one was named.
func (s *site) build(ctx context.Context, failpoints bool) (string, error) {
	if s.cfg.binary != "" {
		return filepath.Abs(s.cfg.binary)
	}
	if s.cfg.server == harness.Etcd {
		return filepath.Abs("build/bin/etcd")
	}
	out, args := filepath.Join(s.dir, "node"), []string{"build", "-o"}
	args = append(args, out)
	if failpoints {
		args = append(args, "-tags", "failpoints")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/node")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd.Args, err, b)
	}
	return out, nil
}

// connect makes a client; in a lab it is on the last host.
func (s *site) connect(nodes ...*harness.Node) (*clientv3.Client, error) {
	return clientv3.New(s.clientConfig(nodes...))
}

// clientConfig is that of a client whom a certificate makes root, where there are users.
func (s *site) clientConfig(nodes ...*harness.Node) clientv3.Config {
	cfg := clientv3.Config{
		DialTimeout: 5 * time.Second, DialKeepAliveTime: 6 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop(),
	}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, n.ClientURL)
	}
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithContextDialer(s.dial))
	if s.security != nil {
		cfg.TLS = s.security.root
	}
	return cfg
}

// dial reaches a node from where its clients are.
func (s *site) dial(ctx context.Context, address string) (net.Conn, error) {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "http://"), "https://")
	if s.lab == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	return s.lab.Hosts[s.cfg.nodes].Dial(ctx, address)
}

// ops changes the ranges by way of a node.
func (s *site) ops(n *harness.Node) harness.Ops {
	return harness.Ops{ClientURL: n.ClientURL, HTTP: s.http()}
}

// http asks from where clients are, as root where there are users, and keeps no connection.
func (s *site) http() *http.Client {
	way := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, address string) (net.Conn, error) { return s.dial(ctx, address) },
	}
	if s.security != nil {
		way.TLSClientConfig = s.security.root
	}
	return &http.Client{Transport: way}
}

// cut drops what some nodes send to the others, what they are sent, or both.
func (s *site) cut(vs []*harness.Node, sent, received bool) {
	for _, v := range vs {
		for _, other := range s.without(vs...) {
			s.lab.Set(s.index(v), s.index(other), lab.Link{Cut: sent})
			s.lab.Set(s.index(other), s.index(v), lab.Link{Cut: received})
		}
	}
}

// post tells a node's failpoints something.
func (s *site) post(ctx context.Context, n *harness.Node, order string) error {
	socket := filepath.Join(s.dir, fmt.Sprintf("%d.sock", n.PID()))
	cl := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/"+order, nil)
	if err != nil {
		return err
	}
	resp, err := cl.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return err
}

// without are the nodes that are not among some.
func (s *site) without(hurt ...*harness.Node) []*harness.Node {
	return slices.DeleteFunc(slices.Clone(s.c.Nodes), func(n *harness.Node) bool { return slices.Contains(hurt, n) })
}

// index is a node's number, which is also its host's.
func (s *site) index(n *harness.Node) int { return slices.Index(s.c.Nodes, n) }
