package watchfanout

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"pontoon/shard"
)

// History reads a range's stored changes for watchers that are behind the live feed.
type History interface {
	// Read returns the changes of the spans (sorted, disjoint, inside the range) with
	// from <= revision <= to, in revision order, never part of a revision, about maxBytes of
	// them, with Prev filled where it is known. Everything below next is in the answer or in
	// earlier ones: next is to+1 when done, and may be from when nothing can be said yet (the
	// hub asks again after Config.RetryDelay, as after an error). *shard.CompactedError when from is not
	// there any more. It may block; the hub calls it from a bounded number of goroutines.
	Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) (evs []*shard.Event, next int64, err error)
}

// Closer hears that somebody waits for closed revisions.
type Closer interface {
	// AskClose asks that some ranges be closed at rev or above soon; nil: every range. They are the hub's again when it
	// returns. It must not block and should join calls; the hub repeats it while it goes on waiting.
	AskClose(rev int64, ranges []shard.RangeID)
}

// Config is copied by NewHub. Zero limits take the default named at each field.
type Config struct {
	// History and Closer are required.
	History History
	Closer  Closer
	// Current returns a revision at or above every one handed out before the call, and a compaction
	// revision at or above every one acknowledged before it. The hub asks after a feed has begun or had
	// a gap, to know from where on it is whole, and once for watches that start at a revision which
	// their client names: what comes while a question is under way shares the next one. Required.
	Current func(ctx context.Context) (shard.Now, error)
	// Map returns the newest range map known here; nil while there is none. It must not
	// block. Required. Whoever changes it calls MapChanged.
	Map func() *shard.Map
	// AskMap, if set, hears that items of feeds wait for a newer map than Map returns: it is to be fetched. The hub
	// repeats it as long as some wait, several times in a RetryDelay, for a feed may tell of a change before whoever
	// is asked knows of it. Called from one goroutine at a time; it must not block for long.
	AskMap func()
	// Subscribe and Unsubscribe, if set, hear that the first watcher needs a range's feed and
	// that the last one is gone; for ranges with a local feed they may do nothing. Called in
	// order from one goroutine at a time; they must not block for long.
	Subscribe   func(id shard.RangeID)
	Unsubscribe func(id shard.RangeID)
	// Widen, if set, hears that keys of a range are watched that its feed does not bring: it is to bring all that Hub.Wanted names, without a gap if that can be. Until it does,
	// those who watch these keys read history. Called as Subscribe is, whenever that changes.
	Widen func(id shard.RangeID)
	// Logger defaults to one that discards.
	Logger *slog.Logger

	// Dispatchers is how many goroutines match and deliver. A stream belongs to one of them.
	// Default: the processors, at most 4.
	Dispatchers int
	// Readers is how many goroutines read history, for all watchers. Default 4.
	Readers int
	// ReadBytes bounds one step of reading history for one watcher. Default 1 MiB.
	ReadBytes int
	// RetryDelay is the pause after a failed read, and between repeated AskClose. Default 100 ms.
	RetryDelay time.Duration
	// AfterFunc defaults to time.AfterFunc; tests put their own clock here.
	AfterFunc func(d time.Duration, f func())

	// WatchersMax bounds the watchers of the hub; beyond it Watch is refused. Default 1,000,000.
	WatchersMax int
	// DeliveryBytes bounds what waits for the readers of all streams together, an event that many wait for counted once. Beyond it the readers that are
	// furthest behind are taken what waits for them, until a quarter of it is free: their watches go on from where they were read, by what is remembered or by history,
	// once the reader has come again. What came meanwhile may take more for a moment. Default 256 MiB.
	DeliveryBytes int
	// InboxEvents and InboxBytes bound what waits for one dispatcher; beyond them events
	// are dropped there and its watchers read them from history. Defaults 65,536 and 64 MiB.
	InboxEvents, InboxBytes int
	// PendingEvents and PendingBytes bound what one lane holds back while it waits for a
	// range to close; beyond them as above. Defaults 65,536 and 64 MiB.
	PendingEvents, PendingBytes int
	// RecentEvents and RecentBytes bound what one lane remembers of what it has delivered:
	// watchers that are only little behind take it from there. Defaults 4,096 and 1 MiB.
	RecentEvents, RecentBytes int
	// RingBytes bounds what is remembered of all feeds together, for watches that come back, and RingAge for how long; 0 bytes: nothing is. RingAge defaults to
	// 5 min.
	RingBytes int
	RingAge   time.Duration
	// FeedLinger is how long a feed goes on to which nobody listens any more. Default 0: not at all.
	FeedLinger time.Duration
}

