package front

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func keyed(key string, rev int64) *shard.Event {
	return &shard.Event{KV: shard.KeyValue{Key: []byte(key), ModRevision: rev}}
}

// told notes what is published of a feed.
func tell(told *[]string) func(shard.RangeID, shard.FeedItem) {
	return func(_ shard.RangeID, item shard.FeedItem) {
		s := ""
		for _, e := range item.Events {
			s += fmt.Sprintf("%s%d ", e.KV.Key, e.Rev())
		}
		if s += fmt.Sprintf("c%d", item.Closed); item.Gap {
			s += " gap"
		}
		if c := item.Cover; c != nil {
			s += fmt.Sprintf(" of %v from %d", c.Spans, min(c.From, 999))
		}
		*told = append(*told, s)
	}
}

// answers says an attachment to the last subscription that was asked for.
func (l *fakeLink) answers(id, number uint64, closed int64, index uint64) {
	l.t.Helper()
	req := <-l.asked
	if len(req.Subscribe) != 1 || len(req.Spans) != 1 {
		l.t.Fatalf("asked %v", req)
	}
	m := attached(id, number, closed, true)
	m.Attached.Index, m.Attached.Serial = index, req.Spans[0].Serial
	l.say(m)
}

// TestAFeedIsWidened: a feed is of what is watched; where more is, it is subscribed to anew, goes on without a gap, and says from where on it brings what is new; and after some
// times it brings every key.
func TestAFeedIsWidened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		told := new([]string)
		f.publish = tell(told)
		spans := []shard.Span{shard.Point([]byte("b"))}
		f.narrow.wanted = func(shard.RangeID) []shard.Span { return spans }
		f.subscribe(2)
		l := e.link(t)
		l.answers(2, 1, 1, 10)
		l.say(itemOf(t, 1, 3, &pb.LinkBody{Events: pb.FromEvents([]*shard.Event{keyed("b", 3)}), Index: 12}))
		f.narrow.widen(2)
		synctest.Wait()
		if len(l.asked) > 0 || f.narrow.narrow() != 1 {
			t.Errorf("asked for %v, which comes", <-l.asked)
		}
		e.current.Store(7)
		e.here = []*shard.Event{keyed("b", 5)}
		spans = shard.JoinSpans(spans, shard.Point([]byte("c")))
		f.narrow.widen(2)
		l.answers(2, 2, 6, 12)
		l.say(itemOf(t, 2, 8, &pb.LinkBody{Events: pb.FromEvents([]*shard.Event{keyed("c", 6), keyed("c", 8)}), Index: 15}))
		<-time.After(time.Second)
		synctest.Wait()
		want := []string{
			"c1 gap of [[\"b\",\"b\\x00\")] from 999", "b3 c3 of [[\"b\",\"b\\x00\")] from 999", "b5 c7 of [[\"b\",\"b\\x00\")] from 999",
			"c8 c8 of [[\"b\",\"b\\x00\") [\"c\",\"c\\x00\")] from 7",
		}
		if !slices.Equal(*told, want) {
			t.Errorf("published\n%s\nwant\n%s", strings.Join(*told, "\n"), strings.Join(want, "\n"))
		}
		for i := range uint64(widenMax) {
			spans = shard.JoinSpans(spans, shard.Point([]byte{'d' + byte(2*i)}))
			f.narrow.widen(2)
			if i+2 <= widenMax {
				l.answers(2, 3+i, 8, 15)
			} else if req := <-l.asked; len(req.Spans) != 1 || len(req.Spans[0].Spans) != 0 {
				t.Errorf("asked %v, want all", req)
			} else {
				m := attached(2, 9, 8, true)
				m.Attached.Serial = req.Spans[0].Serial
				l.say(m)
			}
			<-time.After(time.Second)
			synctest.Wait()
		}
		if last := (*told)[len(*told)-1]; !strings.Contains(last, "of [[\"\",+inf)] from ") || strings.Contains(last, "gap") {
			t.Errorf("in the end: %s", last)
		}
		if n := f.narrow.widened.Load(); n != widenMax+1 || f.narrow.narrow() != 0 || f.moves.replays.abandoned.Load() != 0 {
			t.Errorf("widened %d times; %d are narrow, %d have begun anew", n, f.narrow.narrow(), f.moves.replays.abandoned.Load())
		}
		f.close()
	})
}

// TestTeeOfANarrowFeed: who needs every key has nothing of a feed that does not bring all, and has it brought; it begins for him when it does.
func TestTeeOfANarrowFeed(t *testing.T) {
	hub, mirrors, wide := new([]string), new([]string), 0
	te := &tee{ranges: map[shard.RangeID]*teed{}, open: func(shard.RangeID) {}, close: func(shard.RangeID) {}, widen: func(shard.RangeID) { wide++ }}
	te.to[0], te.to[1] = tell(hub), tell(mirrors)
	te.subscribe(2, ofHub)
	if !te.onlyHub(2) {
		t.Error("it is to bring every key for the hub alone")
	}
	cover := &shard.Cover{Spans: []shard.Span{shard.Point([]byte("b"))}}
	te.publish(2, shard.FeedItem{Closed: 1, Gap: true, Cover: cover})
	te.subscribe(2, ofMirrors)
	if wide != 1 || te.onlyHub(2) {
		t.Errorf("it was to bring every key %d times", wide)
	}
	te.publish(2, shard.FeedItem{Closed: 2, Cover: cover, Events: []*shard.Event{keyed("b", 2)}})
	te.publish(2, shard.FeedItem{Closed: 3, Cover: &shard.Cover{Spans: []shard.Span{shard.All}, From: 3}})
	te.publish(2, shard.FeedItem{Closed: 4, Events: []*shard.Event{keyed("x", 4)}})
	if want := []string{"c3 gap", "x4 c4"}; !slices.Equal(*mirrors, want) {
		t.Errorf("mirrors had %q, want %q", *mirrors, want)
	}
	if len(*hub) != 4 || strings.Contains((*hub)[2], "gap") {
		t.Errorf("the hub had %q", *hub)
	}
}
