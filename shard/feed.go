package shard

// FeedItem is one step of the feed of a range, from the replica that applied it to whoever watches. Items of
// one range are in order. It may be copied; the events are shared.
type FeedItem struct {
	// Events are whole revisions, ascending. Neither the slice nor the events may be written, by whoever.
	Events []*Event
	// Closed: everything of the range at or below it is in this item or an earlier one.
	// 0 says nothing. It never falls.
	Closed int64
	// Epoch and Index are where the range's log stood. They are for those who pass items on:
	// the order of events rests on revisions alone.
	Epoch Epoch
	Index uint64
	// Generation of the descriptor that Closed speaks for; 0 where the feeder does not know.
	Generation Generation
	// Gap says that events between the previous item and this one may be missing: a snapshot was
	// installed, or the feed was asked to begin anew. Watchers then read history from their own position.
	Gap bool
	// Border is set where the range was cut; nil otherwise. Not to be written.
	Border *Border
	// Cover, unless nil, is which keys the feed brings from this item on: of those that it has brought before, as if nothing had happened; of the others
	// it lacks nothing above Cover.From, and Closed speaks for them from there on. nil: as before, and every key where there is a Gap. Each item of a feed that does not bring every key has one.
	Cover *Cover
}

// Border is where a range was cut: the item that carries it is the last of the old generation, and everything of both parts up to
// its Closed has been published. From the next item on the feed has the keys below At; those from At on are in the
// child's.
type Border struct {
	At         []byte
	Child      RangeID
	Generation Generation // of both parts
}
