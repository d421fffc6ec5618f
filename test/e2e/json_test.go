package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"pontoon/test/e2e/harness"
)

// jsonCall posts a request by curl, and returns HTTP's status and the answer.
func jsonCall(t *testing.T, n *harness.Node, path, body string) (status string, answer map[string]any) {
	t.Helper()
	out, err := curl(t, "-w", "\n%{http_code}", "-d", body, n.ClientURL+path)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", path, body, err, out)
	}
	i := strings.LastIndexByte(out, '\n')
	status = out[i+1:]
	if err := json.Unmarshal([]byte(out[:i]), &answer); err != nil {
		t.Fatalf("%s %s: %s %q: %v", path, body, status, out[:i], err)
	}
	return status, answer
}

func inBase64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// field follows names and indices into an answer.
func field(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// jsonStream runs a curl that reads a stream, line by line; next waits for one.
func jsonStream(t *testing.T, n *harness.Node, path, body string) (next func() map[string]any) {
	t.Helper()
	bin, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl")
	}
	cmd := exec.Command(bin, "-sSN", "-d", body, n.ClientURL+path)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s := bufio.NewScanner(out)
		for s.Scan() {
			lines <- s.Text()
		}
		close(lines)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines { // until the reader has ended
		}
		<-ended
		_ = cmd.Wait()
	})
	return func() (answer map[string]any) {
		t.Helper()
		select {
		case l, ok := <-lines:
			if !ok {
				t.Fatal("the stream ended")
			}
			if err := json.Unmarshal([]byte(l), &answer); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
		case <-time.After(limit(20 * time.Second)):
			t.Fatal("no line")
		}
		return answer
	}
}

// TestJSON: what curl asks of each node in JSON is answered as etcd answers it, over ranges.
func TestJSON(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	watched := jsonStream(t, c.Nodes[1], "/v3/watch", `{"create_request":{"key":"`+inBase64("/page/")+`","range_end":"`+inBase64("/page0")+`","prev_kv":true}}`)
	if m := watched(); field(m, "result", "created") != true {
		t.Fatalf("first line: %v", m)
	}
	for i, n := range c.Nodes {
		key, value := fmt.Sprintf("/page/%d1", i), fmt.Sprintf("value %d", i)
		status, put := jsonCall(t, n, "/v3/kv/put", `{"key":"`+inBase64(key)+`","value":"`+inBase64(value)+`"}`)
		if status != "200" || field(put, "header", "revision") != fmt.Sprint(2*i+2) {
			t.Fatalf("put: %s, %v", status, put)
		}
		if m := watched(); field(m, "result", "events", 0, "kv", "value") != inBase64(value) || field(m, "result", "events", 0, "kv", "mod_revision") != fmt.Sprint(2*i+2) {
			t.Errorf("event: %v", m)
		}
		_, txn := jsonCall(t, n, "/v3/kv/txn", `{"compare":[{"key":"`+inBase64(key)+`","target":"VALUE","value":"`+inBase64(value)+`"}],`+
			`"success":[{"request_put":{"key":"`+inBase64(key)+`"}},{"request_put":{"key":"`+inBase64("k")+`"}}]}`)
		if field(txn, "succeeded") != true || field(txn, "responses", 1, "response_put", "header", "revision") != fmt.Sprint(2*i+3) {
			t.Errorf("txn: %v", txn)
		}
		if m := watched(); field(m, "result", "events", 0, "prev_kv", "value") != inBase64(value) || field(m, "result", "events", 0, "type") != nil {
			t.Errorf("event: %v", m)
		}
	}
	n := c.Nodes[2]
	_, all := jsonCall(t, n, "/v3/kv/range", `{"key":"`+inBase64("/page/")+`","range_end":"`+inBase64("/page0")+`","limit":2}`)
	if field(all, "count") != "3" || field(all, "more") != true || field(all, "kvs", 1, "key") != inBase64("/page/11") || field(all, "kvs", 2) != nil {
		t.Errorf("range: %v", all)
	}
	if _, beta := jsonCall(t, n, "/v3beta/kv/deleterange", `{"key":"`+inBase64("k")+`"}`); field(beta, "deleted") != "1" {
		t.Errorf("delete: %v", beta)
	}

	jsonCall(t, n, "/v3/lease/grant", `{"ID":"77","TTL":"300"}`)
	if alive := jsonStream(t, n, "/v3/lease/keepalive", `{"ID":"77"}`)(); field(alive, "result", "TTL") != "300" {
		t.Errorf("keep-alive: %v", alive)
	}
	if _, members := jsonCall(t, n, "/v3/cluster/member/list", `{}`); field(members, "members", 2, "clientURLs", 0) == nil {
		t.Errorf("members: %v", members)
	}
	if _, st := jsonCall(t, n, "/v3/maintenance/status", `{}`); field(st, "version") == nil || field(st, "dbSize") == nil {
		t.Errorf("status: %v", st)
	}
}

