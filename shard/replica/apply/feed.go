package apply

import (
	"math"
	"slices"

	"pontoon/shard"
)

// heldMax and heldBytesMax bound the events that a feed holds back for a prepared transaction. Beyond them the
// feed drops the events and reports a gap when it goes on. The store still has them.
const (
	heldMax      = 1 << 16
	heldBytesMax = 32 << 20
)

// Feed orders the events of a range by revision and holds back what lies above the effective floor
// of a prepared transaction (hazard 3).
type Feed struct {
	held  []*shard.Event
	bytes int // of their keys and values
	gap   bool
}

// NewFeed starts a feed at a state that was read from a file. Events that a prepared transaction held back
// before are only in the store, so the feed starts with a gap there.
func NewFeed(m *Machine) Feed { return Feed{gap: m.EffectiveFloor() != math.MaxInt64} }

// Add adds the events of one entry and returns those that may go out, in revision order.
func (f *Feed) Add(events []*shard.Event, floor int64) (out []*shard.Event, gap bool) {
	if len(f.held) == 0 && !f.gap && floor == math.MaxInt64 {
		return events, false
	}
	f.held = append(f.held, events...)
	f.bytes += sizeOf(events)
	slices.SortStableFunc(f.held, (*shard.Event).Compare)
	n := len(f.held)
	if floor != math.MaxInt64 {
		n, _ = slices.BinarySearchFunc(f.held, floor, func(e *shard.Event, floor int64) int {
			if e.KV.ModRevision <= floor {
				return -1
			}
			return 1
		})
	}
	out = slices.Clone(f.held[:n])
	f.bytes -= sizeOf(out)
	f.held = slices.Delete(f.held, 0, n)
	if len(f.held) > heldMax || f.bytes > heldBytesMax {
		f.held, f.bytes, f.gap = nil, 0, true
	}
	gap = f.gap // also where the floor has only risen: what lies below it now may be missing
	f.gap = f.gap && floor != math.MaxInt64
	return out, gap
}

func sizeOf(events []*shard.Event) int {
	n := 0
	for _, e := range events {
		n += e.DataBytes()
	}
	return n
}
