package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"pontoon/test/certs"
)

// shaken makes the handshake of each connection before it is handed out, as the layer below a Port does.
type shaken struct {
	net.Listener
	cfg *tls.Config
}

func (l shaken) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tc := tls.Server(c, l.cfg)
	_ = tc.Handshake() // whoever reads hears of it
	return tc, nil
}

// securePort serves gRPC's health service, and a page which says over what it was fetched.
func securePort(t *testing.T, look time.Duration) (addr string, trusted *tls.Config) {
	t.Helper()
	ca, err := certs.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(certs.Options{CN: "port", IPs: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := NewPort(shaken{l, &tls.Config{Certificates: []tls.Certificate{pair.TLSPair}, NextProtos: []string{"h2", "http/1.1"}}})
	p.lookFor = look
	gs := grpc.NewServer()
	healthpb.RegisterHealthServer(gs, health.NewServer())
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %v %s", r.Proto, r.TLS != nil, b)
	})}
	h2 := NewHTTP2(hs, 100)
	var wg sync.WaitGroup
	for _, run := range []func() error{
		p.Run, func() error { return gs.Serve(p.GRPC()) }, func() error { return hs.Serve(p.HTTP()) }, func() error { return h2.Serve(p.HTTP2()) },
	} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = run() // it ends with the test
		}()
	}
	t.Cleanup(func() {
		_ = p.Close()
		gs.Stop()
		_ = hs.Close()
		h2.Close()
		wg.Wait()
	})
	return l.Addr().String(), &tls.Config{RootCAs: ca.Pool()}
}

func TestThreeProtocolsBehindTLS(t *testing.T) {
	addr, trusted := securePort(t, lookFor)
	for want, protos := range map[string]*http.Protocols{"HTTP/1.1": protocols(true, false), "HTTP/2.0": protocols(false, true)} {
		tr := &http.Transport{TLSClientConfig: trusted.Clone(), Protocols: protos}
		hc := &http.Client{Transport: tr}
		for range 3 { // the same connection
			resp, err := hc.Post("https://"+addr, "application/json", strings.NewReader(strings.Repeat("x", 100_000)))
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || !strings.HasPrefix(string(b), want+" true x") || len(b) < 100_000 {
				t.Errorf("%s: %.40q, %v", want, b, err)
			}
		}
		tr.CloseIdleConnections()
	}
	checkGRPC(t, client(t, addr, trusted))
}

func protocols(one, two bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(one)
	p.SetHTTP2(two)
	return p
}

func client(t *testing.T, addr string, trusted *tls.Config) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(trusted)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func checkGRPC(t *testing.T, cc *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 {
		if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
}

// TestGRPCInReserve: a connection of gRPC that asks nothing for longer than it is looked at is kept, and serves.
func TestGRPCInReserve(t *testing.T) {
	addr, trusted := securePort(t, 50*time.Millisecond)
	cc := client(t, addr, trusted)
	var connections int
	cc.Connect()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for s := cc.GetState(); s != connectivity.Ready; s = cc.GetState() {
		if !cc.WaitForStateChange(ctx, s) {
			t.Fatal("it does not connect")
		}
	}
	for still, stop := context.WithTimeout(ctx, 300*time.Millisecond); ; {
		changed := cc.WaitForStateChange(still, connectivity.Ready)
		stop()
		if changed {
			connections++
		}
		break
	}
	if connections > 0 {
		t.Error("the connection was given up")
	}
	checkGRPC(t, cc)
}

// TestNoHTTP2: what has agreed on HTTP/2 and speaks something else is closed.
func TestNoHTTP2(t *testing.T) {
	addr, trusted := securePort(t, lookFor)
	cfg := trusted.Clone()
	cfg.NextProtos = []string{"h2"}
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", http2.ClientPreface + strings.Repeat("\xff", 100), http2.ClientPreface[:10]} {
		c, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		b, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("%.10q: %v", text, err)
		}
		if bytes.Contains(b, []byte("HTTP/1.1 200")) {
			t.Errorf("%.10q: %q", text, b)
		}
		_ = c.Close()
	}
}

// TestAckFilter: of all frames the first acknowledgement is missing, however they are cut.
func TestAckFilter(t *testing.T) {
	var all, want bytes.Buffer
	write := func(to io.Writer, ack bool) {
		fr := http2.NewFramer(to, nil)
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}) // a buffer takes everything
		_ = fr.WriteData(1, false, bytes.Repeat([]byte("d"), 300))
		if ack {
			_ = fr.WriteSettingsAck()
		}
		_ = fr.WriteSettingsAck()
		_ = fr.WriteData(1, true, []byte("end"))
	}
	write(&all, true)
	write(&want, false)
	for name, cut := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "data with error": iotest.DataErrReader,
	} {
		c := &ackConn{Conn: readConn{Reader: cut(bytes.NewReader(all.Bytes()))}}
		c.acks = &ackFilter{from: c.Conn}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: %v\n got %q\nwant %q", name, err, got, want.Bytes())
		}
		if c.acks != nil {
			t.Errorf("%s: the filter is still there", name)
		}
	}
}

// readConn is a connection that can be read.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// FuzzLook: nothing that a client sends does harm, and what was read is given back, but for an acknowledgement.
func FuzzLook(f *testing.F) {
	var b bytes.Buffer
	b.WriteString(http2.ClientPreface)
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteSettingsAck()
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82, 0x86, 0x84}, EndHeaders: true})
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:len(b.Bytes())-4])
	f.Fuzz(func(t *testing.T, text []byte) {
		see, err := lookAtHTTP2(scripted{bytes.NewReader(text)})
		if err != nil {
			return
		}
		left := len(see.head)
		if see.acked {
			left += frameHeadBytes
		}
		if left > len(text) || !see.acked && !bytes.HasPrefix(text, see.head) {
			t.Errorf("%d of %d bytes are given back: %q of %q", left, len(text), see.head, text)
		}
	})
}

// scripted says what it was told to, and takes everything.
type scripted struct{ r io.Reader }

func (s scripted) Read(p []byte) (int, error)     { return s.r.Read(p) }
func (scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (scripted) Close() error                     { return nil }
func (scripted) LocalAddr() net.Addr              { return nil }
func (scripted) RemoteAddr() net.Addr             { return nil }
func (scripted) SetDeadline(time.Time) error      { return nil }
func (scripted) SetReadDeadline(time.Time) error  { return nil }
func (scripted) SetWriteDeadline(time.Time) error { return nil }
