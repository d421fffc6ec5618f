package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"pontoon/test/e2e/harness"
)

// stormKey is what all agents watch: its values count from 0. besideKey is watched by the one beside them alone.
const stormKey, besideKey = "storm", "beside"

// agents are clients with TLS that each watch on a connection of their own, and come back when it breaks.
type agents struct {
	addr  string
	creds credentials.TransportCredentials
	wg    sync.WaitGroup

	stand  atomic.Int64 // watches that were created, each time
	events atomic.Int64
	wrong  atomic.Pointer[string] // an event that was lost or came twice

	mu    sync.Mutex
	conns []net.Conn
}

func (a *agents) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err == nil {
		a.mu.Lock()
		a.conns = append(a.conns, c)
		a.mu.Unlock()
	}
	return c, err
}

// cut breaks all connections.
func (a *agents) cut() {
	a.mu.Lock()
	conns := a.conns
	a.conns = nil
	a.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// start begins n agents that watch from a revision on.
func (a *agents) start(ctx context.Context, n int, from int64) error {
	for range n {
		conn, err := grpc.NewClient("passthrough:///"+a.addr, grpc.WithTransportCredentials(a.creds), grpc.WithContextDialer(a.dial),
			grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10), grpc.WithSharedWriteBuffer(true))
		if err != nil {
			return err
		}
		a.wg.Go(func() {
			for at := (place{next: from}); ctx.Err() == nil; {
				a.watch(ctx, conn, &at)
			}
			_ = conn.Close()
		})
	}
	return nil
}

// place is where an agent is: the revision from which it watches, and the value that comes next.
type place struct {
	next  int64
	value int
}

// watch goes on until the stream ends.
func (a *agents) watch(ctx context.Context, conn *grpc.ClientConn, at *place) {
	stream, err := etcdserverpb.NewWatchClient(conn).Watch(ctx, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	create := &etcdserverpb.WatchCreateRequest{Key: []byte(stormKey), StartRevision: at.next}
	if stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		if resp.Created {
			a.stand.Add(1)
		}
		for _, e := range resp.Events {
			if string(e.Kv.Value) != strconv.Itoa(at.value) {
				why := fmt.Sprintf("value %s came, and not %d", e.Kv.Value, at.value)
				a.wrong.Store(&why)
			}
			at.next, at.value = e.Kv.ModRevision+1, at.value+1
			a.events.Add(1)
		}
	}
}

// await waits until something has come to a number.
func await(ctx context.Context, what string, n *atomic.Int64, want int64) error {
	for n.Load() < want {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d %s", n.Load(), want, what)
		}
	}
	return nil
}

// metricOf is the value of a metric, with its labels as they are written, on a page.
func metricOf(page, name string) float64 {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(page)
	if m == nil {
		return -1
	}
	v, _ := strconv.ParseFloat(m[1], 64)
	return v
}

// besideStorm has the endpoint and the authority's file of TestBesideStorm, in its own process.
const besideStorm = "E2E_BESIDE_STORM"

// TestBesideStorm is the other half of TestStormWithTLS, in a process that has nothing else to do: it puts a value, waits until its watch has brought it, and so
// on, until its input ends. Then it prints how often, and how long the longest took in ms.
func TestBesideStorm(t *testing.T) {
	endpoint, ca, ok := strings.Cut(os.Getenv(besideStorm), " ")
	if !ok {
		t.Skip("it is started by another test")
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AppendCertsFromPEM(text)
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: cfg, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cl.Close() }()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	watch := cl.Watch(ctx, besideKey, clientv3.WithCreatedNotify())
	<-watch
	trips, longest := 0, time.Duration(0)
	for ; ctx.Err() == nil; trips++ {
		began := time.Now()
		if _, err := cl.Put(ctx, besideKey, "v"); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		if resp := <-watch; resp.Err() != nil && ctx.Err() == nil {
			t.Fatal(resp.Err())
		}
		longest = max(longest, time.Since(began))
		if trips == 0 {
			fmt.Println("it goes")
			go func() {
				_, _ = io.Copy(io.Discard, os.Stdin)
				stop()
			}()
		}
	}
	fmt.Printf("beside: %d %d\n", trips, longest.Milliseconds())
}

// beside runs TestBesideStorm until the returned function is called.
func (s *tlsStorm) beside() (over func() (trips int, longest time.Duration)) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(s.ctx, self, "-test.run=^TestBesideStorm$", "-test.v")
	cmd.Env = append(os.Environ(), besideStorm+"="+s.url+" "+s.ca)
	in, err := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(err, outErr, cmd.Start()); err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "it goes" {
	}
	return func() (trips int, longest time.Duration) {
		s.t.Helper()
		_ = in.Close()
		told := ""
		for lines.Scan() {
			told += lines.Text() + "\n"
		}
		var ms int64
		_, err := fmt.Sscanf(told[max(0, strings.Index(told, "beside:")):], "beside: %d %d", &trips, &ms)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			s.t.Fatalf("the one beside: %v\n%s", err, told)
		}
		return trips, time.Duration(ms) * time.Millisecond
	}
}

