package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/link"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/shard"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// elsewhere is a backend whose only range is held by other nodes, and whose links the test drives.
type elsewhere struct {
	router.Peers
	backend.Feeds
	nodes   []shard.NodeID // who holds the range
	links   chan *fakeLink
	fails   atomic.Int64  // so many links break at once
	changes atomic.Uint64 // so many times the range has changed, as the meta group knows
	current atomic.Int64  // what the oracle answers; 0: 1
	closes  atomic.Int64  // what was asked to be closed

	here     []*shard.Event // history in this process
	herePrev bool           // it was asked for with the versions replaced
	hereErr  error
}

// fakeLink is a link to a node.
type fakeLink struct {
	t      *testing.T
	ctx    context.Context
	node   shard.NodeID
	asked  chan *pb.LinkRequest
	frames chan *pb.LinkFrame
}

// Send implements peerrpc.Link.
func (l *fakeLink) Send(req *pb.LinkRequest) error {
	l.asked <- req
	return nil
}

// Recv implements peerrpc.Link.
func (l *fakeLink) Recv() (*pb.LinkFrame, error) {
	select {
	case fr := <-l.frames:
		if fr == nil {
			return nil, shard.ErrUnavailable
		}
		return fr, nil
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
}

// say brings messages, and returns when they have been taken.
func (l *fakeLink) say(ms ...*pb.LinkMessage) {
	for _, fr := range []*pb.LinkFrame{{Messages: ms}, {}} {
		select {
		case l.frames <- fr:
		case <-l.ctx.Done():
			l.t.Error("the link has ended")
		}
	}
}

// wants checks what is asked for next.
func (l *fakeLink) wants(unsubscribe, subscribe []uint64) {
	l.t.Helper()
	if req := <-l.asked; !slices.Equal(req.Unsubscribe, unsubscribe) || !slices.Equal(req.Subscribe, subscribe) {
		l.t.Errorf("asked %v; want %v, %v", req, unsubscribe, subscribe)
	}
}

func attached(id, number uint64, closed int64, gap bool) *pb.LinkMessage {
	return &pb.LinkMessage{Attached: &pb.LinkAttached{RangeId: id, Number: number, Closed: closed, Generation: 1, Gap: gap}}
}

func marked(rev int64, numbers ...uint64) *pb.LinkMessage {
	return &pb.LinkMessage{Closed: &pb.LinkClosed{Revision: rev, List: numbers}}
}

func itemOf(t *testing.T, number uint64, closed int64, body *pb.LinkBody) *pb.LinkMessage {
	t.Helper()
	buf, err := body.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return &pb.LinkMessage{Item: &pb.LinkItem{Number: number, Closed: closed, Body: buf}}
}

func (e *elsewhere) History(req *pb.HistoryRequest) ([]*shard.Event, int64, error) {
	e.herePrev = req.PrevKv
	return e.here, req.To + 1, e.hereErr
}

// Call answers for node 9, whose history is one event.
func (e *elsewhere) Call(_ context.Context, _ shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	return &pb.PeerResponse{History: &pb.HistoryResponse{Events: pb.FromEvents([]*shard.Event{event(9)}), Next: req.History.To + 1}}, nil
}

func (e *elsewhere) OpenLink(ctx context.Context, node shard.NodeID, use func(context.Context, peerrpc.Link) error) error {
	if e.fails.Add(-1) >= 0 {
		return shard.ErrUnavailable
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &fakeLink{ctx: ctx, node: node, asked: make(chan *pb.LinkRequest, 100), frames: make(chan *pb.LinkFrame)}
	select {
	case e.links <- l:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	err := use(ctx, l)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// link waits for the next link.
func (e *elsewhere) link(t *testing.T) *fakeLink {
	l := <-e.links
	l.t = t
	return l
}

func (e *elsewhere) Subscribe(id shard.RangeID, to backend.Subscriber) { to.Held(id, false) }
func (e *elsewhere) Unsubscribe(shard.RangeID)                         {}

// CallFunc answers the questions of the meta client: which revision is current, and where the ranges are. That there is a newer
// map it says to whoever asks for it, and to nobody else.
func (e *elsewhere) CallFunc(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if req.Oracle != nil {
		cb(&pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: max(1, e.current.Load()), Epoch: 1}}, nil)
		return
	}
	version := 1 + e.changes.Load()
	desc := shard.Descriptor{ID: 2, Generation: shard.Generation(version)}
	for i, n := range e.nodes {
		desc.Replicas = append(desc.Replicas, shard.Replica{ID: shard.ReplicaID(i + 1), Node: n})
	}
	cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{Version: version, Ranges: pb.FromDescriptors([]shard.Descriptor{desc})}}, nil)
}