// TestJSONWebsocket: a browser watches over a websocket, as whose page it likes, and asks for more meanwhile.
func TestJSONWebsocket(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	n := c.Nodes[0]
	ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(n.ClientURL, "http")+"/v3/watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	defer func() { _ = ws.Close() }()
	for i, key := range []string{"k1", "/page/08"} {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"`+inBase64(key)+`"}}`)); err != nil {
			t.Fatal(err)
		}
		if m := heard(t, ws); field(m, "result", "created") != true {
			t.Errorf("watch %d: %v", i, m)
		}
		if status, put := jsonCall(t, n, "/v3/kv/put", `{"key":"`+inBase64(key)+`"}`); status != "200" {
			t.Fatalf("put: %s, %v", status, put)
		}
		if m := heard(t, ws); field(m, "result", "events", 0, "kv", "key") != inBase64(key) {
			t.Errorf("event %d: %v", i, m)
		}
	}
}

func heard(t *testing.T, ws *websocket.Conn) (answer map[string]any) {
	t.Helper()
	if err := ws.SetReadDeadline(time.Now().Add(limit(20 * time.Second))); err != nil {
		t.Fatal(err)
	}
	if err := ws.ReadJSON(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestJSONErrors: an error has etcd's text, gRPC's code and the status of HTTP that goes with it.
func TestJSONErrors(t *testing.T) {
	beside(t)
	c := describeCluster(t, harness.Options{Nodes: 1, Args: []string{"--cors=http://page.example:80"}})
	n := c.Nodes[0]
	u, err := url.Parse(n.ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	n.Args = append(n.Args, "--host-whitelist="+u.Hostname())
	start(t, c)
	for _, tt := range []struct {
		path, body, status string
		code               float64
		message            string
	}{
		{"/v3/kv/put", `{}`, "400", 3, "etcdserver: key is not provided"},
		{"/v3/kv/range", `{"key":"` + inBase64("k") + `","revision":"99"}`, "400", 11, "etcdserver: mvcc: required revision is a future revision"},
		{"/v3/lease/revoke", `{"ID":"9"}`, "404", 5, "etcdserver: requested lease not found"},
		{"/v3/kv/compaction", `{"revision":"99"}`, "400", 11, "etcdserver: mvcc: required revision is a future revision"},
		{"/v3/kv/put", `{"key":"not base64"}`, "400", 3, ""},
		{"/v3/kv/put", `{"key"`, "400", 3, ""},
		{"/v3/kv/no", `{}`, "404", 5, "Not Found"},
		{"/v3/auth/enable", `{}`, "", 0, ""}, // an answer, of whatever kind
	} {
		status, answer := jsonCall(t, n, tt.path, tt.body)
		if tt.status == "" {
			continue
		}
		if status != tt.status || field(answer, "code") != tt.code || tt.message != "" && field(answer, "message") != tt.message {
			t.Errorf("%s %s: %s, %v", tt.path, tt.body, status, answer)
		}
	}
	out, err := curl(t, "-w", "%{http_code}", n.ClientURL+"/v3/kv/range")
	if err != nil || !strings.HasSuffix(out, "501") {
		t.Errorf("GET: %s, %v", out, err)
	}
	out, err = curl(t, "-i", "-X", "OPTIONS", "-H", "Origin: http://page.example:80", n.ClientURL+"/v3/kv/range")
	for _, want := range []string{"HTTP/1.1 200", "Access-Control-Allow-Origin: http://page.example:80", "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE",
		"Access-Control-Allow-Headers: accept, content-type, authorization"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("a browser's question, without %q: %s, %v", want, out, err)
		}
	}
	if out, err = curl(t, "-i", "-H", "Origin: http://other.example", n.ClientURL+"/health"); err != nil || strings.Contains(out, "Access-Control") {
		t.Errorf("another page: %s, %v", out, err)
	}
	out, err = curl(t, "-i", "-H", "Host: evil.example", "-d", "{}", n.ClientURL+"/v3/kv/range")
	if err != nil || !strings.HasPrefix(out, "HTTP/1.1 421") || !strings.Contains(out, `e.g. etcd --host-whitelist "evil.example"`) {
		t.Errorf("another host: %s, %v", out, err)
	}
}

// TestNoJSON: without the gateway its paths are nobody's.
func TestNoJSON(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1, Args: []string{"--enable-grpc-gateway=false"}})
	if out, err := curl(t, "-w", "%{http_code}", "-d", "{}", c.Nodes[0].ClientURL+"/v3/kv/range"); err != nil || !strings.HasSuffix(out, "404") {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := curl(t, c.Nodes[0].ClientURL+"/health"); err != nil || !strings.Contains(out, "true") {
		t.Errorf("health: %s, %v", out, err)
	}
}
