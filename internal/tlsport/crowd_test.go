package tlsport

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

func pipe(t testing.TB) (ours, theirs net.Conn) {
	ours, theirs = net.Pipe()
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
	})
	return ours, theirs
}

func TestCrowd(t *testing.T) {
	c := newCrowd(2, time.Minute, time.Minute)
	begin := time.Now()
	at := func(after time.Duration) { c.now = func() time.Time { return begin.Add(after) } }
	at(0)
	first, other := pipe(t)
	a, _ := c.tryEnter(first)
	second, _ := pipe(t)
	b, _ := c.tryEnter(second)
	third, _ := pipe(t)
	at(time.Second)
	if m, wait := c.tryEnter(third); m != nil || wait != 59*time.Second {
		t.Fatalf("a third one, after %v", wait)
	}
	c.leave(b)
	m, wait := c.tryEnter(third)
	if m == nil {
		t.Fatalf("there is room, after %v", wait)
	}
	fourth, _ := pipe(t)
	at(time.Minute)
	if m, _ := c.tryEnter(fourth); m == nil {
		t.Fatal("the oldest does not give way")
	}
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the oldest lives: %v", err)
	}
	c.leave(a) // late
	if n := c.mu.list.Len(); n != 2 {
		t.Errorf("%d are in it", n)
	}
	c.close()
	if m, wait := c.tryEnter(fourth); m != nil || wait != 0 {
		t.Error("it is closed")
	}
}

// TestCrowdBlamesClients: who waits for us does not give way, however long that takes; who says a little now and then has no more time for it.
func TestCrowdBlamesClients(t *testing.T) {
	c := newCrowd(2, time.Minute, time.Minute)
	begin := time.Now()
	at := func(after time.Duration) { c.now = func() time.Time { return begin.Add(after) } }
	at(0)
	honest, honestSide := pipe(t)
	a, _ := c.tryEnter(honest)
	slow, slowSide := pipe(t)
	b, _ := c.tryEnter(slow)
	at(20 * time.Second)
	c.ourTurn(a)
	c.ourTurn(b)
	next, _ := pipe(t)
	at(time.Hour)
	if m, wait := c.tryEnter(next); m != nil || wait != time.Minute {
		t.Fatalf("somebody gives way who waits for us, or may after %v", wait)
	}
	c.theirTurn(b, false)
	c.theirTurn(b, false) // as well
	at(time.Hour + 39*time.Second)
	if m, wait := c.tryEnter(next); m != nil || wait != time.Second {
		t.Fatalf("what was waited for it before is forgotten: %v", wait)
	}
	at(time.Hour + 40*time.Second)
	if m, _ := c.tryEnter(next); m == nil {
		t.Fatal("nobody gives way")
	}
	if _, err := slowSide.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the slow one lives: %v", err)
	}
	_ = honestSide.SetReadDeadline(time.Now())
	if _, err := honestSide.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("the honest one does not: %v", err)
	}
}

// TestCrowdKeepsTheAnswered: who was answered is waited for for longer, and who was not gives way first.
func TestCrowdKeepsTheAnswered(t *testing.T) {
	c := newCrowd(2, time.Minute, time.Hour)
	begin := time.Now()
	at := func(after time.Duration) { c.now = func() time.Time { return begin.Add(after) } }
	at(0)
	answered, answeredSide := pipe(t)
	a, _ := c.tryEnter(answered)
	c.ourTurn(a)
	c.theirTurn(a, true)
	silent, silentSide := pipe(t)
	at(time.Minute)
	_, _ = c.tryEnter(silent)
	next, _ := pipe(t)
	at(2*time.Minute - time.Second)
	if m, wait := c.tryEnter(next); m != nil || wait != time.Second {
		t.Fatalf("a third one, after %v", wait)
	}
	at(2 * time.Minute)
	b, _ := c.tryEnter(next)
	if _, err := silentSide.Read(make([]byte, 1)); b == nil || err != io.EOF {
		t.Fatalf("the silent one lives: %v", err)
	}
	c.ourTurn(b)
	last, _ := pipe(t)
	at(time.Hour)
	if m, _ := c.tryEnter(last); m == nil {
		t.Fatal("the answered one lives for ever")
	}
	if _, err := answeredSide.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the answered one lives: %v", err)
	}
}

// TestCrowdWaits: one that waits gets the place of one that leaves, and hears of the end.
func TestCrowdWaits(t *testing.T) {
	c := newCrowd(1, time.Hour, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	conn, _ := pipe(t)
	a := c.enter(ctx, conn)
	entered := make(chan *member)
	enter := func() { entered <- c.enter(ctx, conn) }
	go enter()
	c.leave(a)
	if b := <-entered; b == nil {
		t.Fatal("not let in")
	}
	go enter()
	c.close()
	cancel()
	if b := <-entered; b != nil {
		t.Error("let in at the end")
	}
}

// TestSilentOnes: connections that say nothing do not keep others out, and do not live on behind Close.
func TestSilentOnes(t *testing.T) {
	w := newWorld(t)
	l := w.open(t, Client).Listen(must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), false).(*listener)
	l.open = newCrowd(2, 0, 0)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	var silent []net.Conn
	for range 5 {
		c := must[net.Conn](t)(net.Dial("tcp", l.Addr().String()))
		defer func() { _ = c.Close() }()
		silent = append(silent, c)
	}
	go func() { _, _ = say(l.Addr().String(), w.as(nil)) }()
	c := <-accepted
	if c == nil {
		t.Fatal("nobody came in")
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Error(err)
	}
	_, _ = c.Write(buf)
	_ = c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range silent {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(c); isTimeout(err) {
			t.Error("one lives on")
		}
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
