package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/internal/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const objectBytesMax = 4096

// served is a naive store that is served as JSON.
type served struct {
	store *apitest.Store
	api   *etcdapi.API
	url   string
	gw    *gateway.Gateway
	md    chan metadata.MD // of streams
}

func start(t *testing.T) *served {
	t.Helper()
	s := &served{store: apitest.New(), md: make(chan metadata.MD, 64)}
	api, addr := s.store.Serve(t, func(c *etcdapi.Config) { c.MaxRequestBytes = 1 << 20 })
	s.api = api
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	if s.gw, err = gateway.New(spy{conn, s.md}, objectBytesMax); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.gw)
	s.url = srv.URL
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := s.gw.Close(); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	})
	return s
}

// spy tells with what metadata streams are opened.
type spy struct {
	*grpc.ClientConn
	md chan<- metadata.MD
}

func (s spy) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	s.md <- md
	return s.ClientConn.NewStream(ctx, desc, method, opts...)
}

// waitStreams waits until so many watch streams are there.
func (s *served) waitStreams(t *testing.T, want int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		n, _ := s.store.Streams()
		if n == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("there are %d watch streams, not %d", n, want)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// post asks, and returns the status and the body.
func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestCalls: requests and answers of every service that has only such, to the letter.
func TestCalls(t *testing.T) {
	url := start(t).url
	header := func(rev int) string {
		return fmt.Sprintf(`"header":{"cluster_id":"%d","member_id":"%d","revision":"%d","raft_term":"%d"}`,
			uint64(apitest.ClusterIDValue), uint64(apitest.MemberIDValue), rev, uint64(apitest.TermValue))
	}
	k, v := b64("k"), b64("v")
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"kv/put", `{"key":"` + k + `","value":"` + v + `"}`, 200, `{` + header(2) + `}`},
		{"kv/put", `{"key":"` + k + `","value":"` + v + `","prevKv":true,"what":{"is":["this"]}}`, 200,
			`{` + header(3) + `,"prev_kv":{"key":"` + k + `","create_revision":"2","mod_revision":"2","version":"1","value":"` + v + `"}}`},
		{"kv/range", `{"key":"` + k + `","limit":"1"}`, 200,
			`{` + header(3) + `,"kvs":[{"key":"` + k + `","create_revision":"2","mod_revision":"3","version":"2","value":"` + v + `"}],"count":"1"}`},
		{"kv/range", `{"key":"` + k + `","range_end":"AA==","count_only":true}`, 200, `{` + header(3) + `,"count":"1"}`},
		{"kv/txn", `{"compare":[{"key":"` + k + `","target":"VERSION","result":"EQUAL","version":"2"}],"success":[{"request_put":{"key":"` + k + `"}}],"failure":[]}`, 200,
			`{` + header(4) + `,"succeeded":true,"responses":[{"response_put":{"header":{"revision":"4"}}}]}`},
		{"kv/deleterange", `{"key":"` + k + `"}`, 200, `{` + header(5) + `,"deleted":"1"}`},
		{"lease/grant", `{"TTL":"600","ID":"7"}`, 200, `{` + header(5) + `,"ID":"7","TTL":"600"}`},
		{"kv/lease/timetolive", `{"ID":7}`, 200, `{` + header(5) + `,"ID":"7","TTL":"600","grantedTTL":"600"}`},
		{"lease/leases", ``, 200, `{` + header(5) + `,"leases":[{"ID":"7"}]}`},
		{"lease/keepalive", `{"ID":"7"}`, 200, `{"result":{` + header(5) + `,"ID":"7","TTL":"600"}}` + "\n"},
		{"kv/compaction", `{"revision":"3"}`, 200, `{` + header(5) + `}`},

		{"kv/range", `{"key":"` + k + `","revision":"2"}`, 400,
			`{"code":11, "message":"etcdserver: mvcc: required revision has been compacted"}`},
		{"kv/put", `{}`, 400, `{"code":3, "message":"etcdserver: key is not provided"}`},
		{"kv/put", `{"key":`, 400, ``},
		{"kv/put", `{"key":"` + k + `","value":"` + strings.Repeat("A", objectBytesMax) + `"}`, 400, ``},
		{"lease/revoke", `{"ID":"9"}`, 404, `{"code":5, "message":"etcdserver: requested lease not found"}`},
		{"kv/nothing", `{}`, 404, `{"code":5, "message":"Not Found"}`},
	} {
		status, body := post(t, url+"/v3/"+tt.path, tt.body)
		if status != tt.status || tt.want != "" && !sameJSON(t, body, tt.want) {
			t.Errorf("%s %s:\n%d %s, want\n%d %s", tt.path, tt.body, status, body, tt.status, tt.want)
		}
	}
	resp, err := http.Get(url + "/v3/kv/range")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("GET: %s", resp.Status)
	}
}

// sameJSON compares without blanks: protobuf puts some at random.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var out [2]string
	for i, s := range []string{a, b} {
		var v any
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Errorf("%s: %v", s, err)
			return false
		}
		text, _ := json.Marshal(v)
		out[i] = string(text)
	}
	return out[0] == out[1]
}

// TestAStopBreaksStreams: a stream that ends because the node stops is broken, as an etcd's is, and has no object that says so; what asks for one
// then gets no answer. Single calls go on.
func TestAStopBreaksStreams(t *testing.T) {
	s := start(t)
	resp, err := http.Post(s.url+"/v3/watch", "application/json", strings.NewReader(`{"create_request":{"key":"`+b64("k")+`"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	if l, err := lines.ReadString('\n'); err != nil || !strings.Contains(l, `"created":true`) {
		t.Fatalf("first line: %s, %v", l, err)
	}
	s.api.Close()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
	late, err := http.Post(s.url+"/v3/lease/keepalive", "application/json", strings.NewReader(`{"ID":"7"}`))
	var answer []byte
	if err == nil { // something was sent before the stream was broken
		answer, err = io.ReadAll(late.Body)
		_ = late.Body.Close()
	}
	if bytes.Contains(answer, []byte("error")) || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("asked while it stops: %q, %v", answer, err)
	}
	if status, body := post(t, s.url+"/v3/kv/put", `{"key":"`+b64("k")+`"}`); status != 200 {
		t.Errorf("a put while it stops: %d %s", status, body)
	}
}

// TestWatch: one object a line, each at once; the watch ends with its client.
func TestWatch(t *testing.T) {
	s := start(t)
	url := s.url
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/watch", strings.NewReader(`{"create_request":{"key":"`+b64("k")+`","progress_notify":true}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	next := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("the stream ended: ", lines.Err())
		}
		return lines.Text()
	}
	if l := next(); !strings.Contains(l, `"created":true`) {
		t.Errorf("first line: %s", l)
	}
	for i := range 3 {
		value := b64(fmt.Sprint("v", i))
		if status, body := post(t, url+"/v3/kv/put", `{"key":"`+b64("k")+`","value":"`+value+`"}`); status != 200 {
			t.Fatal(status, body)
		}
		if l := next(); !strings.HasPrefix(l, `{"result":{`) || !strings.Contains(l, value) {
			t.Errorf("line %d: %s", i, l)
		}
	}
	cancel()
	s.waitStreams(t, 0)
}
