package host

import (
	"time"

	"pontoon/shard"
)

// heirPatience is for how long what was put in place behind a border waits for the child's replica to be opened here.
const heirPatience = 10 * time.Second

// bequeath hands out an item with a border, and lets whoever listens to the range's feed listen to that of its child, before anything can come
// of that. The caller holds the parent's lock. false: nobody is to, and the item is still to be handed out. A child that has a replica here already stands
// elsewhere: it came in another way.
func (f *feeds) bequeath(parent shard.RangeID, fan *feedFan, item *shard.FeedItem) bool {
	id := item.Border.Child
	if _, here := f.ranges.get(id); here || !fan.held && fan.links.Len() == 0 {
		return false
	}
	child := f.fan(id, true)
	child.mu.Lock()
	defer child.mu.Unlock()
	child.begin = true
	if fan.held && child.to == nil {
		child.to, child.held, child.heir = fan.to, true, true
	}
	if fan.held {
		fan.to.Publish(parent, *item)
	}
	fan.links.HandBorder(parent, *item, &child.links)
	time.AfterFunc(heirPatience, func() { f.expire(id) })
	return true
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

// expire ends what waits for a replica that was not opened.
func (f *feeds) expire(id shard.RangeID) {
	if _, here := f.ranges.get(id); !here {
		f.replicaChanged(id)
	}
}
