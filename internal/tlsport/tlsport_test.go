package tlsport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/goleak"

	"pontoon/test/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// must ends a test for what cannot fail.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world is an authority, and files of an endpoint.
type world struct {
	dir  string
	ca   *certs.Authority
	pair *certs.Pair // the endpoint's
	info transport.TLSInfo
	log  *logText
}

func newWorld(t testing.TB) *world {
	w := &world{dir: t.TempDir(), ca: must[*certs.Authority](t)(certs.NewAuthority("ca")), log: &logText{}}
	w.renew(t)
	w.write(t, "ca.pem", w.ca.PEM)
	w.info = transport.TLSInfo{CertFile: w.path("own.pem"), KeyFile: w.path("own.key")}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := certs.Replace(w.path(name), text); err != nil {
		t.Fatal(err)
	}
}

// renew gives the endpoint another certificate.
func (w *world) renew(t testing.TB) {
	t.Helper()
	w.pair = w.issue(t, certs.Options{CN: "own", IPs: []string{"127.0.0.1"}})
	if _, _, err := w.pair.Write(w.dir, "own"); err != nil {
		t.Fatal(err)
	}
}

func (w *world) issue(t testing.TB, o certs.Options) *certs.Pair {
	t.Helper()
	return must[*certs.Pair](t)(w.ca.Issue(o))
}

func (w *world) open(t testing.TB, name string) *Endpoint {
	t.Helper()
	return must[*Endpoint](t)(Open(Config{Name: name, Info: w.info, Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}))
}

// logText is a log that can be read while it is written.
type logText struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// serve echoes on a listener of the endpoint, and returns its address.
func serve(t *testing.T, e *Endpoint, mixed bool) string {
	t.Helper()
	l := e.Listen(must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), mixed)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// say connects, sends a line, and returns the certificate that the other side has shown when the line is back.
func say(addr string, cfg *tls.Config) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := echo(c); err != nil {
		return nil, err
	}
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func echo(c net.Conn) error {
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != "hello" {
		return errors.New("another echo: " + string(got))
	}
	return nil
}

// as is how a client with a certificate connects.
func (w *world) as(p *certs.Pair) *tls.Config {
	cfg := &tls.Config{RootCAs: w.ca.Pool(), MinVersion: tls.VersionTLS12}
	if p != nil {
		// Certificates would be left out where the other side does not want their authority's.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.TLSPair, nil }
	}
	return cfg
}

func TestNoCertificateNoTLS(t *testing.T) {
	if e, err := Open(Config{Name: Client}); e != nil || err != nil {
		t.Errorf("%v, %v", e, err)
	}
}

func TestFilesAreReadAtEveryHandshake(t *testing.T) {
	w := newWorld(t)
	addr := serve(t, w.open(t, Client), false)
	c := must[*tls.Conn](t)(tls.Dial("tcp", addr, w.as(nil)))
	defer func() { _ = c.Close() }()
	for range 3 {
		shown, err := say(addr, w.as(nil))
		if err != nil || !shown.Equal(w.pair.Leaf) {
			t.Fatalf("%v, another certificate: %v", err, shown)
		}
		w.renew(t)
	}
	w.write(t, "own.pem", []byte("half of a cert"))
	if _, err := say(addr, w.as(nil)); err == nil {
		t.Error("a handshake with a broken file")
	}
	if !strings.Contains(w.log.String(), "failed to create peer certificate") {
		t.Errorf("nothing is said of it:\n%s", w.log)
	}
	if err := echo(c); err != nil {
		t.Errorf("an old connection has ended: %v", err)
	}
	w.renew(t)
	if _, err := say(addr, w.as(nil)); err != nil {
		t.Errorf("not mended: %v", err)
	}
}

