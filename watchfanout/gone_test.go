package watchfanout

import (
	"strings"
	"testing"

	"pontoon/shard"
)

// TestWhoGivesUpOnTheOracleIsForgotten: a watch that was cancelled while the oracle does not answer waits for it no
// more, and a feed that begins anew and anew meanwhile waits once, however long that lasts.
func TestWhoGivesUpOnTheOracleIsForgotten(t *testing.T) {
	const many = 1000
	span := shard.Span{Start: []byte("a"), End: []byte("m")}
	come := func(w *world, s *Stream, id int64) {
		if err := s.Watch(WatchRequest{ID: id, Span: span, Start: 2}); err != nil {
			t.Fatal(err)
		}
		for w.hub.dispatchers[0].round() {
		}
	}
	kept := func(w *world) int {
		w.hub.current.mu.Lock()
		defer w.hub.current.mu.Unlock()
		return len(w.hub.current.mu.feeds) + len(w.hub.current.mu.starts.list)
	}

	t.Run("before the question", func(t *testing.T) {
		w := newWorld(t, nil)
		s := w.hub.NewStream(StreamOptions{})
		come(w, s, 1)
		for id := int64(2); id < many; id++ {
			come(w, s, id)
			s.Cancel(id)
			w.hub.Publish(2, shard.FeedItem{Closed: 1, Gap: true})
		}
		if n := kept(w); n > siftMin+2 {
			t.Errorf("%d wait, of which two have not given up", n)
		}
		if n := len(w.hub.clerk.mu.tasks.list); n != 1 {
			t.Errorf("%d questions are to be asked", n)
		}
	})

	t.Run("behind it", func(t *testing.T) {
		w := newWorld(t, nil)
		w.noOra = true
		s := w.hub.NewStream(StreamOptions{})
		come(w, s, 1)
		for id := int64(2); id < many; id++ {
			come(w, s, id)
			w.hub.Publish(2, shard.FeedItem{Closed: 1, Gap: true})
			w.settle() // it is asked, in vain
			s.Cancel(id)
		}
		w.fire()
		if n := kept(w); n != 2 {
			t.Errorf("%d wait for the next question, want a watch and a feed", n)
		}
		w.noOra, w.current = false, 5
		w.settle()
		if n := kept(w); n != 0 {
			t.Errorf("%d wait after the answer", n)
		}
	})
}

// TestWhoGivesUpOnHistoryIsForgotten: the read of a watch that was cancelled while all readers are busy is neither
// made nor kept.
func TestWhoGivesUpOnHistoryIsForgotten(t *testing.T) {
	const many = 1000
	w := newWorld(t, nil)
	w.hold, w.current = true, 10
	w.hub.Publish(2, shard.FeedItem{Closed: 10})
	s := w.hub.NewStream(StreamOptions{})
	for id := int64(1); id < many; id++ {
		if err := s.Watch(WatchRequest{ID: id, Span: shard.Span{Start: []byte("a"), End: []byte("m")}, Start: 2}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if id == 1 && len(w.hub.readers.mu.tasks.list) != 1 {
			t.Fatal("nothing waits for a reader: the test tests nothing")
		}
		if id > 1 {
			s.Cancel(id)
		}
	}
	if n := len(w.hub.readers.mu.tasks.list); n > siftMin+1 {
		t.Errorf("%d reads wait, one watch does", n)
	}
	w.log, w.hold = nil, false
	w.settle()
	reads := 0
	for _, l := range w.log {
		if strings.HasPrefix(l, "reads") {
			reads++
		}
	}
	if reads != 1 {
		t.Errorf("%d reads of history for one watch", reads)
	}
}

// TestWhoGivesUpOnItsReaderIsForgotten: a stream that nobody reads keeps no watch that was cancelled.
func TestWhoGivesUpOnItsReaderIsForgotten(t *testing.T) {
	w := newWorld(t, nil)
	w.current = 10
	for rev := int64(2); rev <= 10; rev++ {
		w.store([]*shard.Event{{KV: shard.KeyValue{Key: []byte("b"), ModRevision: rev}}})
	}
	w.hub.Publish(2, shard.FeedItem{Closed: 10})
	s := w.hub.NewStream(StreamOptions{StreamEvents: 1})
	for id := int64(1); id < 10; id++ {
		if err := s.Watch(WatchRequest{ID: id, Span: shard.Span{Start: []byte("a"), End: []byte("m")}, Start: 2}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if id == 1 {
			continue
		}
		if len(s.mu.parked) == 0 {
			t.Fatal("nobody waits for the reader: the test tests nothing")
		}
		s.Cancel(id)
		if n := len(s.mu.parked); n > 1 {
			t.Fatalf("%d wait for the reader, one watch is there", n)
		}
	}
}

// TestWhoGivesUpOnALaneIsForgotten: a watch that was cancelled while a range has not said anything yet waits for it
// no more, though others do.
func TestWhoGivesUpOnALaneIsForgotten(t *testing.T) {
	const many = 1000
	w := newWorld(t, nil)
	s := w.hub.NewStream(StreamOptions{})
	for id := int64(1); id < many; id++ {
		if err := s.Watch(WatchRequest{ID: id, Span: shard.Span{Start: []byte("a"), End: []byte("m")}, Start: 2, FromNow: true}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		if id > 1 {
			s.Cancel(id)
		}
	}
	w.settle()
	waiting := 0
	for _, l := range w.hub.dispatchers[0].lanes.byRanges {
		waiting += len(l.waiting.list)
	}
	if waiting == 0 || waiting > siftMin+1 {
		t.Errorf("%d wait for the range, one watch does", waiting)
	}
}