// tlsStorm is a gateway with TLS and its agents.
type tlsStorm struct {
	t       *testing.T
	ctx     context.Context
	agents  agents
	url, ca string
	client  *clientv3.Client
	page    func() string
	said    int
}

func newTLSStorm(t *testing.T) *tlsStorm {
	t.Helper()
	tr := newTrust(t)
	c := describeCluster(t, harness.Options{Nodes: 1, Ranges: 1, ClientScheme: "https"})
	tr.node("server", c)
	flags := []string{"--cert-file=" + tr.path("server.pem"), "--key-file=" + tr.path("server.key")}
	c.Nodes[0].Args = append(c.Nodes[0].Args, flags...)
	start(t, c)
	g, err := c.AddGateway("g1", flags...)
	if err != nil {
		t.Fatal(err)
	}
	restartGateway(t, g)
	s := &tlsStorm{t: t, ctx: testContext(t, limit(5*time.Minute)), url: g.ClientURL, ca: tr.path("ca.pem")}
	s.page = func() string {
		page, err := curl(t, append(tr.flags(""), g.ClientURL+"/metrics")...)
		if err != nil {
			t.Fatal(err, page)
		}
		return page
	}
	at, err := url.Parse(g.ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := tr.config(nil)
	cfg.ServerName = at.Hostname()
	s.agents.addr, s.agents.creds = at.Host, credentials.NewTLS(cfg)
	s.client, err = clientv3.New(clientv3.Config{Endpoints: []string{c.Nodes[0].ClientURL}, TLS: tr.config(nil), DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.client.Close() })
	return s
}

// say puts the next value for all agents, at the member.
func (s *tlsStorm) say() (rev int64) {
	s.t.Helper()
	put, err := s.client.Put(s.ctx, stormKey, strconv.Itoa(s.said))
	if err != nil {
		s.t.Fatal(err)
	}
	s.said++
	return put.Header.Revision
}

func (s *tlsStorm) await(what string, n *atomic.Int64, want int64) {
	s.t.Helper()
	if err := await(s.ctx, what, n, want); err != nil {
		s.t.Fatal(err)
	}
}

// TestStormWithTLS: all clients of a gateway connect again in one moment, with TLS. Each makes one handshake, nothing is lost or repeated, and who was not
// cut off goes on meanwhile. E2E_STORM says how many clients: 300 unless it does.
func TestStormWithTLS(t *testing.T) {
	pontoonOnly(t)
	clients := int64(300)
	if n, err := strconv.ParseInt(os.Getenv("E2E_STORM"), 10, 64); err == nil {
		clients = n
	}
	s := newTLSStorm(t)
	first, err := s.client.Put(s.ctx, besideKey, "first")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer func() {
		stop()
		s.agents.wg.Wait()
	}()
	began := time.Now()
	if err := s.agents.start(ctx, int(clients), first.Header.Revision+1); err != nil {
		t.Fatal(err)
	}
	s.await("agents stand", &s.agents.stand, clients)
	t.Logf("%d agents stood after %v", clients, time.Since(began).Round(time.Millisecond))
	s.say()
	s.await("agents have heard", &s.agents.events, clients)

	over := s.beside()
	before := s.page()
	began = time.Now()
	s.agents.cut()
	s.say()
	s.await("agents are back", &s.agents.stand, 2*clients)
	back := time.Since(began)
	trips, longest := over()
	s.say()
	s.await("events were delivered", &s.agents.events, int64(s.said)*clients)
	if why := s.agents.wrong.Load(); why != nil {
		t.Error(*why)
	}
	after := s.page()
	rise := func(name string) float64 { return metricOf(after, name) - metricOf(before, name) }
	const handshakes = `pontoon_tls_handshakes_total{end="%s",port="client"}`
	done, failed, left := rise(fmt.Sprintf(handshakes, "done")), rise(fmt.Sprintf(handshakes, "failed")), rise(fmt.Sprintf(handshakes, "left"))
	t.Logf("all were back after %v, and had everything after %v; beside: %d round trips, the longest of %v; handshakes: %v done, %v failed, %v left; the gateway used %.2f s, and has %.0f MiB",
		back.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), trips, longest, done, failed, left,
		rise("process_cpu_seconds_total"), metricOf(after, "process_resident_memory_bytes")/(1<<20))
	if done < float64(clients) || done+failed+left > 1.1*float64(clients)+10 {
		t.Errorf("%d clients needed %v handshakes, and %v more that came to nothing", clients, done, failed+left)
	}
	if trips == 0 {
		t.Error("who was not cut off stood still")
	}
}
