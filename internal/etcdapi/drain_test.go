package etcdapi_test

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
)

// streamEnd is how a stream has ended, and when.
type streamEnd struct {
	at  time.Time
	err error
}

// TestDrain: streams of watches and keep-alives end evenly over the period, with nothing but Unavailable, while requests go on; none begins meanwhile.
func TestDrain(t *testing.T) {
	f := start(t, nil)
	conn := f.conn(t)
	const streams, period = 200, 500 * time.Millisecond
	ends := make(chan streamEnd, streams)
	for i := range streams {
		recv := keptOpen(f.ctx, t, conn, i%2 == 0)
		go func() {
			err := recv()
			ends <- streamEnd{time.Now(), err}
		}()
	}
	eventually(t, func() bool { return f.api.Streams() == streams })
	began := time.Now()
	f.api.Drain(f.ctx, period)
	took := time.Since(began)
	f.put(t, "after", "the drain")
	if err := keptOpen(f.ctx, t, conn, true)(); status.Code(err) != codes.Unavailable {
		t.Errorf("one that begins ends with %v", err)
	}
	firstHalf := 0
	for range streams {
		e := <-ends
		if status.Code(e.err) != codes.Unavailable {
			t.Errorf("a stream ended with %v", e.err)
		}
		if e.at.Sub(began) < period/2 {
			firstHalf++
		}
	}
	if firstHalf > streams*2/3 { // fewer on a busy machine
		t.Errorf("%d of %d streams ended in the first half of the time", firstHalf, streams)
	}
	if took < period {
		t.Errorf("took %v of %v", took, period)
	}
	if n := f.api.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// keptOpen opens a stream of watches or of keep-alives, and returns what waits for its end.
func keptOpen(ctx context.Context, t *testing.T, conn *grpc.ClientConn, watch bool) func() error {
	t.Helper()
	if watch {
		w, err := etcdserverpb.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return func() error { return second(w.Recv()) }
	}
	k, err := etcdserverpb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return func() error { return second(k.Recv()) }
}

// TestDrainHasAnEnd: what is not due yet ends with the context.
func TestDrainHasAnEnd(t *testing.T) {
	f := start(t, nil)
	conn := f.conn(t)
	for range 50 {
		_ = keptOpen(f.ctx, t, conn, true)
	}
	eventually(t, func() bool { return f.api.Streams() == 50 })
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	f.api.Drain(ctx, time.Hour)
	if n := f.api.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// TestDrainTakesNoLongerThanItMust: a server with few streams stops soon, one without any at once.
func TestDrainTakesNoLongerThanItMust(t *testing.T) {
	for streams, want := range map[int]time.Duration{0: 0, 1: 5 * time.Millisecond, 200: time.Second, 6000: 30 * time.Second, 1_000_000: 30 * time.Second} {
		if got := etcdapi.DrainTime(streams, 30*time.Second); got != want {
			t.Errorf("%d streams take %v, want %v", streams, got, want)
		}
	}
}
