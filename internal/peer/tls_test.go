package peer_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/internal/tlsport"
	"pontoon/shard"
	"pontoon/test/certs"
)

// endpoint is a peer port whose certificate an authority has issued for 127.0.0.1, and which trusts that one alone.
func endpoint(t *testing.T, ca *certs.Authority) *tlsport.Endpoint {
	t.Helper()
	dir := t.TempDir()
	pair, err := ca.Issue(certs.Options{CN: "node", IPs: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := pair.Write(dir, "node")
	if err == nil {
		err = certs.Replace(dir+"/ca.pem", ca.PEM)
	}
	if err != nil {
		t.Fatal(err)
	}
	e, err := tlsport.Open(tlsport.Config{Name: tlsport.Peer, Info: transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: dir + "/ca.pem", ClientCertAuth: true}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func authority(t *testing.T) *certs.Authority {
	t.Helper()
	ca, err := certs.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serveSecurely runs the peer port of node 2 and returns its address.
func serveSecurely(t *testing.T, e *tlsport.Endpoint, p *parts) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer(append(peer.ServerOptions(), grpc.Creds(tlsport.Accepted()))...)
	peer.NewServer(peer.Identity{ClusterID: peertest.ClusterID, Node: 2}, nil, p, p, p).Register(gs)
	done := make(chan error, 1)
	go func() { done <- gs.Serve(e.Listen(l, false)) }()
	t.Cleanup(func() {
		gs.Stop()
		<-done
	})
	addr, ok := peer.URLAddr("https://" + l.Addr().String())
	if !ok {
		t.Fatal("no address")
	}
	return addr
}

func TestPeersWithTLS(t *testing.T) {
	ca := authority(t)
	var p parts
	addr := serveSecurely(t, endpoint(t, ca), &p)
	resolve := func(shard.NodeID) (string, bool) { return addr, true }
	genuine := dialer(t, peer.DialerConfig{Resolve: resolve, Credentials: peer.SecureBy(endpoint(t, ca).Dial())})
	for kind := range streams {
		if _, err := open(t, genuine, 2, kind); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for who, cfg := range map[string]peer.DialerConfig{
		"another authority's": {Credentials: peer.SecureBy(endpoint(t, authority(t)).Dial())},
		"no certificate":      {Credentials: peer.SecureBy(nil)},
		"no TLS":              {},
	} {
		seen := len(p.visitors())
		cfg.Resolve = resolve
		if _, err := open(t, dialer(t, cfg), 2, "Calls"); err == nil || len(p.visitors()) != seen {
			t.Errorf("%s came in", who)
		}
	}
	if d, err := peer.Discover(t.Context(), peer.SecureBy(endpoint(t, ca).Dial()), addr, false); status.Code(err) != codes.Unimplemented { // there is no door
		t.Errorf("%v, %v", d, err)
	}
}

// TestOneNodeAConnection: a certificate does not say which node presents it. A connection is that of the node which was stated first.
func TestOneNodeAConnection(t *testing.T) {
	ca := authority(t)
	var p parts
	addr := serveSecurely(t, endpoint(t, ca), &p)
	cc, err := grpc.NewClient(addr[len("https://"):], grpc.WithTransportCredentials(endpoint(t, ca).Dial()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	as := func(node string) error {
		md := metadata.Pairs("pontoon-cluster", "c1", "pontoon-node", node, "pontoon-to", "2", "pontoon-format", "1")
		s, err := pb.NewPeerClient(cc).Raft(metadata.NewOutgoingContext(ctx, md))
		if err != nil {
			return err
		}
		return peer.AwaitAccepted(s)
	}
	for _, tt := range []struct {
		node string
		ok   bool
	}{{"5", true}, {"5", true}, {"6", false}, {"5", true}} {
		if err := as(tt.node); (err == nil) != tt.ok || err != nil && !peer.Refused(err) {
			t.Errorf("node %s: %v", tt.node, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for url, want := range map[string]string{
		"http://n1.example:77":    "n1.example:77",
		"http://n1.example":       "n1.example:2380",
		"https://n1.example:77":   "https://n1.example:77",
		"https://[::1]":           "https://[::1]:2380",
		"unix://etcd.unix:1":      "unix://etcd.unix:1",
		"unixs:///var/run/a.sock": "unixs:///var/run/a.sock",
		"http://":                 "",
		"unix://":                 "",
		":":                       "",
	} {
		if got, ok := peer.URLAddr(url); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", url, got, ok)
		}
	}
}

// TestUnixPeers: a peer port may be a socket of the machine.
func TestUnixPeers(t *testing.T) {
	path := t.TempDir() + "/peer.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var p parts
	gs := grpc.NewServer(peer.ServerOptions()...)
	peer.NewServer(peer.Identity{ClusterID: peertest.ClusterID, Node: 2}, nil, &p, &p, &p).Register(gs)
	done := make(chan error, 1)
	go func() { done <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		<-done
	})
	d := dialer(t, peer.DialerConfig{Resolve: func(shard.NodeID) (string, bool) { return peer.URLAddr("unix://" + path) }, Credentials: peer.SecureBy(nil)})
	if _, err := open(t, d, 2, "Calls"); err != nil {
		t.Error(err)
	}
}
