package host

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"pontoon/shard"
)

// TestAReplicaWhoseDiskWasFull: its store writes nothing any more. It is opened again, has what was acknowledged, and takes writes.
func TestAReplicaWhoseDiskWasFull(t *testing.T) {
	h, err := Open(oneHost(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	r := runHost(h)
	defer r.stop(t)
	r.join(t)
	r.swap(t, "k", "0")
	const id = shard.FirstRangeID + 1
	why := fmt.Errorf("flush: %w", syscall.ENOSPC)
	for i, stopped := range []bool{false, true} { // by its maintenance, or by the group, which has stopped
		old, ok := r.ranges.get(id)
		if !ok {
			t.Fatal("the range is not here")
		}
		if stopped {
			if err := r.ranges.host.StopGroup(id, func() {}); err != nil {
				t.Fatal(err)
			}
			r.groupFailed(id, why)
		} else {
			r.ranges.repairs.full(id, why, false)
		}
		ctx, cancel := context.WithTimeout(t.Context(), waitMax)
		err := r.ranges.leaders.until(ctx, func() bool {
			rep, ok := r.ranges.get(id)
			st, led := r.ranges.host.Status(id)
			return ok && rep != old && led && st.Leader != 0
		})
		cancel()
		if err != nil {
			t.Fatalf("it is not opened again: %v", err)
		}
		if got := r.swap(t, "k", fmt.Sprint(i+1)); got != fmt.Sprint(i) {
			t.Errorf("%q is there, %d was acknowledged", got, i)
		}
	}
}
