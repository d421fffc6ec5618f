package watchfanout

import (
	"context"

	"pontoon/shard"
)

// Hub is the fan-out of one node.
type Hub struct{}

// NewHub starts a hub; Close stops it.
func NewHub(cfg Config) *Hub { return &Hub{} }

// Close stops the hub's goroutines and waits for them. Streams deliver nothing more.
func (h *Hub) Close() {}

// Publish hands the next item of a range's feed to the hub: per range from one goroutine at a time. It never blocks.
func (h *Hub) Publish(id shard.RangeID, item Item) {}

// MapChanged tells the hub that Config.Map has a newer version.
func (h *Hub) MapChanged() {}

// Stats returns the hub's counters.
func (h *Hub) Stats() Stats { return Stats{} }

// NewStream opens a stream: a group of watchers that one goroutine reads.
func (h *Hub) NewStream(o StreamOptions) *Stream { return &Stream{} }

// Watch opens a watcher of its own.
func (h *Hub) Watch(ctx context.Context, r WatchRequest) (*Watcher, error) { return nil, shard.ErrUnimplemented }

// Stream groups watchers whose deliveries one goroutine reads: wait for Ready, then Poll until it returns nothing.
type Stream struct{}

// Watch adds a watcher. Its deliveries may be polled from now on.
func (s *Stream) Watch(r WatchRequest) error { return shard.ErrUnimplemented }

// Cancel removes a watcher: once it returns, Poll delivers nothing of it any more. It reports whether there was one.
func (s *Stream) Cancel(id int64) bool { return false }

// Ready receives when there may be something to Poll.
func (s *Stream) Ready() <-chan struct{} { return nil }

// Poll appends up to limit deliveries to dst, in order per watcher.
func (s *Stream) Poll(dst []Delivery, limit int) []Delivery { return dst }

// RequestProgress asks for a marker (ID StreamWide, Revision >= rev) as soon as every watcher
// of the stream has everything at or below rev. rev must not be above the current revision. Several requests may be answered by one
// marker. A watcher that starts in the future holds the marker back until then.
func (s *Stream) RequestProgress(rev int64) {}

// RequestWatcherProgress is the same for one watcher; the marker carries its ID.
func (s *Stream) RequestWatcherProgress(id, rev int64) {}

// Progress returns the revision at or below which everything was polled, over all watchers
// (0 without watchers), and whether all of them are on the live path.
func (s *Stream) Progress() (rev int64, synced bool) { return 0, false }

// Close removes all watchers.
func (s *Stream) Close() {}

// Watcher is a stream of one watcher.
type Watcher struct{}

// Next returns the next batch. After a batch with CompactRevision it returns shard.ErrStopped.
func (w *Watcher) Next(ctx context.Context) (Batch, error) { return Batch{}, shard.ErrUnimplemented }

// RequestProgress asks for a batch without events with Revision >= rev.
func (w *Watcher) RequestProgress(rev int64) {}

// Progress returns the revision at or below which Next has handed everything out.
func (w *Watcher) Progress() int64 { return 0 }

// Close ends the watcher.
func (w *Watcher) Close() {}
