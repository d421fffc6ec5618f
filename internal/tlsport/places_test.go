package tlsport

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// eventually waits for what others are about to do.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestPlaces(t *testing.T) {
	p := newPlaces(2, 100)
	for range 2 {
		if waited, err := p.take(t.Context(), true); waited || err != nil {
			t.Fatalf("waited: %v, %v", waited, err)
		}
	}
	got := make(chan int)
	leaving, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	for i := range 5 {
		ctx := t.Context()
		if i == 2 {
			ctx = leaving
		}
		go func() {
			if _, err := p.take(ctx, true); err != nil {
				gone <- err
				return
			}
			got <- i
		}()
		eventually(t, "one waits", func() bool { return p.waiting() == i+1 })
	}
	leave()
	if err := <-gone; err != context.Canceled {
		t.Error(err)
	}
	for _, want := range []int{0, 1, 3, 4} {
		p.give()
		if i := <-got; i != want {
			t.Errorf("%d, and it is the turn of %d", i, want)
		}
	}
	p.give()
	p.give()
	if p.mu.used != 0 || p.waiting() != 0 {
		t.Errorf("%d are in use, %d wait", p.mu.used, p.waiting())
	}
}

// TestHalfDoneGoFirst: whose client was answered gets the next place, before those that begin, and in order among themselves.
func TestHalfDoneGoFirst(t *testing.T) {
	p := newPlaces(1, 100)
	_, _ = p.take(t.Context(), true)
	got := make(chan int)
	for i := range 4 {
		go func() {
			if _, err := p.take(t.Context(), i < 2); err == nil {
				got <- i
			}
		}()
		eventually(t, "one waits", func() bool { return p.waiting() == i+1 })
	}
	p.roomy(t.Context())
	for _, want := range []int{2, 3, 0, 1} {
		p.give()
		if i := <-got; i != want {
			t.Errorf("%d, and it is the turn of %d", i, want)
		}
	}
	p.give()
}

// TestPlacesAreNotLost: whoever gives up in the moment in which it is its turn leaves its place to another.
func TestPlacesAreNotLost(t *testing.T) {
	p := newPlaces(1, 100)
	for range 50 {
		_, _ = p.take(t.Context(), true)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := p.take(ctx, true); err == nil {
				p.give()
			}
		})
		eventually(t, "one waits", func() bool { return p.waiting() == 1 })
		p.mu.Lock()
		cancel()
		p.giveLocked()
		p.mu.Unlock()
		wg.Wait()
	}
	if p.mu.used != 0 {
		t.Errorf("%d are in use", p.mu.used)
	}
}

// TestWritingHoldsNoPlace: a client that takes nothing does not hold one either.
func TestWritingHoldsNoPlace(t *testing.T) {
	ours, _ := pipe(t)
	c := newCrowd(1, time.Minute, time.Minute)
	m, _ := c.tryEnter(ours)
	p := newPlaces(1, 1)
	s := &shaking{Conn: ours, turn: &turn{ctx: t.Context(), places: p, crowd: c, member: m, socket: ours}}
	if err := s.turn.work(); err != nil {
		t.Fatal(err)
	}
	if s.turn.begun { // whoever sends a hello in parts would go before others
		t.Error("who was not answered has begun")
	}
	done := make(chan error)
	go func() {
		_, err := s.Write([]byte("nobody takes it"))
		done <- err
	}()
	if _, err := p.take(t.Context(), true); err != nil {
		t.Error(err)
	}
	_ = ours.Close()
	<-done
	if !s.turn.begun {
		t.Error("who was answered is to begin")
	}
}

func TestRoomy(t *testing.T) {
	p := newPlaces(1, 2)
	_, _ = p.take(t.Context(), true)
	var wg sync.WaitGroup
	defer wg.Wait()
	take := func() { _, _ = p.take(t.Context(), true) }
	wg.Go(take)
	eventually(t, "one waits", func() bool { return p.waiting() == 1 })
	p.roomy(t.Context())
	wg.Go(take)
	eventually(t, "two wait", func() bool { return p.waiting() == 2 })
	roomy := make(chan bool)
	go func() {
		p.roomy(t.Context())
		close(roomy)
	}()
	eventually(t, "it is waited for", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.roomy != nil
	})
	select {
	case <-roomy:
		t.Error("two wait, and there is room")
	default:
	}
	p.give()
	<-roomy
	p.give()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	p.waitMax = 0
	p.roomy(over) // comes back
}

// hello is what a client says first.
func (w *world) hello(t testing.TB) []byte {
	t.Helper()
	ours, theirs := pipe(t)
	go func() { _ = tls.Client(ours, w.named()).Handshake() }()
	buf := make([]byte, flightBytes)
	n := must[int](t)(theirs.Read(buf))
	return buf[:n]
}

// named is how a client connects that dials by itself.
func (w *world) named() *tls.Config {
	cfg := w.as(nil)
	cfg.ServerName = "127.0.0.1"
	return cfg
}

