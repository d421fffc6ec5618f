package front

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/internal/underway"
	"pontoon/shard/router"
)

// TestListsAreLetIn: of a list nothing is known at first; then it is known what it takes. Small ones, single keys and counts wait for nobody.
func TestListsAreLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lists{room: underway.NewLists(20 << 20), who: func(context.Context) string { return "" }}
		large := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("b")}
		bytes := func() (n int64) {
			_, n, _ = l.room.Figures()
			return n
		}
		read := func(takes int64, lasts time.Duration) func(ctx context.Context) (*router.RangeResult, error) {
			return func(ctx context.Context) (*router.RangeResult, error) {
				<-time.After(lasts)
				in, ok := router.MeterOf(ctx)
				if !ok {
					return &router.RangeResult{}, nil
				}
				return &router.RangeResult{}, in.Took(ctx, takes)
			}
		}
		go func() { _, _ = l.read(t.Context(), large, read(3<<20, time.Second)) }()
		synctest.Wait()
		if got := bytes(); got != unknownListBytes {
			t.Errorf("one of which nothing is known counts as %d bytes", got)
		}
		for _, op := range []*pb.RangeOp{
			{Key: []byte("a")}, {Key: []byte("a"), RangeEnd: []byte("b"), CountOnly: true}, {Key: []byte("a"), RangeEnd: []byte("b"), Limit: 10},
		} {
			if _, err := l.read(t.Context(), op, read(1, 0)); err != nil || bytes() != unknownListBytes {
				t.Errorf("%v: %d bytes, %v", op, bytes(), err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		other := &pb.RangeOp{Key: []byte("c"), RangeEnd: []byte("d")}
		if _, err := l.read(ctx, other, read(1, 0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("another one that nobody knows: %v", err)
		}
		<-time.After(2 * time.Second)
		go func() { _, _ = l.read(t.Context(), large, read(3<<20, time.Second)) }()
		synctest.Wait()
		if got := bytes(); got != 3<<20 {
			t.Errorf("one that has taken 3 MiB before counts as %d bytes", got)
		}
		<-time.After(2 * time.Second)
		grown := &pb.RangeOp{Key: []byte("a"), RangeEnd: []byte("b"), Limit: 10}
		if _, err := l.read(t.Context(), grown, read(4<<20, 0)); err != nil {
			t.Error(err)
		}
		if got := l.estimate(grown, listKey(grown)); got != 4<<20 {
			t.Errorf("one that was taken to be small, and was not, counts as %d bytes", got)
		}
		if bytes() != 0 {
			t.Errorf("%d bytes are left", bytes())
		}
	})
}

// TestListSizesAreBounded: what is remembered of lists is bounded, and the latest is remembered.
func TestListSizesAreBounded(t *testing.T) {
	var s listSizes
	for i := range 5 * listSizesMax {
		s.note(fmt.Sprint(i), int64(i))
		if n := len(s.now) + len(s.before); n > 2*listSizesMax {
			t.Fatalf("%d are remembered", n)
		}
		if got, ok := s.of(fmt.Sprint(i)); !ok || got != int64(i) {
			t.Fatalf("of %d: %d, %v", i, got, ok)
		}
	}
	long := string(make([]byte, 2*listSizeKeyMax))
	s.note(long, 1)
	if _, ok := s.of(long); ok {
		t.Error("a key of any length is remembered")
	}
}