// AskClose implements watchfanout.Closer.
func (e *elsewhere) AskClose(rev int64, _ []shard.RangeID) { e.closes.Store(rev) }

func event(rev int64) *shard.Event {
	return &shard.Event{KV: shard.KeyValue{Key: []byte("k"), ModRevision: rev}}
}

// newElsewhere returns feeds over it, which note what they publish, in order.
func newElsewhere(t *testing.T) (e *elsewhere, f *feeds, told *[]string) {
	t.Helper()
	e = &elsewhere{links: make(chan *fakeLink), nodes: []shard.NodeID{9}}
	client := metaclient.New(metaclient.Config{Self: 1, Calls: e, Meta: shard.Descriptor{Replicas: []shard.Replica{{ID: 1, Node: 9}}}})
	t.Cleanup(client.Close)
	if err := client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &backend.Backend{Identity: peer.Identity{Node: 1}, Peers: e, Cluster: backend.NewCluster(client, peer.NewDirectory(1, nil)), Feeds: e, Closer: e}
	told = new([]string)
	f = newFeeds(b, nil, slog.New(slog.DiscardHandler), func(_ shard.RangeID, item shard.FeedItem) {
		rev, _ := b.Cluster.Newest()
		*told = append(*told, fmt.Sprintf("%d events, closed at %d, when %d is known", len(item.Events), item.Closed, rev))
	})
	t.Cleanup(f.close)
	return e, f, told
}

// TestAnEndedFeedPublishesNothing: what a link brings late of a feed that has ended does not come between the items of
// the feed that follows it.
func TestAnEndedFeedPublishesNothing(t *testing.T) {
	e, f, told := newElsewhere(t)
	f.subscribe(2)
	l := e.link(t)
	l.wants(nil, []uint64{2})
	l.say(attached(2, 1, 1, true))
	f.unsubscribe(2)
	l.wants([]uint64{2}, nil)
	f.subscribe(2)
	l.wants(nil, []uint64{2})
	l.say(marked(2, 1), attached(2, 2, 3, true))
	f.close()
	if want := []string{"0 events, closed at 1, when 0 is known", "0 events, closed at 3, when 0 is known"}; !slices.Equal(*told, want) {
		t.Errorf("published %q, want %q", *told, want)
	}
}

// TestAnEventIsKnownBeforeItIsPublished: the hub asks for its revision to be closed at once, and a node
// closes at the newest one that it knows.
func TestAnEventIsKnownBeforeItIsPublished(t *testing.T) {
	_, f, told := newElsewhere(t)
	f.Publish(2, shard.FeedItem{Events: []*shard.Event{event(7), event(9)}, Epoch: 4})
	f.Publish(2, shard.FeedItem{Closed: 11, Epoch: 4})
	f.close()
	if want := []string{"2 events, closed at 0, when 9 is known", "0 events, closed at 11, when 9 is known"}; !slices.Equal(*told, want) {
		t.Errorf("told %q, want %q", *told, want)
	}
}

// TestWhereAFeedComesFrom: while a range is held in this process its feed from another node rests, and begins
// again when the range leaves. A node that has it no more sends on to another.
func TestWhereAFeedComesFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		f.subscribe(2)
		l := e.link(t)
		l.wants(nil, []uint64{2})
		f.Held(2, true)
		l.wants([]uint64{2}, nil)
		f.Held(2, false)
		l.wants(nil, []uint64{2})
		f.Held(2, false)
		l.say(attached(2, 1, 1, true))

		other := shard.NodeID(2)
		for e.nodes = nil; len(e.nodes) == 0 || e.nodes[1] == 9; other++ { // one that is asked after 9
			e.nodes = []shard.NodeID{9, other}
			link.Rank(1, 2, e.nodes)
		}
		e.changes.Add(1)
		if err := f.backend.Cluster.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.say(&pb.LinkMessage{Ended: 2})
		l.wants([]uint64{2}, nil)
		next := e.link(t)
		next.wants(nil, []uint64{2})
		if next.node == 9 {
			t.Error("asked the same node again")
		}
		f.close()
	})
}

