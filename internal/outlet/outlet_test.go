package outlet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/link/linktest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// board has the feeds of some ranges, as a node has them that holds those.
type board struct {
	t *testing.T

	mu   sync.Mutex
	fans map[shard.RangeID]*link.Fan
	over []*Outlet // that listen to nothing any more
}

func newBoard(t *testing.T, ids ...shard.RangeID) *board {
	b := &board{t: t, fans: map[shard.RangeID]*link.Fan{}}
	for _, id := range ids {
		b.fans[id] = new(link.Fan)
		b.publish(id, shard.FeedItem{Closed: 1, Generation: 1})
	}
	return b
}

// Attach implements Feeds.
func (b *board) Attach(o *Outlet, id shard.RangeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if fan := b.fans[id]; fan != nil {
		fan.Listen(id, o)
		return
	}
	o.End(id)
}

// Detach implements Feeds.
func (b *board) Detach(o *Outlet, id shard.RangeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if fan := b.fans[id]; fan != nil {
		fan.Leave(o)
	}
	o.Detach(id)
}

// Forget implements Feeds.
func (b *board) Forget(o *Outlet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !o.IsOver() {
		b.t.Error("a link is forgotten that may have children follow still")
	}
	for _, fan := range b.fans {
		fan.Leave(o)
	}
	b.over = append(b.over, o)
}

// publish hands out the next item of a range; with a border its child is had from here on, too.
func (b *board) publish(id shard.RangeID, item shard.FeedItem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fan := b.fans[id]
	fan.Take(&item)
	if item.Border == nil {
		fan.Hand(id, item)
		return
	}
	child := new(link.Fan)
	b.fans[item.Border.Child] = child
	fan.HandBorder(id, item, child)
}

// leaves says that a range's feed is not to be had here any more.
func (b *board) leaves(id shard.RangeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fans[id].End(id)
	delete(b.fans, id)
}

// wantListening checks how many links listen to a range.
func (b *board) wantListening(id shard.RangeID, want int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := b.fans[id].Len(); got != want {
		b.t.Errorf("%d links listen to %v, want %d", got, id, want)
	}
}

// event is one at a revision, with a value of some bytes; of what came before all is closed.
func event(rev int64, bytes int) shard.FeedItem {
	return shard.FeedItem{Closed: rev - 1, Generation: 1, Events: []*shard.Event{{KV: shard.KeyValue{Key: []byte("k"), Value: make([]byte, bytes), ModRevision: rev}}}}
}

func closed(rev int64) shard.FeedItem { return shard.FeedItem{Closed: rev, Generation: 1} }

// far is the other end of a link, and what came there.
type far struct {
	*linktest.End
	*linktest.Told
}

func serve(t *testing.T, s *Outlets) (l far, end func() error) {
	t.Helper()
	l.Told = new(linktest.Told)
	l.End, end = linktest.Serve(t, s.Serve, l.Told)
	return l, end
}

func wantGone(t *testing.T, what string, l far, want ...shard.RangeID) {
	t.Helper()
	synctest.Wait()
	if got := l.Gone(); !slices.Equal(got, want) {
		t.Errorf("%s: to be had elsewhere are %v, want %v", what, got, want)
	}
}

// TestFeedsOfRanges: whoever wants a range hears how far it is, with a gap, then each item of it, gaps too, and marks behind them; of other ranges it hears
// nothing, nor of one that it has left, and what is not here, or is not here any more, is to be had elsewhere.
func TestFeedsOfRanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2, 3)
		s := New(b, link.Limits{}, nil)
		one, _ := serve(t, s)
		two, _ := serve(t, s)
		one.End.Want(2, 3, 9)
		one.Told.Want(t, "begun", "2: 0 events, gap true, border false, c1", "3: 0 events, gap true, border false, c1")
		wantGone(t, "one that is not here", one, 9)
		two.End.Want(3)
		two.Told.Want(t, "begun later", "3: 0 events, gap true, border false, c1")
		one.Told.Want(t, "another one begins")
		b.publish(2, event(5, 1))
		one.Told.Want(t, "an event", "2: 1 events, gap false, border false, c4")
		b.publish(2, closed(7))
		b.publish(3, closed(7))
		one.Told.Want(t, "marks", "2: 0 events, gap false, border false, c7", "3: 0 events, gap false, border false, c7")
		two.Told.Want(t, "its own mark", "3: 0 events, gap false, border false, c7")
		b.publish(3, shard.FeedItem{Closed: 9, Generation: 1, Gap: true})
		b.publish(3, closed(9))
		one.Told.Want(t, "a gap", "3: 0 events, gap true, border false, c9")
		two.Told.Want(t, "a gap", "3: 0 events, gap true, border false, c9")
		two.Leave(3)
		b.wantListening(3, 1)
		b.publish(3, event(10, 1))
		two.Told.Want(t, "left")
		one.Told.Want(t, "another one has left", "3: 1 events, gap false, border false, c9")
		two.End.Want(3)
		two.Told.Want(t, "wanted again", "3: 0 events, gap true, border false, c9")
		b.leaves(3)
		wantGone(t, "it left", one, 9, 3)
		wantGone(t, "it left", two, 3)
		b.publish(2, closed(11))
		one.Told.Want(t, "the other range goes on", "2: 0 events, gap false, border false, c11")
	})
}

