package httpapi

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"

	"pontoon/internal/peeked"
)

// TestNoBufferIsHeldForGRPC: a connection that comes to gRPC by a port that others share can be read without a buffer that waits with it.
func TestNoBufferIsHeldForGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ls := NewRoom(10, log).Listeners(Patients([]Listener{{Listener: l}}, log), 0)
	p := NewPort(ls[0])
	ended := make(chan error, 1)
	go func() { ended <- p.Run() }()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := far.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	c, err := p.GRPC().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(peeked.Reader); !ok {
		t.Errorf("%T holds a buffer", c)
	}
	if _, ok := c.(*peeked.Conn).Conn.(peeked.Reader); !ok {
		t.Errorf("%T holds a buffer", c.(*peeked.Conn).Conn)
	}
	if _, ok := net.Conn(newLookedConn(c, c2{}, seen{grpc: true})).(peeked.Reader); !ok {
		t.Error("one with TLS holds a buffer")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

type c2 struct{ secured }

func (c2) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }
