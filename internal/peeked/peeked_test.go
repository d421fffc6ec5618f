package peeked

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/mem"

	"pontoon/test/certs"
)

// countingPool knows how many of its buffers are out.
type countingPool struct{ out atomic.Int64 }

func (p *countingPool) Get(n int) *[]byte {
	p.out.Add(1)
	b := make([]byte, n)
	return &b
}

func (p *countingPool) Put(*[]byte) { p.out.Add(-1) }

var _ mem.BufferPool = (*countingPool)(nil)

// pairs makes connections of every kind, with what writes to the other end.
func pairs(t *testing.T) map[string]func(head string) (Reader, net.Conn) {
	pair := func(network, addr string) (net.Conn, net.Conn) {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		far, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		near, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = far.Close(), near.Close() })
		return near, far
	}
	sockets := 0
	unix := func() (net.Conn, net.Conn) {
		sockets++
		return pair("unix", filepath.Join(t.TempDir(), string(rune('a'+sockets))))
	}
	ca, err := certs.NewAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(certs.Options{CN: "near"})
	if err != nil {
		t.Fatal(err)
	}
	secure := func() (net.Conn, net.Conn) {
		near, far := pair("tcp", "127.0.0.1:0")
		s := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{cert.TLSPair}})
		c := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
		done := make(chan error, 1)
		go func() { done <- c.Handshake() }()
		if err := errors.Join(s.Handshake(), <-done); err != nil {
			t.Fatal(err)
		}
		return s, c
	}
	out := map[string]func(string) (Reader, net.Conn){}
	for name, open := range map[string]func() (net.Conn, net.Conn){
		"tcp": func() (net.Conn, net.Conn) { return pair("tcp", "127.0.0.1:0") }, "unix": unix, "tls": secure, "pipe": net.Pipe,
	} {
		out[name] = func(head string) (Reader, net.Conn) {
			near, far := open()
			return New(New(near, []byte(head)), nil), far
		}
	}
	return out
}

// TestWhole: whatever the sizes, what was read before and what comes are handed on, each byte once, and no buffer is lost.
func TestWhole(t *testing.T) {
	for name, open := range pairs(t) {
		r, far := open("the head, ")
		rng := rand.New(rand.NewPCG(1, 2))
		want := []byte("the head, ")
		var parts [][]byte
		for range 200 {
			part := make([]byte, 1+rng.IntN(3*smallBytes))
			for i := range part {
				part[i] = byte(rng.Uint32())
			}
			parts = append(parts, part)
			want = append(want, part...)
		}
		go func() {
			for _, p := range parts {
				_, _ = far.Write(p)
			}
			_ = far.Close()
		}()
		pool := &countingPool{}
		var got []byte
		for {
			size := 1 + rng.IntN(4*smallBytes)
			buf, n, err := r.ReadOnReady(size, pool)
			if err != nil {
				if buf != nil || !errors.Is(err, io.EOF) {
					t.Errorf("%s: ended with %v, %v", name, buf, err)
				}
				break
			}
			if n == 0 || n > size || len(*buf) != size {
				t.Fatalf("%s: %d bytes of %d in a buffer of %d", name, n, size, len(*buf))
			}
			got = append(got, (*buf)[:n]...)
			pool.Put(buf)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came of %d, or others", name, len(got), len(want))
		}
		if out := pool.out.Load(); out != 0 {
			t.Errorf("%s: %d buffers were lost", name, out)
		}
	}
}

// TestWaitsWithoutABuffer: a connection of which nothing is to be read holds no buffer of the pool, not at its start and not after a message.
func TestWaitsWithoutABuffer(t *testing.T) {
	for name, open := range pairs(t) {
		r, far := open("")
		pool := &countingPool{}
		came := make(chan int)
		go func() {
			defer close(came)
			for {
				buf, n, err := r.ReadOnReady(32<<10, pool)
				if err != nil {
					return
				}
				pool.Put(buf)
				came <- n
			}
		}()
		for range 3 {
			if out := heldAfter(pool); out != 0 {
				t.Errorf("%s: %d buffers are held while nothing comes", name, out)
			}
			if _, err := far.Write([]byte("a short message")); err != nil {
				t.Fatal(err)
			}
			if n := <-came; n != len("a short message") {
				t.Errorf("%s: %d bytes came", name, n)
			}
		}
		_ = far.Close()
		<-came
	}
}

// heldAfter is how many buffers are out once the reader had time to begin to wait.
func heldAfter(p *countingPool) int64 {
	until := time.NewTimer(50 * time.Millisecond)
	defer until.Stop()
	<-until.C
	return p.out.Load()
}

// TestErrors: a deadline and an end are told as Read tells them, and hold nothing.
func TestErrors(t *testing.T) {
	for name, open := range pairs(t) {
		r, _ := open("")
		pool := &countingPool{}
		c := r.(net.Conn)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, _, err := r.ReadOnReady(100, pool); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: after the deadline: %v", name, err)
		}
		_ = c.SetReadDeadline(time.Time{})
		ended := make(chan error)
		go func() {
			_, _, err := r.ReadOnReady(4096, pool)
			ended <- err
		}()
		heldAfter(pool)
		_ = c.Close()
		if err := <-ended; err == nil {
			t.Errorf("%s: closed: no error", name)
		}
		if out := pool.out.Load(); out != 0 {
			t.Errorf("%s: %d buffers were lost", name, out)
		}
	}
}
