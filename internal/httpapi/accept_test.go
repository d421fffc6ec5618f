package httpapi

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
)

// failingListener fails every Accept with err until it is closed.
type failingListener struct {
	err   error
	tries chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newFailingListener(err error) *failingListener {
	return &failingListener{err: err, tries: make(chan struct{}, 1<<16), done: make(chan struct{})}
}

func (l *failingListener) Accept() (net.Conn, error) {
	l.tries <- struct{}{}
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
		return nil, l.err
	}
}

func (l *failingListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *failingListener) Addr() net.Addr { return &net.TCPAddr{} }

// TestAnAcceptLoopNeverEndsByItself: whatever Accept says, for however long, a port, a gRPC server and an
// HTTP server go on until they are closed. Who opens connections up to the limit of files ends no node.
func TestAnAcceptLoopNeverEndsByItself(t *testing.T) {
	loops := map[string]func(net.Listener) (run func() error, stop func()){
		"port": func(patient net.Listener) (func() error, func()) {
			p := NewPort(patient)
			return p.Run, func() { _ = p.Close() }
		},
		"gRPC": func(patient net.Listener) (func() error, func()) {
			s := grpc.NewServer()
			return func() error { return s.Serve(patient) }, s.Stop
		},
		"HTTP": func(patient net.Listener) (func() error, func()) {
			s := &http.Server{}
			return func() error { return s.Serve(patient) }, func() { _ = s.Close() }
		},
	}
	errs := []error{
		&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)},
		&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EPROTO)},
		errors.New("something that no other listener says"),
	}
	for name, make := range loops {
		for _, err := range errs {
			t.Run(name+" "+err.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newFailingListener(err)
					run, stop := make(Patient(l, slog.New(slog.DiscardHandler)))
					ended := false
					var wg sync.WaitGroup
					wg.Go(func() {
						_ = run()
						ended = true
					})
					<-time.After(time.Hour) // of the virtual clock
					synctest.Wait()
					if ended {
						t.Error("the loop has ended by itself")
					}
					if n := len(l.tries); n < 3000 || n > 4000 {
						t.Errorf("%d attempts in an hour", n)
					}
					stop()
					wg.Wait()
				})
			})
		}
	}
}

// TestSilentConnections: those that say nothing are so many at most; the one that has been silent for longest makes
// room for the next.
func TestSilentConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := NewPort(l)
	p.silentMax = 3
	done := make(chan error, 1)
	go func() { done <- p.Run() }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var silent []net.Conn
	for range 5 {
		silent = append(silent, dial())
	}
	for i, c := range silent[:2] {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("silent connection %d is served", i)
		}
		_ = c.Close()
	}
	for _, c := range silent[2:] { // they are there still
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\n")); err != nil {
			t.Fatal(err)
		}
		got, err := p.HTTP().Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = got.Close(), c.Close()
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
