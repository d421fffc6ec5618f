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

// broken is a feed that has brought event 2, and whose link has broken. The next link is asked for it.
func broken(t *testing.T) (e *elsewhere, f *feeds, told *[]string, next *fakeLink) {
	e, f, _ = newElsewhere(t)
	told = new([]string)
	f.publish = func(_ shard.RangeID, item shard.FeedItem) {
		var revs []int64
		for _, ev := range item.Events {
			revs = append(revs, ev.Rev())
		}
		gap := ""
		if item.Gap {
			gap = ", gap"
		}
		*told = append(*told, fmt.Sprintf("%v, closed at %d%s", revs, item.Closed, gap))
	}
	f.subscribe(2)
	l := e.link(t)
	l.wants(nil, []uint64{2})
	l.say(attached(2, 1, 1, true), eventsOf(t, 1, 2, 2))
	l.frames <- nil
	next = e.link(t)
	next.wants(nil, []uint64{2})
	*told = nil
	return e, f, told, next
}

func eventsOf(t *testing.T, number uint64, closed int64, revs ...int64) *pb.LinkMessage {
	var evs []*shard.Event
	for _, rev := range revs {
		evs = append(evs, event(rev))
	}
	return itemOf(t, number, closed, &pb.LinkBody{Events: pb.FromEvents(evs), Index: uint64(10 + revs[0])})
}

func attachedAt(closed int64, index uint64) *pb.LinkMessage {
	m := attached(2, 1, closed, true)
	m.Attached.Index = index
	return m
}

// TestABrokenFeedGoesOn: what has passed between two links is read from history, before what the second one brings, which was kept meanwhile. Where nothing has
// passed, nothing is asked.
func TestABrokenFeedGoesOn(t *testing.T) {
	for _, tt := range []struct {
		what    string
		current int64
		here    []int64 // in history
		bring   func(t *testing.T, l *fakeLink)
		want    []string
		asked   bool
	}{
		{"what has passed comes first", 6, []int64{3, 5}, func(t *testing.T, l *fakeLink) {
			l.say(attachedAt(4, 15), eventsOf(t, 1, 4, 5, 7))
		}, []string{"[3 5], closed at 6", "[7], closed at 6"}, true},
		{"nothing has passed", 6, []int64{3, 5}, func(t *testing.T, l *fakeLink) {
			l.say(attachedAt(2, 12), eventsOf(t, 1, 2, 3))
		}, []string{"[3], closed at 2"}, false},
		{"the next source is behind", 6, []int64{3, 5}, func(t *testing.T, l *fakeLink) {
			l.say(attachedAt(1, 11), eventsOf(t, 1, 2, 2), eventsOf(t, 1, 4, 3))
		}, []string{"[3], closed at 4"}, false},
		{"the oracle knows of nothing more", 2, nil, func(t *testing.T, l *fakeLink) {
			l.say(attachedAt(0, 15), eventsOf(t, 1, 4, 3))
		}, []string{"[3], closed at 4"}, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, f, told, l := broken(t)
				e.current.Store(tt.current)
				for _, rev := range tt.here {
					e.here = append(e.here, event(rev))
				}
				was := f.backend.Cluster.Client.OracleQuestions()
				tt.bring(t, l)
				<-time.After(time.Second)
				l.say(marked(6, 1))
				synctest.Wait()
				if got := slices.DeleteFunc(*told, func(s string) bool { return s[:2] == "[]" }); !slices.Equal(got, tt.want) {
					t.Errorf("published %q, want %q", got, tt.want)
				}
				if asked := f.backend.Cluster.Client.OracleQuestions() > was; asked != tt.asked {
					t.Errorf("the oracle was asked: %v", asked)
				}
				if n := f.moves.replays.resumed.Load(); n != 1 || f.moves.active.Load() != 0 || f.moves.kept.Load() != 0 {
					t.Errorf("%d feeds went on; %d are held up, with %d bytes", n, f.moves.active.Load(), f.moves.kept.Load())
				}
				f.close()
			})
		})
	}
}

