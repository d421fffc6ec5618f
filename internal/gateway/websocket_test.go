package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// dial opens a websocket at a path below /v3/.
func dial(t *testing.T, url, path string, header http.Header, protocols ...string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: 10 * time.Second}
	c, resp, err := d.Dial("ws"+strings.TrimPrefix(url, "http")+"/v3/"+path, header)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_, b, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestWebsocket: requests come and answers go while the stream lives, which ends with the websocket.
func TestWebsocket(t *testing.T) {
	s := start(t)
	url := s.url
	c := dial(t, url, "watch", nil)
	say(t, c, `{"create_request":{"key":"`+b64("a")+`","watch_id":"1"}}`)
	if m := hear(t, c); !strings.Contains(m, `"created":true`) || !strings.Contains(m, `"watch_id":"1"`) {
		t.Errorf("first message: %s", m)
	}
	say(t, c, `{"create_request":{"key":"`+b64("b")+`","watch_id":"2"}}`)
	if m := hear(t, c); !strings.Contains(m, `"watch_id":"2"`) {
		t.Errorf("second message: %s", m)
	}
	if status, body := post(t, url+"/v3/kv/put", `{"key":"`+b64("b")+`"}`); status != 200 {
		t.Fatal(status, body)
	}
	if m := hear(t, c); !strings.HasPrefix(m, `{"result":{`) || strings.Contains(m, "\n") || !strings.Contains(m, b64("b")) {
		t.Errorf("event: %s", m)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s.waitStreams(t, 0)
}

// TestWebsocketToNowhere: an error is a message, too, and a call that is over ends its websocket with a goodbye.
func TestWebsocketToNowhere(t *testing.T) {
	c := dial(t, start(t).url, "nothing", nil)
	if m := hear(t, c); !sameJSON(t, m, `{"code":5,"message":"Not Found"}`) {
		t.Errorf("message: %s", m)
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("it ends with %v", err)
	}
}

// TestWebsocketTokens: a browser says who it is by a protocol, or by a cookie.
func TestWebsocketTokens(t *testing.T) {
	s := start(t)
	url := s.url
	c := dial(t, url, "lease/keepalive", nil, "Bearer", "s3cret")
	if c.Subprotocol() != "Bearer" {
		t.Errorf("protocol %q", c.Subprotocol())
	}
	say(t, c, `{"ID":"7"}`)
	hear(t, c)
	c = dial(t, url, "lease/keepalive", http.Header{"Cookie": {"token=oven"}, "Origin": {"http://page.example"}, "X-Other": {"no"}})
	say(t, c, `{"ID":"7"}`)
	hear(t, c)
	for _, want := range []string{"Bearer s3cret", "Bearer oven"} {
		md := <-s.md
		if v := md["authorization"]; len(v) != 1 || v[0] != want {
			t.Errorf("authorization %q, want %q: %v", v, want, md)
		}
	}
}

// TestWebsocketTooMuch: a message that is too large ends the call.
func TestWebsocketTooMuch(t *testing.T) {
	s := start(t)
	url := s.url
	c := dial(t, url, "watch", nil)
	say(t, c, `{"create_request":{"key":"`+strings.Repeat("A", objectBytesMax)+`"}}`)
	if _, m, err := c.ReadMessage(); err == nil && !strings.Contains(string(m), "error") {
		t.Errorf("it is answered: %s", m)
	}
	s.waitStreams(t, 0)
}

// TestWebsocketsEndWithTheGateway: one that has said nothing yet, too.
func TestWebsocketsEndWithTheGateway(t *testing.T) {
	s := start(t)
	url := s.url
	c := dial(t, url, "kv/put", nil)
	if err := s.gw.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.ReadMessage(); err == nil {
		t.Error("it lives on")
	}
	d := websocket.Dialer{}
	if _, resp, err := d.Dial("ws"+strings.TrimPrefix(url, "http")+"/v3/kv/put", nil); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("another begins: %v, %v", resp, err)
	}
}