// TestChildrenFollow: who listens to a range has its child's items from the first on, without asking, and without a gap, unless it has the child already.
func TestChildrenFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2)
		s := New(b, link.Limits{}, nil)
		l, end := serve(t, s)
		l.End.Want(2)
		l.Told.Want(t, "begun", "2: 0 events, gap true, border false, c1")
		b.publish(2, shard.FeedItem{Closed: 8, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}})
		b.publish(3, shard.FeedItem{Closed: 9, Generation: 2, Events: event(10, 1).Events})
		l.Told.Want(t, "cut", "2: 0 events, gap false, border true, c8", "3: 0 events, gap false, border false, c8", "3: 1 events, gap false, border false, c9")
		b.wantListening(3, 1)
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		b.wantListening(2, 0)
		b.wantListening(3, 0)
	})
}

// TestASubscriberThatGoes: when a link ends, or breaks, nobody listens by it any more, no child follows it, and the others notice nothing.
func TestASubscriberThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2)
		s := New(b, link.Limits{}, nil)
		stays, _ := serve(t, s)
		goes, end := serve(t, s)
		stays.End.Want(2)
		goes.End.Want(2)
		b.wantListening(2, 2)
		if s.Links() != 2 {
			t.Errorf("%d links are open", s.Links())
		}
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		b.wantListening(2, 1)
		if s.Links() != 1 || len(b.over) != 1 {
			t.Errorf("%d links are open, %d are over", s.Links(), len(b.over))
		}
		border := shard.FeedItem{Closed: 8, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}}
		if b.over[0].PublishBorder(2, link.NewItem(border)) {
			t.Error("a child is to follow to a link that is over")
		}
		b.publish(2, event(5, 1))
		stays.Told.Want(t, "it goes on", "2: 0 events, gap true, border false, c1", "2: 1 events, gap false, border false, c4")
		goes.Told.Want(t, "it went", "2: 0 events, gap true, border false, c1")

		s.SetWay(link.NewWay(1)) // is said on each link from its beginning
		broken, began := errors.New("broken"), time.Now()
		in := &breaks{err: broken, ends: make(chan struct{})}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(t.Context(), in) }()
		if err := <-ended; !errors.Is(err, broken) || time.Since(began) > 0 {
			t.Errorf("a link over which nothing can be sent ended with %v after %v", err, time.Since(began))
		}
		if s.Links() != 1 || len(b.over) != 2 {
			t.Errorf("%d links are open, %d are over", s.Links(), len(b.over))
		}
		close(in.ends)
	})
}

// breaks is a link over which nothing can be sent.
type breaks struct {
	err  error
	ends chan struct{}
}

func (l *breaks) Send(*pb.LinkFrame) error { return l.err }

func (l *breaks) Recv() (*pb.LinkRequest, error) {
	<-l.ends
	return nil, l.err
}

// TestASlowEndLosesAndHearsIt: nobody waits for an end that takes its time. It loses items, which is counted, also after its end, and is told so by a gap.
func TestASlowEndLosesAndHearsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2, 3)
		s := New(b, link.Limits{Bytes: 10 << 10}, nil)
		l, end := serve(t, s)
		l.End.Want(2, 3)
		l.Told.Want(t, "begun", "2: 0 events, gap true, border false, c1", "3: 0 events, gap true, border false, c1")
		let := l.Hold()
		b.publish(2, event(5, 1<<10)) // is on its way
		synctest.Wait()
		b.publish(3, event(6, 1))
		for rev := int64(7); rev < 30; rev++ {
			b.publish(2, event(rev, 1<<10))
		}
		n := s.Drops()
		if n == 0 {
			t.Fatal("nothing was dropped")
		}
		let()
		l.Told.Want(t, "let", "2: 1 events, gap false, border false, c4", "3: 1 events, gap false, border false, c5", "2: 0 events, gap true, border false, c28")
		b.publish(2, event(30, 1))
		l.Told.Want(t, "it goes on", "2: 1 events, gap false, border false, c29")
		if err := end(); !errors.Is(err, context.Canceled) || s.Drops() != n {
			t.Errorf("ended with %v, %d items dropped, want %d", err, s.Drops(), n)
		}
	})
}

