package front

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// moveOf begins the move of a range's feed from node 9, which says that it is about to stop, to node 8.
func moveOf(t *testing.T) (e *elsewhere, f *feeds, told *[]string, from, to *fakeLink) {
	e, f, told = newElsewhere(t)
	f.subscribe(2)
	from = e.link(t)
	from.wants(nil, []uint64{2})
	from.say(attached(2, 1, 1, true))
	e.nodes = []shard.NodeID{9, 8}
	e.changes.Add(1)
	if err := f.backend.Cluster.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	from.frames <- &pb.LinkFrame{Leaving: true}
	to = e.link(t)
	to.wants(nil, []uint64{2})
	if to.node != 8 {
		t.Errorf("moves to node %v", to.node)
	}
	return e, f, told, from, to
}

// TestALeavingSourceIsLeft: the feed of a node that says that it is about to stop comes from another one, without a gap and once, and the node hears that it need not wait.
func TestALeavingSourceIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, told, from, to := moveOf(t)
		body := &pb.LinkBody{Events: pb.FromEvents([]*shard.Event{event(2)})}
		to.say(attached(2, 1, 1, true), itemOf(t, 1, 1, body))
		from.say(itemOf(t, 1, 2, body))
		from.wants([]uint64{2}, nil)
		to.say(marked(3, 1))
		if req := <-from.asked; !req.Stays {
			t.Errorf("told %v", req)
		}
		<-time.After(2 * movePatience)
		synctest.Wait()
		if n := f.moves.moved.Load(); n != 1 || f.moves.active.Load() != 0 {
			t.Errorf("%d feeds moved, %d are moving", n, f.moves.active.Load())
		}
		f.close()
		want := []string{"0 events, closed at 1, when 0 is known", "1 events, closed at 2, when 2 is known", "0 events, closed at 3, when 2 is known"}
		if !slices.Equal(*told, want) {
			t.Errorf("published %q, want %q", *told, want)
		}
	})
}

// TestAMoveThatIsCutShort: the old source breaks meanwhile: the feed is looked for anew, with a gap, and nothing of what was kept is published.
func TestAMoveThatIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, told, from, to := moveOf(t)
		to.say(attached(2, 1, 1, true))
		from.frames <- nil
		to.wants([]uint64{2}, nil)
		to.wants(nil, []uint64{2})
		to.say(attached(2, 2, 5, true))
		<-time.After(2 * replayPatience) // in a generation that the map is past
		f.close()
		want := []string{"0 events, closed at 1, when 0 is known", "0 events, closed at 5, when 1 is known"}
		if got := *told; len(got) != 2 || got[1][:24] != want[1][:24] || f.moves.active.Load() != 0 {
			t.Errorf("published %q, want %q; %d are moving", got, want, f.moves.active.Load())
		}
	})
}

// TestAFeedThatEndsWhileItMoves: nothing comes of it any more, by neither link.
func TestAFeedThatEndsWhileItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f, told, from, to := moveOf(t)
		to.say(attached(2, 1, 1, true))
		f.unsubscribe(2)
		from.wants([]uint64{2}, nil)
		to.wants([]uint64{2}, nil)
		n := len(*told)
		from.say(marked(9, 1))
		to.say(marked(9, 1))
		if f.close(); len(*told) != n || f.moves.active.Load() != 0 {
			t.Errorf("published %q", (*told)[n:])
		}
	})
}

// TestWhoStopsItselfMovesNothing: it says so at once.
func TestWhoStopsItselfMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		e.nodes = []shard.NodeID{9, 8}
		f.subscribe(2)
		l := e.link(t)
		l.wants(nil, []uint64{2})
		l.say(attached(2, 1, 1, true))
		f.moves.retire()
		l.frames <- &pb.LinkFrame{Leaving: true}
		if req := <-l.asked; !req.Stays {
			t.Errorf("told %v", req)
		}
		f.close()
	})
}