// TestABrokenLinkWarnsOnce: while a node is down it is tried again and again, with a pause that grows; that is said once, and once
// that it is there again.
func TestABrokenLinkWarnsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		var log bytes.Buffer
		f.log = slog.New(slog.NewTextHandler(&log, nil))
		e.fails.Store(4)
		began := time.Now()
		f.subscribe(2)
		l := e.link(t)
		if took := time.Since(began); took < 15*feedRetry || took > 20*feedRetry {
			t.Errorf("four links that broke took %v", took)
		}
		l.wants(nil, []uint64{2})
		for n := range uint64(2) {
			l.say(attached(2, n+1, 1, true))
		}
		f.close()
		warned, went := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "broken=4")
		if warned != 1 || went != 1 || f.broken.Load() != 4 {
			t.Errorf("%d warnings, %d failures counted, in\n%s", warned, f.broken.Load(), log.String())
		}
	})
}

// TestAFeedThatNobodyHasIsTold: where no link to those who have a range can be opened, that is told after a while, and until the feed comes; links
// that are tried meanwhile are no reason not to.
func TestAFeedThatNobodyHasIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		defer f.close()
		starved := func(after time.Duration, want int) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			if n := f.starved(); n != want {
				t.Errorf("%d ranges are starved, want %d", n, want)
			}
		}
		e.fails.Store(1 << 40)
		f.subscribe(2)
		starved(starvedAfter/2, 0)
		starved(starvedAfter+feedRetryMax, 1)
		starved(3*starvedAfter, 1)
		e.fails.Store(0)
		l := e.link(t)
		l.wants(nil, []uint64{2})
		l.say(attached(2, 1, 1, true))
		starved(0, 0)
		e.fails.Store(1 << 40)
		l.frames <- nil
		starved(starvedAfter/2, 0)
		starved(starvedAfter+feedRetryMax, 1)
	})
}

// TestASilentLinkIsOpenedAgain: a source that is stopped, and whose system goes on, is left after three intervals, and the feed goes
// on from wherever it is had. A link that nobody needs is closed.
func TestASilentLinkIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		var gaps int
		f.publish = func(_ shard.RangeID, item shard.FeedItem) {
			if item.Gap {
				gaps++
			}
		}
		f.subscribe(2)
		for i := range 3 {
			l := e.link(t)
			l.wants(nil, []uint64{2})
			began := time.Now()
			l.say(attached(2, 1, 1, true))
			<-time.After(2 * replaysLinger)
			synctest.Wait()
			if gaps != 1 || f.moves.replays.resumed.Load() != uint64(i) {
				t.Errorf("%d gaps after %d links, and the feed went on %d times", gaps, i+1, f.moves.replays.resumed.Load())
			}
			for range 10 {
				<-time.After(link.Interval)
				l.say()
			}
			<-l.ctx.Done()
			if took := time.Since(began); took > 15*link.Interval || took < 12*link.Interval {
				t.Errorf("a silent link has ended after %v", took)
			}
		}
		l := e.link(t)
		f.unsubscribe(2)
		for range idleTicks {
			<-time.After(link.Interval)
			l.say()
		}
		<-time.After(2 * link.Interval)
		if l.ctx.Err() == nil || f.open() != 0 || f.broken.Load() != 3 {
			t.Errorf("ended: %v, %d links are open, %d are said to have broken", l.ctx.Err(), f.open(), f.broken.Load())
		}
		f.close()
	})
}