// TestSilenceIsSaid: in an interval in which nothing was sent a frame is that says nothing, and in others there is none.
func TestSilenceIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2)
		s := New(b, link.Limits{}, nil)
		l, _ := serve(t, s)
		l.End.Want(2)
		<-time.After(link.Interval / 2)
		<-time.After(10 * link.Interval)
		if n := l.Idle(); n != 9 { // in the first it was told where it begins
			t.Errorf("%d words in ten intervals of which one was not silent", n)
		}
		for rev := range int64(10) {
			b.publish(2, closed(5+rev))
			<-time.After(link.Interval)
		}
		if n := l.Idle(); n > 10 {
			t.Errorf("%d words in ten intervals none of which was silent", n-9)
		}
	})
}

// TestLeaving: that a process is about to stop is said on every link, once, also on one that is opened after that. Then it waits for those who move feeds, and
// for nobody else.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2, 3)
		s := New(b, link.Limits{}, nil)
		moves, _ := serve(t, s)
		stays, _ := serve(t, s)
		moves.End.Want(2, 3)
		stays.End.Want(2)
		waits := func(what string, ctx context.Context, least, most time.Duration, meanwhile func()) {
			t.Helper()
			began, took := time.Now(), make(chan time.Duration, 1)
			go func() {
				s.AwaitLeft(ctx)
				took <- time.Since(began)
			}()
			meanwhile()
			if took := <-took; took < least || took > most {
				t.Errorf("%s: waited for %v, want %v to %v", what, took, least, most)
			}
		}
		nothing := func() {}
		s.Leave()
		synctest.Wait()
		late, _ := serve(t, s)
		for what, l := range map[string]far{"who moves": moves, "who stays": stays, "who comes late": late} {
			if l.Leaving() != 1 {
				t.Errorf("%s was told %d times", what, l.Leaving())
			}
		}
		waits("nobody moves", t.Context(), leftPatience, leftPatience, nothing)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		waits("there is no time", short, time.Second, time.Second, nothing)
		stays.Say(&pb.LinkRequest{Stays: true})
		waits("feeds move", t.Context(), 200*time.Millisecond, 200*time.Millisecond+2*retireLook, func() {
			<-time.After(100 * time.Millisecond)
			moves.Leave(2)
			<-time.After(100 * time.Millisecond)
			moves.Leave(3)
		})
		b.publish(2, event(5, 1))
		stays.Told.Want(t, "who stays", "2: 0 events, gap true, border false, c1", "2: 1 events, gap false, border false, c4")
	})
}

// TestTheWayIsTold: a gateway says by which way its feeds come with its first frame, and whenever that changes; a member does not.
func TestTheWayIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(t, 2)
		s := New(b, link.Limits{}, link.NewWay(1))
		l, _ := serve(t, s)
		s.SetWay(link.NewWay(1, link.NewWay(5)))
		synctest.Wait()
		later, _ := serve(t, s)
		if !slices.Equal(l.Levels(), []uint32{1, 2}) || !slices.Equal(later.Levels(), []uint32{2}) {
			t.Errorf("told are levels %v, later %v", l.Levels(), later.Levels())
		}
		<-time.After(5 * link.Interval)
		if len(l.Levels()) != 2 {
			t.Errorf("told again: %v", l.Levels())
		}
		member, _ := serve(t, New(b, link.Limits{}, nil))
		<-time.After(5 * link.Interval)
		if len(member.Levels()) != 0 {
			t.Errorf("a member tells of levels %v", member.Levels())
		}
	})
}

// TestAnEndThatAsksForTooMuch: a link is ended, and says why, over which more is asked for than there can be, be it here or not.
func TestAnEndThatAsksForTooMuch(t *testing.T) {
	for what, ids := range map[string][]shard.RangeID{"feeds": {2, 3, 4}, "feeds that are not here": {12, 13, 14}} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoard(t, 2, 3, 4)
				s := New(b, link.Limits{Feeds: 2}, nil)
				l, end := serve(t, s)
				let := l.Hold()
				l.End.Want(9) // is on its way: what comes behind it waits
				l.End.Want(ids[:2]...)
				if s.Links() != 1 {
					t.Error("the link has ended when it had as much as it may")
				}
				l.End.Want(ids[2])
				let()
				synctest.Wait()
				if err := end(); !errors.Is(err, errGreedy) || s.Links() != 0 {
					t.Errorf("ended with %v, %d are open", err, s.Links())
				}
			})
		})
	}
}

// TestLinksAreBounded: one link more than a process takes is refused with what to do, and taken when another one has ended.
func TestLinksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(newBoard(t), link.Limits{}, nil)
		var last *Outlet
		for range linksMax {
			o, err := s.begin()
			if err != nil {
				t.Fatal(err)
			}
			last = o
		}
		_, end := serve(t, s)
		if err := end(); !errors.Is(err, errMany) {
			t.Errorf("one more: %v", err)
		}
		s.finish(last)
		l, end := serve(t, s)
		l.End.Want(9)
		wantGone(t, "served again", l, 9)
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}
