package apitest

import (
	"slices"

	"pontoon/internal/etcdapi"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// stream is one client's watches. Everything in it is guarded by the store's lock.
type stream struct {
	store   *Store
	notify  func()
	watches map[int64]watchfanout.WatchRequest
	queue   []watchfanout.Delivery
}

// NewStream opens a watch stream.
func (s *Store) NewStream(o watchfanout.StreamOptions) etcdapi.WatchStream {
	st := &stream{store: s, notify: o.Notify, watches: map[int64]watchfanout.WatchRequest{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	return st
}

// publish hands the events of one revision to all streams.
func (s *Store) publish(events []*shard.Event) {
	s.events = append(s.events, events...)
	for st := range s.streams {
		for id, r := range st.watches {
			if r.Start <= s.rev {
				st.offer(id, r, events)
			}
		}
	}
}

func (st *stream) offer(id int64, r watchfanout.WatchRequest, events []*shard.Event) {
	var mine []*shard.Event
	for _, e := range events {
		if r.Span.Contains(e.KV.Key) && e.Rev() >= r.Start && (!e.Delete || !r.NoDelete) && (e.Delete || !r.NoPut) {
			mine = append(mine, e)
		}
	}
	if len(mine) > 0 {
		st.push(watchfanout.Delivery{ID: id, PrevKV: r.PrevKV, Tag: r.Tag, Batch: watchfanout.Batch{Events: mine, Revision: st.store.rev}})
	}
}

func (st *stream) push(d watchfanout.Delivery) {
	st.queue = append(st.queue, d)
	st.notify()
}

// Watch implements etcdapi.WatchStream.
func (st *stream) Watch(r watchfanout.WatchRequest) error {
	if err := st.store.fail("Watch"); err != nil {
		return err
	}
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	if _, ok := st.watches[r.ID]; ok {
		return watchfanout.ErrWatcherExists
	}
	if r.Start < st.store.compact {
		st.push(watchfanout.Delivery{ID: r.ID, Batch: watchfanout.Batch{CompactRevision: st.store.compact}})
		return nil
	}
	st.watches[r.ID] = r
	st.offer(r.ID, r, st.store.events)
	return nil
}

// Cancel implements etcdapi.WatchStream.
func (st *stream) Cancel(id int64) bool {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	_, ok := st.watches[id]
	delete(st.watches, id)
	st.queue = slices.DeleteFunc(st.queue, func(d watchfanout.Delivery) bool { return d.ID == id })
	return ok
}

// Spans implements etcdapi.WatchStream.
func (st *stream) Spans() []shard.Span {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	var spans []shard.Span
	for _, r := range st.watches {
		spans = append(spans, r.Span)
	}
	return spans
}

// Watched implements etcdapi.WatchStream.
func (st *stream) Watched() map[int64]shard.Span {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	out := map[int64]shard.Span{}
	for id, r := range st.watches {
		out[id] = r.Span
	}
	return out
}

// Poll implements etcdapi.WatchStream.
func (st *stream) Poll(dst []watchfanout.Delivery, limit int) []watchfanout.Delivery {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	n := min(limit, len(st.queue))
	dst = append(dst, st.queue[:n]...)
	st.queue = st.queue[n:]
	return dst
}

// RequestProgress implements etcdapi.WatchStream. Everything up to the store's revision has
// been queued already.
func (st *stream) RequestProgress(int64) {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	st.push(watchfanout.Delivery{ID: watchfanout.StreamWide, Batch: watchfanout.Batch{Revision: st.store.rev}})
}

// RequestWatcherProgress implements etcdapi.WatchStream.
func (st *stream) RequestWatcherProgress(id, _ int64) {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	st.push(watchfanout.Delivery{ID: id, Batch: watchfanout.Batch{Revision: st.store.rev}})
}

// Close implements etcdapi.WatchStream.
func (st *stream) Close() {
	st.store.mu.Lock()
	defer st.store.mu.Unlock()
	delete(st.store.streams, st)
}

// Streams counts the open watch streams, and their watches.
func (s *Store) Streams() (streams, watches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		watches += len(st.watches)
	}
	return len(s.streams), watches
}

// SetLeader says whether there is a leader.
func (s *Store) SetLeader(there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = there
}

// HasLeader implements etcdapi.Leadership.
func (s *Store) HasLeader([]shard.Span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}