// WatchRequest says what a watcher wants.
type WatchRequest struct {
	// ID is the caller's name for the watcher, unique in its stream.
	ID int64
	// Span is what is watched. It is copied.
	Span shard.Span
	// Start is the first revision wanted, above 0. It may lie in the past or the future. A watch that
	// starts below a compaction acknowledged before Watch was called gets no event and ends.
	Start int64
	// FromNow says that Start lies above what Config.Current, or who answers it, named since the
	// watcher's client asked: no compaction that the client may know of reaches it.
	FromNow bool
	// NoPut and NoDelete leave out puts or deletions.
	NoPut, NoDelete bool
	// PrevKV and Tag are carried for the reader: see Delivery. Events have Prev when it is known
	// anyway.
	PrevKV bool
	Tag    uint8
}

// Batch is one step of a watcher. Exactly one of three: events; progress (no events:
// everything at or below Revision was handed out before); the end (CompactRevision > 0: the
// watcher's next revision is gone, nothing follows).
type Batch struct {
	// Events are whole revisions in order. Shared: neither the slice nor the events may be written.
	Events []*shard.Event
	// Revision: everything of this watcher at or below it was handed out, this batch included.
	Revision        int64
	CompactRevision int64
}

// StreamWide is the Delivery.ID of a progress marker that speaks for all watchers of a stream.
const StreamWide int64 = -1

// Delivery is a batch and whose it is.
type Delivery struct {
	ID     int64 // WatchRequest.ID, or StreamWide
	PrevKV bool  // as in the WatchRequest
	Tag    uint8 // as in the WatchRequest
	Batch
}

// StreamOptions bound what a stream keeps for a reader that is slow. A watcher whose bound is
// reached goes to catch-up; the others go on. The bounds are checked before a batch is
// queued, so they are overshot by at most one batch per watcher.
type StreamOptions struct {
	// WatcherEvents and WatcherBytes bound the queue of one watcher. Defaults 1,024 and 1 MiB.
	WatcherEvents, WatcherBytes int
	// StreamEvents and StreamBytes bound all of them together. Defaults 16,384 and 16 MiB, and no more than an eighth of Config.DeliveryBytes, or WatcherBytes.
	StreamEvents, StreamBytes int
	// Group, if set, bounds what several streams keep.
	Group *Group
	// Notify, if set, is called when deliveries have arrived, in place of Ready. It runs on a
	// dispatcher and must not block nor call the hub.
	Notify func()
}

// Stats are counters of a hub. Those named Total only rise.
type Stats struct {
	Streams       int64 // open streams
	Watchers      int64 // watchers
	SlowWatchers  int64 // of these, not on the live path: reading history or waiting to
	Lanes         int64 // sets of ranges that have a merger
	PendingEvents int64 // queued for readers
	EventsTotal   int64 // events queued for watchers, each watcher counted
	DemotedTotal  int64 // times that a watcher fell off the live path
	ReadsTotal    int64 // calls of History
	SparedTotal   int64 // of these, those that were spared by what is remembered of feeds
	RingBytes     int64 // of events that are remembered

	DeliveryBytes, DeliveryBytesMax int64 // that wait for readers, and how many may

	ParkedWatchers int64 // of the slow ones, those that wait for their readers: nothing of them but a position is kept beside what is queued
	ShedTotal      int64 // times that a stream was taken what waited for its reader
	CutTotal       int64 // times that a lane was cut in place, at a border
	LateTotal      int64 // published events at or below what was closed already: dropped
}

// ErrWatcherExists is returned by Watch when the stream has a watcher of that id.
var ErrWatcherExists = errors.New("watchfanout: watcher id in use")
