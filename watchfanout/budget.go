package watchfanout

import (
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// entryBytes is what a queue takes for an entry, the events aside.
const entryBytes = 80

// heldBytes is what an event takes as long as it waits for somebody: its data, and as much again for the forms in which it is sent.
func heldBytes(e *shard.Event) int64 { return int64(eventOverheadBytes + 2*e.DataBytes()) }

// budget counts what the queues of all streams of a hub hold, an event that many wait for once. What has ever been queued is its clock, too: how
// far behind a reader is is told by how much has been queued since what waits for it, so that the one who takes nothing is furthest behind, and not the one who
// has begun with what happened long ago.
type budget struct {
	max, low int64 // over max, queues are given up until no more than low is held

	queued, taken atomic.Int64 // bytes, ever
	last          atomic.Int64 // of queued, before the latest was added: that is never given up, so that one event of any size comes through

	// While queues are given up, in steps, each of which every dispatcher takes.
	shedding atomic.Bool
	waits    atomic.Int32 // dispatchers that have still to take the step
	step     int          // owned by whoever has set shedding, or was the last to take a step
	tried    atomic.Int64 // of queued, when this was last done
}

// shedAges are the steps in which queues are given up, by how old what waits may be, in quarters of low. What waits for readers that are left is
// no older, so that after the step with 4 no more is held than low, but for what has come meanwhile; the others are there to be sure.
var shedAges = [...]int64{256, 64, 16, 4, 1, 0}

func (b *budget) init(bytes int) {
	b.max = int64(bytes)
	b.low = b.max / 4 * 3
}

// held is how many bytes wait.
func (b *budget) held() int64 { return max(0, b.queued.Load()-b.taken.Load()) }

// left says that so many have left the queues.
func (b *budget) left(bytes int64) {
	if bytes != 0 {
		b.taken.Add(bytes)
	}
}

// add counts what has been queued, and returns the time.
func (b *budget) add(bytes int64) int64 {
	now := b.queued.Add(bytes)
	b.last.Store(now - bytes)
	return now
}

// begin reports whether queues are to be given up, by the caller: too much is held, and more than when that was last tried.
func (b *budget) begin() bool {
	if b.held() <= b.max || b.queued.Load() == b.tried.Load() || mutate.On(mutate.DeliveryUnbounded) || !b.shedding.CompareAndSwap(false, true) {
		return false
	}
	b.step = 0
	return true
}

// end is called when the last step has been taken.
func (b *budget) end() {
	b.tried.Store(b.queued.Load())
	b.shedding.Store(false)
}

// cutoff is up to when what waits is given up in the step.
func (b *budget) cutoff() int64 {
	now := b.queued.Load()
	if mutate.On(mutate.ShedAnybody) {
		return now
	}
	return now - shedAges[b.step]*(b.low/4)
}

// next reports whether there is to be another step.
func (b *budget) next() bool {
	b.step++
	return b.step < len(shedAges) && b.held() > b.low
}

// release says that an entry leaves its queue, and returns what it has counted for.
func (e *entry) release() int64 {
	if len(e.evs) == 0 {
		return 0
	}
	n := int64(entryBytes)
	for _, ev := range e.evs {
		if ev.Release(1) {
			n += heldBytes(ev)
		}
	}
	return n
}