func TestWhoIsLetIn(t *testing.T) {
	w := newWorld(t)
	w.info.TrustedCAFile = w.path("ca.pem") // that alone asks for a certificate
	other := must[*certs.Authority](t)(certs.NewAuthority("other"))
	mine, named := w.issue(t, certs.Options{CN: "me"}), w.issue(t, certs.Options{CN: "named", Names: []string{"good.example"}})
	revoked := w.issue(t, certs.Options{CN: "gone", Names: []string{"good.example"}})
	theirs := must[*certs.Pair](t)(other.Issue(certs.Options{CN: "me"}))
	old := w.issue(t, certs.Options{CN: "old", Life: -time.Second})
	for _, tt := range []struct {
		name   string
		change func(*transport.TLSInfo)
		who    *certs.Pair
		why    string // in the log; "": let in
	}{
		{"genuine", nil, mine, ""},
		{"none", nil, nil, "client didn't provide a certificate"},
		{"another authority's", nil, theirs, "certificate signed by unknown authority"},
		{"expired", nil, old, "certificate has expired"},
		{"without the name", func(i *transport.TLSInfo) { i.AllowedHostnames = []string{"good.example"} }, mine, "client certificate authentication failed"},
		{"with the name", func(i *transport.TLSInfo) { i.AllowedHostnames = []string{"other.example", "good.example"} }, named, ""},
		{"with the CN", func(i *transport.TLSInfo) { i.AllowedCNs = []string{"x", "me"} }, mine, ""},
		{"without the CN", func(i *transport.TLSInfo) { i.AllowedCNs = []string{"x"} }, mine, "client certificate authentication failed"},
		{"revoked", func(i *transport.TLSInfo) { i.CRLFile = w.path("crl.der") }, revoked, "revoked"},
		{"not revoked", func(i *transport.TLSInfo) { i.CRLFile = w.path("crl.der") }, mine, ""},
		{"no list", func(i *transport.TLSInfo) { i.CRLFile = w.path("nope.der") }, mine, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := *w
			w.log = &logText{}
			w.write(t, "crl.der", must[[]byte](t)(w.ca.Revoked(revoked)))
			if tt.change != nil {
				tt.change(&w.info)
			}
			_, err := say(serve(t, w.open(t, Client), false), w.as(tt.who))
			if (err == nil) != (tt.why == "") {
				t.Errorf("error %v", err)
			}
			line := "rejected connection on client endpoint"
			if tt.why != "" {
				for end := time.Now().Add(patience); !strings.Contains(w.log.String(), line) && time.Now().Before(end); {
					runtime.Gosched() // it may be written a moment later
				}
				if !strings.Contains(w.log.String(), tt.why) {
					t.Errorf("the log does not say why:\n%s", w.log)
				}
			} else if strings.Contains(w.log.String(), line) {
				t.Errorf("log:\n%s", w.log)
			}
		})
	}
}

