package replica

import (
	"cmp"
	"math"
	"slices"

	"pontoon/mvcc"
)

// heldMax bounds the events that a feed holds back for a prepared transaction. Beyond it they are
// dropped, and the feed says Gap when it goes on: the store has them.
const heldMax = 1 << 16

// feed orders the events of a range by revision and holds back what lies above the effective floor
// of a prepared transaction (hazard 3).
type feed struct {
	held []mvcc.Event
	gap  bool
}

// take adds the events of one entry and returns those that may go out, in revision order.
func (f *feed) take(events []mvcc.Event, floor int64) (out []mvcc.Event, gap bool) {
	if len(f.held) == 0 && !f.gap && floor == math.MaxInt64 {
		return events, false
	}
	f.held = append(f.held, events...)
	slices.SortStableFunc(f.held, func(a, b mvcc.Event) int {
		return cmp.Or(cmp.Compare(a.KV.ModRevision, b.KV.ModRevision), cmp.Compare(a.Sub, b.Sub))
	})
	n := len(f.held)
	if floor != math.MaxInt64 {
		n, _ = slices.BinarySearchFunc(f.held, floor, func(e mvcc.Event, floor int64) int {
			if e.KV.ModRevision <= floor {
				return -1
			}
			return 1
		})
	}
	out = slices.Clone(f.held[:n])
	f.held = slices.Delete(f.held, 0, n)
	if len(f.held) > heldMax {
		f.held, f.gap = nil, true
	}
	if f.gap && floor == math.MaxInt64 {
		gap, f.gap = true, false
	}
	return out, gap
}
