package link

import (
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Whole is a feed as it is for those who need every key of its range, however few it brings at times: then they have none of it, and where it brings all again, it
// begins anew for them, with a gap.
type Whole struct{ narrow bool }

// Take takes the next item of the feed. false: it is nothing for them.
func (w *Whole) Take(item shard.FeedItem) (shard.FeedItem, bool) {
	was := w.narrow
	if item.Cover != nil || item.Gap {
		w.narrow = !item.Cover.Whole() && !mutate.On(mutate.NarrowPassed)
	}
	item.Cover = nil
	item.Gap = item.Gap || was
	return item, !w.narrow
}

// Narrow reports whether they have none of it.
func (w *Whole) Narrow() bool { return w.narrow }
