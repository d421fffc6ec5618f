package tlsport

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"pontoon/test/certs"
)

// BenchmarkBesideStorm: 900 clients say hello at once, while another one, who is there already, says a line and waits for its echo, again and again.
// round-trips/storm is how often it got one until all were answered, handshakes/worst how many were computed during the longest of them.
func BenchmarkBesideStorm(b *testing.B) {
	for _, places := range []int{max(1, runtime.GOMAXPROCS(0)/2), runtime.GOMAXPROCS(0), 2 * runtime.GOMAXPROCS(0), 1 << 20} {
		b.Run(fmt.Sprintf("places=%d", places), func(b *testing.B) {
			var trips, worst int64
			for b.Loop() {
				n, w := besideStorm(b, places, 900)
				trips, worst = trips+n, max(worst, w)
			}
			b.ReportMetric(float64(trips)/float64(b.N), "round-trips/storm")
			b.ReportMetric(float64(worst), "handshakes/worst")
		})
	}
}

func besideStorm(b *testing.B, places, all int) (trips, worst int64) {
	b.StopTimer()
	w := newWorld(b)
	s := newStorm(b, w, places)
	s.open = newCrowd(2*all, patience, patience)
	var made atomic.Int64
	get := s.e.server.GetCertificate
	s.e.server.GetCertificate = func(hi *tls.ClientHelloInfo) (*tls.Certificate, error) {
		defer made.Add(1)
		return get(hi)
	}
	there := must[*tls.Conn](b)(tls.Dial("tcp", s.addr, w.as(nil)))
	conns := make([]net.Conn, all)
	for i := range conns {
		conns[i] = must[net.Conn](b)(net.Dial("tcp", s.addr))
	}
	made.Store(0)
	b.StartTimer()
	over := make(chan struct{})
	go func() {
		defer close(over)
		for _, c := range conns {
			_, _ = c.Write(s.hello)
		}
	}()
	for last := int64(0); last < int64(all); trips++ {
		if err := echo(there); err != nil {
			b.Fatal(err)
		}
		n := made.Load()
		worst, last = max(worst, n-last), n
	}
	b.StopTimer()
	<-over
	for _, c := range append(conns, there) {
		_ = c.Close()
	}
	_ = s.Close()
	b.StartTimer()
	return trips, worst
}

// BenchmarkHandshake is one after the other, both sides of it. What a session that is resumed would spare is the difference.
func BenchmarkHandshake(b *testing.B) {
	for _, who := range []string{"server", "both"} {
		for _, resumed := range []bool{false, true} {
			b.Run(fmt.Sprintf("certificates=%s/resumed=%v", who, resumed), func(b *testing.B) { handshakes(b, who == "both", resumed) })
		}
	}
}

func handshakes(b *testing.B, both, resumed bool) {
	w := newWorld(b)
	var me *certs.Pair
	if both {
		w.info.TrustedCAFile, me = w.path("ca.pem"), w.issue(b, certs.Options{CN: "me"})
	}
	s := newStorm(b, w, 1)
	cfg := w.as(me)
	if resumed {
		s.e.server.SessionTicketsDisabled = false
		s.e.server.SetSessionTicketKeys([][32]byte{{1}})
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	n := 0
	for b.Loop() {
		c := must[*tls.Conn](b)(tls.Dial("tcp", s.addr, cfg))
		_ = c.SetDeadline(time.Now().Add(patience))
		if err := echo(c); err != nil { // it has the ticket then
			b.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			n++
		}
		_ = c.Close()
	}
	if resumed != (n >= b.N-1 && n > 0) && b.N > 1 {
		b.Errorf("%d of %d were resumed", n, b.N)
	}
}