// TestABrokenFeedBeginsAnew: where history cannot be read, the range changes, the next source breaks or loses something as well, or more comes than is kept, the feed begins anew
// with a gap, and behind it everything comes as it comes.
func TestABrokenFeedBeginsAnew(t *testing.T) {
	for _, tt := range []struct {
		what  string
		err   error
		bring func(t *testing.T, l *fakeLink)
		want  []string
	}{
		{"compacted", &shard.CompactedError{Revision: 5}, func(t *testing.T, l *fakeLink) {
			l.say(eventsOf(t, 1, 6, 7))
		}, []string{"[], closed at 4, gap", "[7], closed at 6"}},
		{"no history", shard.ErrInvalid, func(t *testing.T, l *fakeLink) {
			l.say(eventsOf(t, 1, 6, 7))
		}, []string{"[], closed at 6, gap"}},
		{"another generation", shard.ErrInvalid, func(t *testing.T, l *fakeLink) {
			l.say(&pb.LinkMessage{Attached: &pb.LinkAttached{RangeId: 2, Number: 2, Closed: 6, Generation: 2}})
		}, []string{"[], closed at 4, gap", "[], closed at 6"}},
		{"too much", shard.ErrInvalid, func(t *testing.T, l *fakeLink) {
			large := event(7)
			large.KV.Value = make([]byte, 5<<20)
			l.say(itemOf(t, 1, 6, &pb.LinkBody{Events: pb.FromEvents([]*shard.Event{large})}))
		}, []string{"[], closed at 6, gap", "[7], closed at 6"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, f, told, l := broken(t)
				e.current.Store(6)
				e.hereErr = tt.err
				l.say(attachedAt(4, 15))
				synctest.Wait()
				<-time.After(10 * time.Millisecond)
				tt.bring(t, l)
				for range 2 * replayPatience / time.Second {
					<-time.After(time.Second)
					l.say()
				}
				synctest.Wait()
				if !slices.Equal(*told, tt.want) {
					t.Errorf("published %q, want %q", *told, tt.want)
				}
				r := f.moves.replays
				if r.abandoned.Load() != 1 || r.resumed.Load() != 0 || f.moves.active.Load() != 0 || f.moves.kept.Load() != 0 {
					t.Errorf("%d feeds begin anew, %d go on; %d are held up, with %d bytes", r.abandoned.Load(), r.resumed.Load(), f.moves.active.Load(), f.moves.kept.Load())
				}
				f.close()
			})
		})
	}
}

// TestABrokenFeedBreaksAgain: nothing of what was kept is published, and what has passed since the first link is read when there is a third one. A source that loses
// something itself is read over likewise.
func TestABrokenFeedBreaksAgain(t *testing.T) {
	for what, again := range map[string]func(e *elsewhere, l *fakeLink) *fakeLink{
		"the link breaks": func(e *elsewhere, l *fakeLink) *fakeLink {
			l.frames <- nil
			next := e.link(l.t)
			next.wants(nil, []uint64{2})
			return next
		},
		"the source loses something": func(_ *elsewhere, l *fakeLink) *fakeLink {
			l.say(&pb.LinkMessage{Lost: 1})
			return l
		},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, f, told, l := broken(t)
				e.current.Store(6)
				e.hereErr = shard.ErrInvalid
				l.say(attachedAt(4, 15), eventsOf(t, 1, 4, 7))
				synctest.Wait()
				l = again(e, l)
				synctest.Wait()
				e.hereErr, e.here = nil, []*shard.Event{event(3), event(7)}
				e.current.Store(8)
				begin := attachedAt(8, 20)
				begin.Attached.Number = 2
				l.say(begin, eventsOf(t, 2, 9, 9))
				<-time.After(time.Second)
				synctest.Wait()
				if want := []string{"[3 7], closed at 8", "[9], closed at 9"}; !slices.Equal(*told, want) {
					t.Errorf("published %q, want %q", *told, want)
				}
				if f.moves.active.Load() != 0 || f.moves.kept.Load() != 0 {
					t.Errorf("%d are held up, with %d bytes", f.moves.active.Load(), f.moves.kept.Load())
				}
				f.close()
			})
		})
	}
}

