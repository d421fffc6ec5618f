package host

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pontoon/shard"
)

// TestAnUrgentRangeGoesFirst counts the steps of other ranges between two steps of one that somebody waits for,
// and sees that the others come to theirs all the same.
func TestAnUrgentRangeGoesFirst(t *testing.T) {
	const others, waitedFor = 1000, shard.RangeID(5000)
	q, now := newMaintenanceQueue(), time.Time{}
	for id := range shard.RangeID(others) {
		q.Touch(id + 1)
	}
	q.Touch(waitedFor) // it was the last of all
	q.TouchUrgent(waitedFor)
	between, urgent, seen := 0, 0, map[shard.RangeID]int{}
	for len(seen) < others {
		id, ok := q.Next(now)
		switch {
		case !ok:
			t.Fatalf("nothing is due after %d of %d others", len(seen), others)
		case id != waitedFor:
			between++
			seen[id]++
		default:
			if urgent++; between > 1 || urgent == 1 && between > 0 {
				t.Fatalf("%d others before urgent step %d", between, urgent)
			}
			between = 0
			q.TouchUrgent(waitedFor) // there is more to do
		}
	}
	if urgent > (others+1)*urgentRun {
		t.Errorf("%d urgent steps for %d others: they starve", urgent, others)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%v was stepped %d times", id, n)
		}
	}
}

// TestLaterIsNotNow: what is to be done later becomes due in time, as urgent as it was, and at once if it is touched.
func TestLaterIsNotNow(t *testing.T) {
	q, now := newMaintenanceQueue(), time.Time{}.Add(time.Hour)
	drain := func() (ids []shard.RangeID) {
		for id, ok := q.Next(now); ok; id, ok = q.Next(now) {
			ids = append(ids, id)
		}
		return ids
	}
	want := func(what string, want ...shard.RangeID) {
		t.Helper()
		if n := q.Due(now); n != len(want) {
			t.Errorf("%s: %d due, want %d", what, n, len(want))
		}
		if got := drain(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	q.TouchLater(1, now.Add(time.Second), false)
	q.TouchLater(2, now.Add(2*time.Second), true)
	q.TouchLater(3, now.Add(3*time.Second), false)
	q.TouchLater(4, now.Add(3*time.Second), false)
	q.TouchLater(1, now.Add(4*time.Second), true) // it is there already
	want("too early")
	if at, ok := q.NextDue(); !ok || !at.Equal(now.Add(time.Second)) {
		t.Errorf("the next is due at %v, %v", at, ok)
	}
	q.Touch(3)
	q.Touch(2) // no longer later, and not urgent
	want("touched", 3, 2)
	q.TouchLater(2, now.Add(3*time.Second), true)
	q.TouchUrgent(4)
	q.Touch(4)
	q.Touch(5)
	want("urgent", 4, 5)
	now = now.Add(time.Second)
	want("the first", 1)
	q.Touch(6)
	now = now.Add(2 * time.Second)
	want("an urgent one whose time has come", 2, 6)
	if at, ok := q.NextDue(); ok {
		t.Errorf("something is due at %v", at)
	}
	if q.Urgent() || len(q.byID) != 0 {
		t.Errorf("urgent: %v, %d are left", q.Urgent(), len(q.byID))
	}
}

// TestEachRangeWaitsOnce: however often and in whatever way ranges are touched, each comes once, and none is lost.
func TestEachRangeWaitsOnce(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	q, now, waits := newMaintenanceQueue(), time.Time{}, map[shard.RangeID]bool{}
	for range 20_000 {
		id := shard.RangeID(rnd.IntN(40))
		switch rnd.IntN(5) {
		case 0:
			q.Touch(id)
			waits[id] = true
		case 1:
			q.TouchUrgent(id)
			waits[id] = true
		case 2:
			q.TouchLater(id, now.Add(5), rnd.IntN(2) == 0)
			waits[id] = true
		case 3:
			now = now.Add(1)
		default:
			if id, ok := q.Next(now); ok && !waits[id] {
				t.Fatalf("%v came without having been touched", id)
			} else if ok {
				delete(waits, id)
			}
		}
		if n := q.urgent.len + q.due.len + q.later.len; n != len(waits) || len(q.byID) != n {
			t.Fatalf("%d in the lists and %d ranges, want %d", n, len(q.byID), len(waits))
		}
	}
	now = now.Add(5)
	for id, ok := q.Next(now); ok; id, ok = q.Next(now) {
		delete(waits, id)
	}
	if len(waits) > 0 {
		t.Errorf("%d are lost", len(waits))
	}
}

// TestAPauseEndsWhenSomebodyWaits.
func TestAPauseEndsWhenSomebodyWaits(t *testing.T) {
	s := newScheduler(slog.New(slog.DiscardHandler))
	s.touch(1, true)
	if id, ok := s.next(); !ok || id != 1 { // its signal is still there, and ends no pause
		t.Fatal(id, ok)
	}
	over := make(chan struct{})
	go func() {
		s.pause(t.Context(), time.Hour)
		close(over)
	}()
	s.touch(2, false)
	s.touch(3, true)
	select {
	case <-over:
	case <-time.After(waitMax):
		t.Fatal("it goes on")
	}
	if n := s.due(t.Context()); n != 2 {
		t.Errorf("%d are due", n)
	}
	if id, ok := s.next(); !ok || id != 3 {
		t.Errorf("%v comes first, %v", id, ok)
	}
}

// TestUrgentRangesAreSharedOut: each of several goroutines gets one of what has come at once.
func TestUrgentRangesAreSharedOut(t *testing.T) {
	s := newScheduler(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ids, ended, begun := make(chan shard.RangeID), make(chan bool, urgentAtOnce), make(chan struct{})
	for range urgentAtOnce { // each takes one, and holds on to it
		go func() {
			<-begun
			id, ok := s.nextUrgent(ctx)
			if ok {
				ids <- id
			}
			ended <- ok
		}()
	}
	s.touch(9, false)
	close(begun)
	for id := range shard.RangeID(urgentAtOnce - 1) {
		s.touch(id+1, true)
	}
	got := map[shard.RangeID]bool{}
	for range urgentAtOnce - 1 {
		select {
		case id := <-ids:
			got[id] = true
		case <-time.After(waitMax):
			t.Fatalf("only %v", got)
		}
	}
	if got[9] || len(got) != urgentAtOnce-1 {
		t.Errorf("taken: %v", got)
	}
	cancel()
	taken := 0
	for range urgentAtOnce {
		if <-ended {
			taken++
		}
	}
	if taken != urgentAtOnce-1 {
		t.Errorf("%d of the goroutines have had something", taken)
	}
}
