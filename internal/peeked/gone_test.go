package peeked

import (
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// wrapped is a connection that has one below it.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// TestGone: who has hung up is told from who says nothing, and from who has said something, which is left where it is.
func TestGone(t *testing.T) {
	for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		far, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		near, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _, _ = far.Close(), near.Close(), l.Close() })
		c := New(wrapped{near}, []byte("h"))
		if Gone(c) {
			t.Errorf("%s: who is silent is gone", network)
		}
		if _, err := far.Write([]byte("i")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if Gone(c) {
				t.Errorf("%s: who speaks is gone", network)
			}
		}
		for _, want := range "hi" {
			buf := make([]byte, 1)
			if _, err := c.Read(buf); err != nil || buf[0] != byte(want) {
				t.Errorf("%s: %q, %v, and not %q", network, buf, err, want)
			}
		}
		_ = far.Close()
		for end := time.Now().Add(10 * time.Second); !Gone(c); runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%s: who has hung up is there", network)
			}
		}
		_ = near.Close()
		if !Gone(c) {
			t.Errorf("%s: a closed one is there", network)
		}
	}
	ours, theirs := net.Pipe()
	_, _ = ours.Close(), theirs.Close()
	if Gone(ours) {
		t.Error("of a pipe nothing can be known")
	}
}