// TestTrustChanges: the authorities and the list of what was revoked count from the next handshake on, also of a client that would resume a session.
func TestTrustChanges(t *testing.T) {
	w := newWorld(t)
	w.info.TrustedCAFile, w.info.CRLFile = w.path("ca.pem"), w.path("crl.der")
	next := must[*certs.Authority](t)(certs.NewAuthority("next"))
	mine, theirs := w.issue(t, certs.Options{CN: "me"}), must[*certs.Pair](t)(next.Issue(certs.Options{CN: "me"}))
	w.write(t, "crl.der", must[[]byte](t)(w.ca.Revoked()))
	e := w.open(t, Client)
	addr := serve(t, e, false)
	cfg := w.as(mine)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if _, err := say(addr, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := say(addr, w.as(theirs)); err == nil {
		t.Error("an authority that is not trusted yet")
	}
	w.write(t, "ca.pem", append(bytes.Clone(w.ca.PEM), next.PEM...))
	if _, err := say(addr, w.as(theirs)); err != nil {
		t.Errorf("an authority that is trusted now: %v", err)
	}
	if _, err := e.clientConfig(); err != nil {
		t.Error(err)
	}
	w.write(t, "ca.pem", []byte("nothing"))
	if _, err := say(addr, cfg); err == nil {
		t.Error("nobody is trusted, and everybody let in")
	}
	if _, err := e.clientConfig(); err == nil {
		t.Error("others would be taken for genuine by the system's authorities")
	}
	w.write(t, "ca.pem", w.ca.PEM)
	w.write(t, "crl.der", must[[]byte](t)(w.ca.Revoked(mine)))
	if _, err := say(addr, cfg); err == nil {
		t.Error("a certificate that was revoked since, by way of a session from before")
	}
}

func TestVersions(t *testing.T) {
	w := newWorld(t)
	w.info.MinVersion = tls.VersionTLS13
	addr := serve(t, w.open(t, Client), false)
	cfg := w.as(nil)
	cfg.MaxVersion = tls.VersionTLS12
	if _, err := say(addr, cfg); err == nil {
		t.Error("TLS 1.2")
	}
	if _, err := say(addr, w.as(nil)); err != nil {
		t.Error(err)
	}
}

func TestMixed(t *testing.T) {
	w := newWorld(t)
	addr := serve(t, w.open(t, Client), true)
	if _, err := say(addr, w.as(nil)); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	c := must[net.Conn](t)(net.Dial("tcp", addr))
	defer func() { _ = c.Close() }()
	if err := echo(c); err != nil {
		t.Errorf("without: %v", err)
	}
}

func TestAuto(t *testing.T) {
	w := newWorld(t)
	cfg := Config{Name: Client, Auto: true, Years: 1, Hosts: []string{"127.0.0.1:2379", "node.example:2379"}, Fixtures: w.path("fixtures")}
	e := must[*Endpoint](t)(Open(cfg))
	shown, err := say(serve(t, e, false), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if shown.VerifyHostname("127.0.0.1") != nil || shown.VerifyHostname("node.example") != nil || shown.Subject.Organization[0] != "etcd" {
		t.Errorf("%+v", shown.Subject)
	}
	again := must[*x509.Certificate](t)(must[*Endpoint](t)(Open(cfg)).leaf())
	if !again.Equal(shown) {
		t.Error("it was not kept")
	}
	if fi, err := os.Stat(w.path("fixtures/key.pem")); err != nil || fi.Mode().Perm()&0o077 != 0 {
		t.Errorf("the key can be read by others: %v, %v", fi, err)
	}
	cfg.Fixtures, cfg.Years = w.path("others"), 0
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "selfSignedCertValidity is invalid,it should be greater than 0") {
		t.Errorf("for no time: %v", err)
	}
	cfg.Years, cfg.Info.TrustedCAFile = 1, w.path("ca.pem")
	if _, err := say(serve(t, must[*Endpoint](t)(Open(cfg)), false), &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("clients need a certificate, and one came in without")
	}
}

func TestErrorsAtTheStart(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		info transport.TLSInfo
		want string
	}{
		{transport.TLSInfo{CertFile: w.path("own.pem")}, "KeyFile and CertFile must both be present"},
		{transport.TLSInfo{CertFile: w.path("nope.pem"), KeyFile: w.path("own.key")}, "no such file"},
		{transport.TLSInfo{CertFile: w.path("own.pem"), KeyFile: w.path("own.key"), TrustedCAFile: w.path("nope.pem")}, "no such file"},
		{transport.TLSInfo{CertFile: w.path("own.pem"), KeyFile: w.path("own.key"), AllowedCNs: []string{"a"}, AllowedHostnames: []string{"b"}}, "mutually exclusive"},
	} {
		if _, err := Open(Config{Name: Client, Info: tt.info}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.info, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	client := w.open(t, Client)
	addr := serve(t, client, false)
	if _, err := say(addr, w.as(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := say(addr, &tls.Config{}); err == nil {
		t.Fatal("an authority that nobody knows")
	}
	eventually(t, "both are counted", func() bool { return client.counts.done.Load()+client.counts.failed.Load() == 2 })
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(client, w.open(t, Peer))
	got := map[string]float64{}
	for _, f := range must[[]*dto.MetricFamily](t)(reg.Gather()) {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for _, port := range []string{Client, Peer} {
		expiry := "pontoon_tls_certificate_expiry_seconds " + port
		if left := got[expiry]; left < 86000 || left > 86400 {
			t.Errorf("%s: %v", expiry, left)
		}
		delete(got, expiry)
	}
	want := map[string]float64{
		"pontoon_tls_handshakes_waiting client": 0, "pontoon_tls_handshakes_waiting peer": 0,
		"pontoon_tls_handshakes_total done client": 1, "pontoon_tls_handshakes_total failed client": 1, "pontoon_tls_handshakes_total left client": 0,
		"pontoon_tls_handshakes_total done peer": 0, "pontoon_tls_handshakes_total failed peer": 0, "pontoon_tls_handshakes_total left peer": 0,
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, and not %v", got, want)
	}
}

// TestDialByName: the other side is held to the name that the endpoint is told, whatever host is dialled; without one, to the host.
func TestDialByName(t *testing.T) {
	w := newWorld(t)
	pair := w.issue(t, certs.Options{CN: "own", Names: []string{"example.org"}})
	if _, _, err := pair.Write(w.dir, "own"); err != nil {
		t.Fatal(err)
	}
	w.write(t, "ca.pem", w.ca.PEM)
	addr := serve(t, w.open(t, Client), false)
	for name, ok := range map[string]bool{"example.org": true, "other.org": false, "": false} {
		info := w.info
		info.TrustedCAFile, info.ServerName = w.path("ca.pem"), name
		e := must[*Endpoint](t)(Open(Config{Name: Peer, Info: info}))
		c := must[net.Conn](t)(net.Dial("tcp", addr))
		tc, _, err := e.Dial().ClientHandshake(t.Context(), addr, c)
		if (err == nil) != ok {
			t.Errorf("held to %q: %v", name, err)
		}
		if err == nil {
			_ = tc.Close()
		}
		_ = c.Close()
	}
}