// TestAChildsFeedFollows: behind a border the child's feed comes without being asked for, and goes on without a gap. Where it was begun
// from elsewhere, or the range is held in this process, it does not.
func TestAChildsFeedFollows(t *testing.T) {
	border := func(t *testing.T) *pb.LinkMessage {
		return itemOf(t, 1, 9, &pb.LinkBody{Border: &pb.FeedBorder{At: []byte("m"), Child: 3, Generation: 2}})
	}
	child := &pb.LinkMessage{Attached: &pb.LinkAttached{RangeId: 3, Number: 2, Closed: 9, Generation: 2, Parent: 1}}
	for _, tt := range []struct {
		what string
		do   func(f *feeds)
		want int // items of the child
	}{
		{"follows", func(*feeds) {}, 2},
		{"begun elsewhere", func(f *feeds) { f.subscribe(3) }, 0},
		{"held here", func(f *feeds) { f.Held(3, true) }, 0},
	} {
		t.Run(tt.what, func(t *testing.T) {
			e, f, _ := newElsewhere(t)
			var got []shard.FeedItem
			children := 0
			f.publish = func(id shard.RangeID, item shard.FeedItem) {
				if got = append(got, item); id == 3 {
					children++
				}
			}
			f.subscribe(2)
			l := e.link(t)
			l.wants(nil, []uint64{2})
			l.say(attached(2, 1, 1, true))
			tt.do(f)
			l.say(border(t))
			if b := got[1].Border; b == nil || string(b.At) != "m" || b.Child != 3 || b.Generation != 2 {
				t.Fatalf("the border came as %+v", b)
			}
			l.say(child, marked(10, 2))
			if children != tt.want {
				t.Fatalf("published %+v", got)
			}
			if tt.want == 0 {
				l.wants([]uint64{3}, nil)
			} else {
				f.subscribe(3) // the map does not know it yet
				l.say(marked(11, 2))
				if len(got) != 5 || got[2].Gap || got[2].Closed != 9 || got[4].Closed != 11 || len(l.asked) != 0 {
					t.Errorf("published %+v", got)
				}
				f.unsubscribe(3)
				l.wants([]uint64{3}, nil)
			}
			f.close()
		})
	}
}

// TestHistoryOfThisProcessIsNotEncoded: the very events that the replica here has read reach the hub; another node
// is asked only where there is none.
func TestHistoryOfThisProcessIsNotEncoded(t *testing.T) {
	e, f, _ := newElsewhere(t)
	h := &history{backend: f.backend}
	read := func() ([]*shard.Event, int64, error) {
		return h.Read(t.Context(), 2, []shard.Span{shard.All}, 3, 9, 1<<20)
	}

	e.here = []*shard.Event{event(4)}
	evs, next, err := read()
	if err != nil || next != 10 || len(evs) != 1 || evs[0] != e.here[0] || !e.herePrev {
		t.Errorf("from here: %v to %d, %v", evs, next, err)
	}
	e.hereErr = &shard.CompactedError{Revision: 7}
	if _, _, err := read(); !errors.Is(err, e.hereErr) {
		t.Errorf("compacted here: %v", err)
	}
	e.hereErr = fmt.Errorf("not open: %w", shard.ErrUnavailable)
	if evs, next, err := read(); err != nil || next != 10 || len(evs) != 1 || evs[0].Rev() != 9 {
		t.Errorf("from node 9: %v to %d, %v", evs, next, err)
	}
}

// TestAMapIsFetchedForEventsThatWaitForIt: a range's replicas change, and its feed tells of it before the map does. What comes
// then waits for the map, which no answer speaks of: this process asks the oracle for nothing.
func TestAMapIsFetchedForEventsThatWaitForIt(t *testing.T) {
	e, own, _ := newElsewhere(t)
	own.backend.Closer = e
	e.here = []*shard.Event{event(9)}
	f := &Front{backend: own.backend, log: own.log}
	if err := f.openHub(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	followed := make(chan struct{})
	go func() { defer close(followed); f.followMap(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-followed
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	st := f.hub.NewStream(watchfanout.StreamOptions{})
	if err := st.Watch(watchfanout.WatchRequest{ID: 1, Span: shard.Point([]byte("k")), Start: 2, FromNow: true}); err != nil {
		t.Fatal(err)
	}
	l := e.link(t)
	e.changes.Add(1)
	l.say(attached(2, 1, 1, true), &pb.LinkMessage{Attached: &pb.LinkAttached{RangeId: 2, Number: 2, Generation: 2}},
		itemOf(t, 2, 9, &pb.LinkBody{Events: pb.FromEvents([]*shard.Event{event(9)})}))
	for {
		select {
		case <-st.Ready():
		case <-ctx.Done():
			t.Fatal("the event has not come")
		}
		for _, d := range st.Poll(nil, 1) {
			if len(d.Events) == 1 && d.Events[0].Rev() == 9 {
				return
			}
		}
	}
}