// TestAHeldUpFeedEnds: nothing of it is published any more.
func TestAHeldUpFeedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, told, l := broken(t)
		e.current.Store(6)
		e.hereErr = shard.ErrInvalid
		l.say(attachedAt(4, 15), eventsOf(t, 1, 4, 7))
		f.unsubscribe(2)
		l.wants([]uint64{2}, nil)
		e.hereErr = nil
		<-time.After(time.Second)
		if synctest.Wait(); len(*told) > 0 || f.moves.active.Load() != 0 || f.moves.kept.Load() != 0 {
			t.Errorf("published %q", *told)
		}
		f.close()
	})
}

// TestAllMovesKeepNoMoreThanSoMuch: where all that is kept of all feeds would be too much, one begins anew.
func TestAllMovesKeepNoMoreThanSoMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, told, l := broken(t)
		e.current.Store(6)
		e.hereErr = shard.ErrInvalid
		f.moves.kept.Store(keptMax - 100)
		l.say(attachedAt(4, 15), eventsOf(t, 1, 4, 7))
		synctest.Wait()
		if len(*told) == 0 || f.moves.active.Load() != 0 || f.moves.kept.Load() != keptMax-100 {
			t.Errorf("published %q; %d bytes are kept", *told, f.moves.kept.Load())
		}
		f.close()
	})
}

// TestAFeedGoesOnWhereItsRangeGoes: a replica comes here, gets a snapshot, and leaves again: the feed goes on, and what is missing is read each time.
func TestAFeedGoesOnWhereItsRangeGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, told, l := broken(t)
		is := func(want ...string) {
			t.Helper()
			<-time.After(time.Second)
			synctest.Wait()
			if got := slices.DeleteFunc(*told, func(s string) bool { return s[:2] == "[]" && !strings.HasSuffix(s, "gap") }); !slices.Equal(got, want) {
				t.Errorf("published %q, want %q", got, want)
			}
			*told = nil
		}
		local := func(item shard.FeedItem) {
			item.Generation = 1
			f.Publish(2, item)
		}
		e.here = []*shard.Event{event(3), event(5)}
		e.current.Store(6)
		f.Held(2, true)
		l.wants([]uint64{2}, nil)
		local(shard.FeedItem{Closed: 4, Index: 15, Gap: true})
		local(shard.FeedItem{Closed: 7, Index: 16, Events: []*shard.Event{event(7)}})
		is("[3 5], closed at 6", "[7], closed at 7")

		e.here = []*shard.Event{event(8)}
		e.current.Store(8)
		local(shard.FeedItem{Closed: 8, Index: 20, Gap: true}) // a snapshot
		is("[8], closed at 8")
		local(shard.FeedItem{Closed: 9, Index: 21, Events: []*shard.Event{event(9)}})
		is("[9], closed at 9")

		f.Held(2, false)
		l.wants(nil, []uint64{2})
		begin := attachedAt(9, 21)
		begin.Attached.Number = 2
		l.say(begin, eventsOf(t, 2, 10, 10))
		is("[10], closed at 10")

		f.Held(2, true)
		l.wants([]uint64{2}, nil)
		e.hereErr = shard.ErrInvalid
		local(shard.FeedItem{Closed: 9, Index: 30, Gap: true})
		synctest.Wait()
		f.Held(2, false) // before anything could be read
		l.wants(nil, []uint64{2})
		e.hereErr, e.here = nil, []*shard.Event{event(11)}
		e.current.Store(11)
		begin.Attached.Number, begin.Attached.Index = 3, 31
		l.say(begin)
		is("[11], closed at 11")
		if n := f.moves.replays.abandoned.Load(); n != 0 {
			t.Errorf("%d began anew", n)
		}
		f.close()
	})
}
