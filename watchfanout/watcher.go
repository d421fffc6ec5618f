package watchfanout

import (
	"context"

	"pontoon/shard"
)

// Watcher is a stream of one watcher. Next is for one goroutine at a time.
type Watcher struct {
	st    *Stream
	id    int64
	stop  func() bool
	ended bool // Next has returned the end
	buf   [1]Delivery
}

// Watch opens a watcher of its own, which ends with ctx or Close.
func (h *Hub) Watch(ctx context.Context, r WatchRequest) (*Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &Watcher{st: h.NewStream(StreamOptions{}), id: r.ID}
	if err := w.st.Watch(r); err != nil {
		w.st.Close()
		return nil, err
	}
	w.stop = context.AfterFunc(ctx, w.st.Close)
	return w, nil
}

// Next waits for the next batch. After one with CompactRevision, and once the watcher or the
// hub is closed, it returns shard.ErrStopped.
func (w *Watcher) Next(ctx context.Context) (Batch, error) {
	for {
		if got := w.st.Poll(w.buf[:0], 1); len(got) > 0 {
			w.ended = got[0].CompactRevision > 0
			return got[0].Batch, nil
		}
		if w.ended || w.st.isClosed() {
			return Batch{}, shard.ErrStopped
		}
		select {
		case <-w.st.wake:
		case <-w.st.h.ctx.Done():
			return Batch{}, shard.ErrStopped
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		}
	}
}

// RequestProgress asks for a batch without events with Revision >= rev, as
// Stream.RequestProgress does.
func (w *Watcher) RequestProgress(rev int64) { w.st.RequestWatcherProgress(w.id, rev) }

// Progress returns the revision at or below which Next has handed everything out.
func (w *Watcher) Progress() int64 {
	rev, _ := w.st.Progress()
	return rev
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.stop()
	w.st.Close()
}

func (s *Stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.closed
}
