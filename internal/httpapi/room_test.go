package httpapi

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
)

// pipeListener accepts one end of a pipe whenever the test sends one.
type pipeListener struct {
	failingListener
	conns chan net.Conn
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// TestClientsLeaveFilesToTheNode: clients have so many connections over all ports and no more, however often one of
// them is closed; a port that is closed waits for nobody's room.
func TestClientsLeaveFilesToTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		conns := make(chan net.Conn, 100)
		newListener := func() *pipeListener {
			return &pipeListener{failingListener{done: make(chan struct{})}, conns}
		}
		ls := NewRoom(most, slog.New(slog.DiscardHandler)).Listeners([]Listener{{Listener: newListener()}, {Listener: newListener()}}, 0)
		accepted := make(chan net.Conn, 100)
		ended := make(chan error, len(ls))
		for _, l := range ls {
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						ended <- err
						return
					}
					accepted <- c
				}
			}()
		}
		for range 10 {
			c, far := net.Pipe()
			defer far.Close()
			conns <- c
		}
		synctest.Wait()
		if n := len(accepted); n != most {
			t.Errorf("%d connections are accepted, want %d", n, most)
		}
		for range 2 {
			c := <-accepted
			_, _ = c.Close(), c.Close()
		}
		synctest.Wait()
		if n := len(accepted); n != most {
			t.Errorf("%d connections are there after two were closed, want %d", n, most)
		}
		for _, l := range ls {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		}
		for n := len(accepted); n > 0; n-- {
			_ = (<-accepted).Close()
		}
	})
	if clients, others := Connections(); clients < others || others < ownFilesMin/4 {
		t.Errorf("%d connections of clients, %d of others", clients, others)
	}
}
