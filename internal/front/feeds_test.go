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
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// elsewhere is a backend whose only range is held by node 9, and whose feeds the test drives.
type elsewhere struct {
	router.Peers
	backend.Feeds
	streams chan func(*pb.FeedFrame) error
	asked   chan feedAsked
	fails   atomic.Int64  // so many feeds break at once
	changes atomic.Uint64 // so many times the range has changed, as the meta group knows

	here     []*shard.Event // history in this process
	herePrev bool           // it was asked for with the versions replaced
	hereErr  error
}

// feedAsked is a feed that a node was asked for.
type feedAsked struct {
	node shard.NodeID
	req  *pb.FeedRequest
}

func (e *elsewhere) History(req *pb.HistoryRequest) ([]*shard.Event, int64, error) {
	e.herePrev = req.PrevKv
	return e.here, req.To + 1, e.hereErr
}

// Call answers for node 9, whose history is one event.
func (e *elsewhere) Call(_ context.Context, _ shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	return &pb.PeerResponse{History: &pb.HistoryResponse{Events: pb.FromEvents([]*shard.Event{event(9)}), Next: req.History.To + 1}}, nil
}

func (e *elsewhere) OpenFeed(ctx context.Context, node shard.NodeID, req *pb.FeedRequest, recv func(*pb.FeedFrame) error) error {
	if e.fails.Add(-1) >= 0 {
		return shard.ErrUnavailable
	}
	e.asked <- feedAsked{node, req}
	e.streams <- recv
	<-ctx.Done()
	return ctx.Err()
}

func (e *elsewhere) Subscribe(id shard.RangeID, to backend.Subscriber) { to.Held(id, false) }
func (e *elsewhere) Unsubscribe(shard.RangeID)                         {}

// CallFunc answers the questions of the meta client: which revision is current, and where the ranges are. That there is a newer
// map it says to whoever asks for it, and to nobody else.
func (e *elsewhere) CallFunc(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if req.Oracle != nil {
		cb(&pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: 1, Epoch: 1}}, nil)
		return
	}
	version := 1 + e.changes.Load()
	desc := shard.Descriptor{ID: 2, Generation: shard.Generation(version), Replicas: []shard.Replica{{ID: 1, Node: 9}}}
	cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{Version: version, Ranges: pb.FromDescriptors([]shard.Descriptor{desc})}}, nil)
}

// AskClose implements watchfanout.Closer.
func (e *elsewhere) AskClose(int64, []shard.RangeID) {}

func event(rev int64) *shard.Event {
	return &shard.Event{KV: shard.KeyValue{Key: []byte("k"), ModRevision: rev}}
}

// newElsewhere returns feeds over it, which note what they publish, in order.
func newElsewhere(t *testing.T) (e *elsewhere, f *feeds, told *[]string) {
	t.Helper()
	e = &elsewhere{streams: make(chan func(*pb.FeedFrame) error), asked: make(chan feedAsked, 100)}
	client := metaclient.New(metaclient.Config{Self: 1, Calls: e, Meta: shard.Descriptor{Replicas: []shard.Replica{{ID: 1, Node: 9}}}})
	t.Cleanup(client.Close)
	if err := client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &backend.Backend{Identity: peer.Identity{Node: 1}, Peers: e, Cluster: backend.NewCluster(client, peer.NewDirectory(1, nil)), Feeds: e}
	told = new([]string)
	f = newFeeds(b, slog.New(slog.DiscardHandler), func(_ shard.RangeID, item shard.FeedItem) {
		rev, _ := b.Cluster.Newest()
		*told = append(*told, fmt.Sprintf("%d events, closed at %d, when %d is known", len(item.Events), item.Closed, rev))
	})
	return e, f, told
}