// storm is an endpoint's listener to which clients come that do not go on behind their hello.
type storm struct {
	*listener
	e     *Endpoint
	hello []byte
	addr  string
}

func newStorm(t testing.TB, w *world, places int) *storm {
	e := w.open(t, Client)
	e.places = newPlaces(places, 1<<20)
	l := e.Listen(must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), false)
	s := &storm{listener: l.(*listener), e: e, hello: w.hello(t)}
	s.addr = s.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	return s
}

// client says hello, and no more.
func (s *storm) client(t *testing.T) net.Conn {
	t.Helper()
	c := must[net.Conn](t)(net.Dial("tcp", s.addr))
	t.Cleanup(func() { _ = c.Close() })
	_ = must[int](t)(c.Write(s.hello))
	return c
}

// held has handshakes stop where they need the processor, until it is closed; and counts them.
type held struct {
	release           chan struct{}
	inside, most, all atomic.Int64
}

func (s *storm) hold() *held {
	h := &held{release: make(chan struct{})}
	get := s.e.server.GetCertificate
	s.e.server.GetCertificate = func(hi *tls.ClientHelloInfo) (*tls.Certificate, error) {
		n := h.inside.Add(1)
		for m := h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
		}
		<-h.release
		h.all.Add(1)
		h.inside.Add(-1)
		return get(hi)
	}
	return h
}

// TestHandshakesAtOnce: of those that need a processor as many go on as there are places, the others wait; who hangs up meanwhile costs nothing more.
func TestHandshakesAtOnce(t *testing.T) {
	const places, all, leavers = 3, 40, 15
	s := newStorm(t, newWorld(t), places)
	h := s.hold()
	for range places { // they are on their way already when the others hang up
		s.client(t)
	}
	eventually(t, "the places are taken", func() bool { return h.inside.Load() == places })
	conns := make([]net.Conn, all-places)
	for i := range conns {
		conns[i] = s.client(t)
	}
	eventually(t, "the others wait", func() bool { return s.e.places.waiting() == all-places })
	for _, c := range conns[:leavers] {
		_ = c.Close()
	}
	close(h.release)
	for _, c := range conns[leavers:] {
		_ = must[int](t)(c.Read(make([]byte, 1))) // it is answered
	}
	eventually(t, "those who have left are counted", func() bool { return s.e.counts.left.Load() == leavers })
	if most, n := h.most.Load(), h.all.Load(); most != places || n != all-leavers {
		t.Errorf("%d at once of %d places, %d in all of %d who were there", most, places, n, all-leavers)
	}
}

// TestStallingOnes: who says hello and then nothing holds no place, and need not give way for others to come through.
func TestStallingOnes(t *testing.T) {
	const stalling = 60
	w := newWorld(t)
	s := newStorm(t, w, 1)
	var conns []net.Conn
	for range stalling {
		conns = append(conns, s.client(t))
	}
	for _, c := range conns {
		_ = must[int](t)(c.Read(make([]byte, 1))) // now it waits for this client
	}
	for range 3 {
		if _, err := say(s.addr, w.as(nil)); err != nil {
			t.Fatal(err)
		}
	}
	s.open.mu.Lock()
	n := s.open.mu.list.Len()
	s.open.mu.Unlock()
	if n != stalling {
		t.Errorf("%d of %d who stall are there yet", n, stalling)
	}
}

// TestSlowHello: a hello that comes byte by byte is one, and needs no place before it is there.
func TestSlowHello(t *testing.T) {
	w := newWorld(t)
	s := newStorm(t, w, 1)
	c := must[net.Conn](t)(net.Dial("tcp", s.addr))
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	tc := tls.Client(&byByte{Conn: c}, w.named())
	if err := echo(tc); err != nil {
		t.Error(err)
	}
}

// byByte sends each byte alone.
type byByte struct{ net.Conn }

func (b *byByte) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestWhatComesBehind: what a client says in one write with the end of its handshake is not lost.
func TestWhatComesBehind(t *testing.T) {
	w := newWorld(t)
	s := newStorm(t, w, 1)
	c := must[net.Conn](t)(net.Dial("tcp", s.addr))
	defer func() { _ = c.Close() }()
	late := &together{Conn: c}
	tc := tls.Client(late, w.named())
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("x"), 3*flightBytes)
	if _, err := tc.Write(long); err != nil {
		t.Fatal(err)
	}
	if err := late.flush(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(long))
	_ = tc.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(tc, got); err != nil || !bytes.Equal(got, long) {
		t.Errorf("%v, or another text", err)
	}
}

// together sends what is written behind the hello in one piece.
type together struct {
	net.Conn
	hello bool
	rest  []byte
}

func (l *together) Write(p []byte) (int, error) {
	if !l.hello {
		l.hello = true
		return l.Conn.Write(p)
	}
	l.rest = append(l.rest, p...)
	return len(p), nil
}

func (l *together) flush() error {
	_, err := l.Conn.Write(l.rest)
	return err
}
