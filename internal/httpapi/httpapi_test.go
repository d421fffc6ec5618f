package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeHealth is set by tests before the handler is called.
type fakeHealth struct {
	alarms           []string
	noLeader         bool
	learner          bool
	stopping         bool
	local, consensus error
}

func (f *fakeHealth) Alarms() []string { return f.alarms }
func (f *fakeHealth) HasLeader() bool  { return !f.noLeader }
func (f *fakeHealth) Learner() bool    { return f.learner }
func (f *fakeHealth) Read(_ context.Context, serializable bool) error {
	if serializable {
		return f.local
	}
	return f.consensus
}

type fakeRanges struct{}

func (fakeRanges) Ranges(context.Context) ([]Range, error) {
	return []Range{{ID: 2, End: []byte("m"), EndText: "m", Leader: 5, Replicas: []Replica{{Replica: 1, Node: 5, Name: "n1"}}}}, nil
}

func testConfig(h *fakeHealth) Config {
	reg := prometheus.NewRegistry()
	return Config{Health: h, Ranges: fakeRanges{}, Gatherer: reg, Registerer: reg,
		ClusterVersion: func() string { return "3.7.0" }, Stopping: func() bool { return h.stopping }, Logger: slog.New(slog.DiscardHandler)}
}

func get(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

// The bodies are those of etcd 3.7.3.
func TestEndpoints(t *testing.T) {
	errNo := errors.New("etcdserver: no leader")
	tests := []struct {
		name, path string
		health     fakeHealth
		code       int
		body       string
	}{
		{"version", "/version", fakeHealth{}, 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{"health", "/health", fakeHealth{}, 200, `{"health":"true","reason":""}`},
		{"no leader", "/health", fakeHealth{noLeader: true}, 503, `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{"no leader, local", "/health?serializable=true", fakeHealth{noLeader: true, consensus: errNo}, 200, `{"health":"true","reason":""}`},
		{"read fails", "/health", fakeHealth{consensus: errNo}, 503, `{"health":"false","reason":"RANGE ERROR:etcdserver: no leader"}` + "\n"},
		{"alarm", "/health", fakeHealth{alarms: []string{"NOSPACE"}}, 503, `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"alarm excluded", "/health?exclude=NOSPACE", fakeHealth{alarms: []string{"NOSPACE"}}, 200, `{"health":"true","reason":""}`},
		{"livez", "/livez", fakeHealth{consensus: errNo}, 200, "ok\n"},
		{"livez fails", "/livez", fakeHealth{local: errNo}, 503, "[-]serializable_read failed: range error: etcdserver: no leader\n\n"},
		{"readyz", "/readyz?verbose", fakeHealth{}, 200, "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"},
		{"readyz fails", "/readyz", fakeHealth{consensus: errNo, alarms: []string{"CORRUPT"}}, 503, "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[-]linearizable_read failed: range error: etcdserver: no leader\n[+]non_learner ok\n\n"},
		{"readyz excludes", "/readyz?exclude=linearizable_read&verbose", fakeHealth{consensus: errNo}, 200, "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n"},
		{"readyz of one that stops", "/readyz", fakeHealth{stopping: true}, 503, "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n[-]not_stopping failed: the server is being stopped\n\n"},
		{"one check", "/readyz/non_learner", fakeHealth{learner: true}, 503, "[-]non_learner failed: not supported for learner\n\n"},
		{"unknown", "/nope", fakeHealth{}, 404, "404 page not found\n"},
		{"profiles are off", "/debug/pprof/", fakeHealth{}, 404, "404 page not found\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(New(testConfig(&tt.health)), "GET", tt.path)
			if w.Code != tt.code || w.Body.String() != tt.body {
				t.Errorf("got %d %q\nwant %d %q", w.Code, w.Body.String(), tt.code, tt.body)
			}
		})
	}
}

func TestOnlyGet(t *testing.T) {
	h := New(testConfig(&fakeHealth{}))
	for _, path := range []string{"/version", "/health", "/livez", "/readyz", "/pontoon/v1/ranges", "/pontoon/v1/nodes"} {
		if w := get(h, "POST", path); w.Code != 405 || w.Header().Get("Allow") != "GET" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
}

func TestRangesAndMetrics(t *testing.T) {
	cfg := testConfig(&fakeHealth{})
	cfg.Pprof = true
	h, metrics := New(cfg), NewMetrics(cfg)
	want := `[{"id":2,"start":null,"end":"bQ==","start_text":"","end_text":"m","generation":0,"leader":5,"term":0,"replicas":[{"replica":1,"node":5,"name":"n1"}],"keys":0,"size":0,"size_in_use":0,"revision":0,"applied":0,"quiescent":false,"sticky":false}]`
	if w := get(h, "GET", "/pontoon/v1/ranges"); w.Body.String() != want {
		t.Errorf("got %s", w.Body.String())
	}
	if w := get(h, "GET", "/pontoon/v1/nodes"); w.Body.String() != "[]" {
		t.Errorf("got %s", w.Body.String())
	}
	cfg.Nodes = func() []Node { return []Node{{Node: 5, Name: "n1", Address: "a:1", State: "dead"}} }
	if w := get(New(cfg), "GET", "/pontoon/v1/nodes"); w.Body.String() != `[{"node":5,"name":"n1","address":"a:1","state":"dead"}]` {
		t.Errorf("got %s", w.Body.String())
	}
	get(h, "GET", "/health")
	get(metrics, "GET", "/health")
	for _, h := range []http.Handler{h, metrics} {
		if w := get(h, "GET", "/metrics"); !strings.Contains(w.Body.String(), "etcd_server_health_success 2") {
			t.Errorf("metrics: %s", w.Body.String())
		}
	}
	if w := get(h, "GET", "/debug/pprof/"); w.Code != 200 {
		t.Errorf("profiles: %d", w.Code)
	}
	if w := get(metrics, "GET", "/version"); w.Code != 404 {
		t.Errorf("/version on the metrics URL: %d", w.Code)
	}
}

func TestHostsAndOrigins(t *testing.T) {
	cfg := testConfig(&fakeHealth{})
	cfg.Hosts, cfg.CORS = []string{"good.example"}, []string{"http://page.example"}
	h := New(cfg)
	if w := get(h, "GET", "http://bad.example:2379/health"); w.Code != http.StatusMisdirectedRequest {
		t.Errorf("bad host: %d", w.Code)
	}
	r := httptest.NewRequest("GET", "http://good.example:2379/health", nil)
	r.Header.Set("Origin", "http://page.example")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") != "http://page.example" {
		t.Errorf("good host: %d %v", w.Code, w.Header())
	}
	if w := get(h, "GET", "https://bad.example:2379/health"); w.Code != 200 {
		t.Errorf("whoever has checked a certificate is believed the host: %d", w.Code)
	}
}

// TestJSONPaths: all below /v3/ is the gateway's, also under the name that it had first.
func TestJSONPaths(t *testing.T) {
	cfg := testConfig(&fakeHealth{})
	cfg.JSON = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	h := New(cfg)
	for path, want := range map[string]string{"/v3/kv/put": "/v3/kv/put", "/v3beta/kv/put": "/v3/kv/put", "/v3/": "/v3/"} {
		if w := get(h, "POST", "http://h"+path); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	cfg.JSON = nil
	if w := get(New(cfg), "POST", "http://h/v3/kv/put"); w.Code != 404 {
		t.Errorf("without a gateway: %d", w.Code)
	}
}

func TestPortSplits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := NewPort(l)
	done := make(chan error, 1)
	go func() { done <- p.Run() }()

	for _, tt := range []struct {
		send string
		side net.Listener
	}{
		{"PRI * HTTP/2.0\r\n", p.GRPC()},
		{"GET / HTTP/1.1\r\n", p.HTTP()},
		{"\x16\x03", p.HTTP()}, // short, and then closed
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, tt.send)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := tt.side.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(bufio.NewReader(got))
		if err != nil || string(b) != tt.send {
			t.Errorf("read %q, %v; want %q", b, err, tt.send)
		}
		_ = got.Close()
		_ = c.Close()
	}

	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := p.GRPC().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}
