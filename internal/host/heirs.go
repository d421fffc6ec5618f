package host

import (
	"context"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// heirPatience is for how long what was put in place behind a border waits: for the child's replica to be opened here, and for
// the hub of another node to ask for the child's feed.
const heirPatience = 10 * time.Second

// What waits for a hub of another node that has not asked yet is bounded more closely, and so is how many of these are
// kept. A hub that finds nothing begins the child's feed with a gap.
const (
	heirQueueItems = 256
	heirQueueBytes = 1 << 20
	heirsMax       = 4096
)

// heirs are the feeds of children that wait for hubs of other nodes to ask for them.
type heirs struct {
	mu    sync.Mutex
	byKey map[heirKey]*feedStream
}

// heirKey names a feed by that of the parent, as its hub has named it, and the child.
type heirKey struct {
	parent uint64
	child  shard.RangeID
}

// put keeps a stream; false: there are too many.
func (hs *heirs) put(k heirKey, st *feedStream) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if len(hs.byKey) >= heirsMax {
		return false
	}
	if hs.byKey == nil {
		hs.byKey = make(map[heirKey]*feedStream)
	}
	hs.byKey[k] = st
	return true
}

// take returns what is kept, which is then the caller's; nil: nothing.
func (hs *heirs) take(k heirKey) *feedStream {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	st := hs.byKey[k]
	delete(hs.byKey, k)
	return st
}

// bequeath lets whoever listens to a range's feed listen to that of its child, before anything can come of it: the caller
// is about to hand out the border and holds the parent's lock. A child that has a replica here already stands elsewhere: it
// came in another way.
func (f *feeds) bequeath(parent *feedFan, item *shard.FeedItem) {
	id := item.Border.Child
	if _, here := f.ranges.get(id); here || !parent.held && len(parent.streams) == 0 {
		return
	}
	child := f.fan(id, true)
	child.mu.Lock()
	defer child.mu.Unlock()
	child.begin = true
	if parent.held && child.to == nil {
		child.to, child.held, child.heir = parent.to, true, true
	}
	var kept []heirKey
	for st := range parent.streams {
		if k := (heirKey{parent: st.name, child: id}); st.name != 0 {
			heir := newFeedStream()
			heir.base, heir.generation = max(item.Closed, 1), item.Border.Generation
			heir.itemsMax, heir.bytesMax = heirQueueItems, heirQueueBytes
			if f.heirs.put(k, heir) {
				child.streams[heir] = struct{}{}
				kept = append(kept, k)
			}
		}
	}
	time.AfterFunc(heirPatience, func() { f.expire(id, kept) })
}

// born says that the replica of a child is about to be opened in the state that its parent had at the border: its feed goes
// on there. Of a child that comes to be here in any other way, or is opened again, the first item says Gap. replicaChanged may
// follow, as for every replica that comes.
func (f *feeds) born(id shard.RangeID) {
	fan := f.fan(id, false)
	if fan == nil {
		return
	}
	fan.mu.Lock()
	defer fan.mu.Unlock()
	fan.begin = false
}

// expire ends what nobody has asked for, and what waits for a replica that was not opened.
func (f *feeds) expire(id shard.RangeID, kept []heirKey) {
	fan := f.fan(id, false)
	for _, k := range kept {
		if st := f.heirs.take(k); st != nil {
			fan.mu.Lock()
			delete(fan.streams, st)
			fan.mu.Unlock()
		}
	}
	if _, here := f.ranges.get(id); !here {
		f.replicaChanged(id)
	}
}

// serveHeir goes on with what was kept for the hub of another node; false: nothing was.
func (f *feeds) serveHeir(ctx context.Context, req *pb.FeedRequest, send func(*pb.FeedFrame) error) (bool, error) {
	id := shard.RangeID(req.RangeId)
	st := f.heirs.take(heirKey{parent: req.Parent, child: id})
	if st == nil {
		return false, nil
	}
	fan := f.fan(id, false)
	defer fan.leave(st)
	fan.mu.Lock()
	st.name = req.Name
	fan.mu.Unlock()
	st.widen()
	if err := send(&pb.FeedFrame{Base: st.base, Closed: st.base, Generation: uint64(st.generation)}); err != nil {
		return true, err
	}
	return true, st.run(ctx, send)
}
