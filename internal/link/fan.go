package link

import (
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Listener is an end of a link that has feeds, to which those of ranges are handed.
type Listener interface {
	// Attach begins a feed with an item that has a gap.
	Attach(id shard.RangeID, begin shard.FeedItem)
	// Publish takes the next item of a feed.
	Publish(id shard.RangeID, it *Item)
	// PublishBorder is Publish for an item with a border, and reports whether the items of the child are to come here, too.
	PublishBorder(id shard.RangeID, it *Item) (inherits bool)
	// End says that the feed is not to be had here any more.
	End(id shard.RangeID)
}

// Fan is who listens to the feed of one range by links: of a range that is held here, and of one of which the feed comes from elsewhere and is passed on, as
// it comes. It keeps the order in which it is called, and is not safe for concurrent use.
type Fan struct {
	head      Head // as of the last item
	listeners []listening
}

// listening is one of a Fan's listeners.
type listening struct {
	to    Listener
	begun bool // else the next item begins the feed there
}

// Head is how far the feed has come here.
func (f *Fan) Head() Head { return f.head }

// Forget says that what is published from here on does not follow what was before.
func (f *Fan) Forget() { f.head = Head{} }

// Len is how many listen.
func (f *Fan) Len() int { return len(f.listeners) }

// Take notes what has been published. Every item must come by, before it is handed out.
func (f *Fan) Take(item *shard.FeedItem) { f.head.Take(item) }

// Hand gives the next item to whoever listens.
func (f *Fan) Hand(id shard.RangeID, item shard.FeedItem) {
	f.hand(id, item, Listener.Publish)
}

// HandBorder is Hand for an item with a border. From here on who listens to the range listens to its child, which is about to begin, from its first item on.
func (f *Fan) HandBorder(id shard.RangeID, item shard.FeedItem, child *Fan) {
	child.head = Behind(&item)
	f.hand(id, item, func(to Listener, id shard.RangeID, it *Item) {
		if to.PublishBorder(id, it) {
			child.put(to, true)
		}
	})
}

func (f *Fan) hand(id shard.RangeID, item shard.FeedItem, publish func(Listener, shard.RangeID, *Item)) {
	if len(f.listeners) == 0 {
		return
	}
	if mutate.On(mutate.LinkGapStays) {
		item.Gap = false
	}
	it := NewItem(item)
	for i := range f.listeners {
		l := &f.listeners[i]
		if l.begun {
			publish(l.to, id, it)
			continue
		}
		begin, _ := f.head.Begin()
		l.to.Attach(id, begin)
		l.begun = true
	}
}

// Listen lets one more listen. false: nothing is known of the feed yet, and whoever has it is to publish an item, which begins it.
func (f *Fan) Listen(id shard.RangeID, to Listener) (known bool) {
	begin, known := f.head.Begin()
	if known {
		to.Attach(id, begin)
	}
	f.put(to, known)
	return known
}

func (f *Fan) put(to Listener, begun bool) {
	if i := f.find(to); i >= 0 {
		f.listeners[i].begun = begun
		return
	}
	f.listeners = append(f.listeners, listening{to, begun})
}

func (f *Fan) find(to Listener) int {
	return slices.IndexFunc(f.listeners, func(l listening) bool { return l.to == to })
}

// Leave lets one listen no more, which it has to know itself. It reports whether it did.
func (f *Fan) Leave(to Listener) (did bool) {
	i := f.find(to)
	if i < 0 {
		return false
	}
	f.listeners = slices.Delete(f.listeners, i, i+1)
	return true
}

// End tells everybody that the feed is not to be had here any more.
func (f *Fan) End(id shard.RangeID) {
	for _, l := range f.listeners {
		l.to.End(id)
	}
	f.listeners = nil
}