// TestAnEndedFeedPublishesNothing: an item that another node's feed brings late does not come between
// those of the feed that follows it.
func TestAnEndedFeedPublishesNothing(t *testing.T) {
	e, f, told := newElsewhere(t)
	f.subscribe(2)
	first := <-e.streams
	if err := first(&pb.FeedFrame{Closed: 1}); err != nil {
		t.Fatal(err)
	}
	f.unsubscribe(2)
	f.subscribe(2)
	second := <-e.streams
	if err := second(&pb.FeedFrame{Closed: 3}); err != nil {
		t.Fatal(err)
	}
	if err := first(&pb.FeedFrame{Closed: 2}); err == nil {
		t.Error("the ended feed was not told to stop")
	}
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
// again when the range leaves.
func TestWhereAFeedComesFrom(t *testing.T) {
	e, f, _ := newElsewhere(t)
	f.subscribe(2)
	first := <-e.streams
	f.Held(2, true)
	if err := first(&pb.FeedFrame{Closed: 2}); err == nil {
		t.Error("the feed from the other node goes on beside the own one")
	}
	f.Held(2, false)
	second := <-e.streams
	if err := second(&pb.FeedFrame{Closed: 3}); err != nil {
		t.Errorf("the feed has not begun again: %v", err)
	}
	f.Held(2, false)
	f.close()
}

// TestABrokenFeedWarnsOnce: while a node is down its feeds are tried again and again; each says so once, and
// once that it goes on.
func TestABrokenFeedWarnsOnce(t *testing.T) {
	e, f, _ := newElsewhere(t)
	var log bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&log, nil))
	e.fails.Store(4)
	f.subscribe(2)
	recv := <-e.streams
	for range 2 {
		if err := recv(&pb.FeedFrame{Closed: 1}); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	warned, went := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "broken=4")
	if warned != 1 || went != 1 || f.broken.Load() != 4 {
		t.Errorf("%d warnings, %d failures counted, in\n%s", warned, f.broken.Load(), log.String())
	}
}

// TestAChildsFeedIsClaimed: behind a border the child's feed is had from where the parent's came from, under its name, and goes on
// without a gap, if the node has kept it; from an older node, and from another, it begins anew.
func TestAChildsFeedIsClaimed(t *testing.T) {
	for _, tt := range []struct {
		what string
		base int64
		gap  bool
	}{{"kept", 9, false}, {"not kept", 0, true}} {
		t.Run(tt.what, func(t *testing.T) {
			e, f, _ := newElsewhere(t)
			var got []shard.FeedItem
			f.publish = func(_ shard.RangeID, item shard.FeedItem) { got = append(got, item) }
			f.subscribe(2)
			parent, asked := <-e.streams, <-e.asked
			if asked.req.Name == 0 || asked.req.Parent != 0 {
				t.Errorf("asked with %v", asked.req)
			}
			if err := parent(&pb.FeedFrame{Closed: 9, Generation: 1, Border: &pb.FeedBorder{At: []byte("m"), Child: 3, Generation: 2}}); err != nil {
				t.Fatal(err)
			}
			if b := got[0].Border; b == nil || string(b.At) != "m" || b.Child != 3 || b.Generation != 2 {
				t.Fatalf("the border came as %+v", b)
			}
			f.subscribe(3) // the map does not know it yet
			child, claimed := <-e.streams, <-e.asked
			if claimed.node != 9 || claimed.req.RangeId != 3 || claimed.req.Parent != asked.req.Name || claimed.req.Name == asked.req.Name {
				t.Errorf("claimed with %+v", claimed)
			}
			for _, fr := range []*pb.FeedFrame{{Base: tt.base, Closed: 9, Generation: 2}, {Closed: 10, Generation: 2}} {
				if err := child(fr); err != nil {
					t.Fatal(err)
				}
			}
			if len(got) != 3 || got[1].Gap != tt.gap || got[2].Gap {
				t.Errorf("published %+v", got)
			}
			f.unsubscribe(2)
			f.subscribe(2)
			<-e.streams
			if again := <-e.asked; again.req.Parent != 0 {
				t.Errorf("asked again with %v", again.req)
			}
			f.close()
		})
	}
}

// TestClaimsAreForgotten: those that nobody makes use of do not pile up.
func TestClaimsAreForgotten(t *testing.T) {
	_, f, _ := newElsewhere(t)
	now := time.Now()
	for i := range 100 {
		f.putClaim(shard.RangeID(3+i), claim{node: 9, since: now.Add(time.Duration(i) * time.Second)})
	}
	if n := len(f.claims); n > 11 {
		t.Errorf("%d claims are kept", n)
	}
	if _, ok := f.takeClaim(102); !ok {
		t.Error("the last is not there")
	}
	f.close()
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
	recv := <-e.streams
	e.changes.Add(1)
	for _, fr := range []*pb.FeedFrame{{Closed: 1, Generation: 1}, {Closed: 9, Generation: 2, Events: pb.FromEvents([]*shard.Event{event(9)})}} {
		if err := recv(fr); err != nil {
			t.Fatal(err)
		}
	}
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
