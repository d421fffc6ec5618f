package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/link/linktest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// passer is what passes feeds on, and what it asks for above.
type passer struct {
	*passing
	t     *testing.T
	mu    sync.Mutex
	asked []string
}

func newPasser(t *testing.T) *passer {
	p := &passer{t: t}
	te := &tee{ranges: map[shard.RangeID]*teed{}}
	te.open = func(id shard.RangeID) { p.ask("open", id) }
	te.close = func(id shard.RangeID) { p.ask("close", id) }
	p.passing = newPassing(te, link.Limits{}, link.NewWay(1))
	te.to[0] = func(shard.RangeID, shard.FeedItem) {}
	te.to[2] = p.publish
	go p.run(t.Context())
	return p
}

func (p *passer) ask(what string, id shard.RangeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, fmt.Sprint(what, " ", id))
}

// wantAsked checks what was asked for above since it was asked last.
func (p *passer) wantAsked(want ...string) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.asked, want) {
		p.t.Errorf("asked above: %q, want %q", p.asked, want)
	}
	p.asked = nil
}

// below is a gateway further down: the end of a link that wants feeds, and what came there.
type below struct {
	*linktest.End
	*linktest.Told
}

// link has a gateway below until end is called, or the test ends.
func (p *passer) link() (l below, end func() error) {
	l.Told = new(linktest.Told)
	l.End, end = linktest.Serve(p.t, p.outlets.Serve, l.Told)
	return l, end
}

// TestFeedsArePassedOn: a range is asked for once above for all gateways below, what comes is passed on as it came, gaps too, children follow without being
// asked for below, and with the last that listens the feed ends above.
func TestFeedsArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPasser(t)
		one, _ := p.link()
		two, end := p.link()
		one.End.Want(2)
		two.End.Want(2)
		p.wantAsked("open r2")
		p.tee.publish(2, shard.FeedItem{Closed: 3, Generation: 1, Gap: true})
		p.tee.publish(2, shard.FeedItem{Closed: 6, Generation: 1, Events: []*shard.Event{event(5)}})
		want := []string{"2: 0 events, gap true, border false, c3", "2: 1 events, gap false, border false, c6"}
		one.Told.Want(t, "begun", want...)
		two.Told.Want(t, "begun", want...)
		p.tee.publish(2, shard.FeedItem{Closed: 7, Generation: 1, Gap: true})
		one.Told.Want(t, "a gap", "2: 0 events, gap true, border false, c7")
		two.Told.Want(t, "a gap", "2: 0 events, gap true, border false, c7")
		p.tee.publish(2, shard.FeedItem{Closed: 8, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}})
		p.tee.publish(3, shard.FeedItem{Closed: 9, Generation: 2, Events: []*shard.Event{event(9)}})
		p.wantAsked("open r3")
		want = []string{"2: 0 events, gap false, border true, c8", "3: 0 events, gap false, border false, c8", "3: 1 events, gap false, border false, c9"}
		one.Told.Want(t, "cut", want...)
		two.Told.Want(t, "cut", want...)
		one.Leave(3)
		p.wantAsked()
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		p.wantAsked("close r3")
		one.Leave(2)
		p.wantAsked("close r2")
		if len(p.byID) != 0 || len(p.tee.ranges) != 0 || p.outlets.Links() != 1 {
			t.Errorf("left are %v, %v, %d links", p.byID, p.tee.ranges, p.outlets.Links())
		}
	})
}

// TestAChildThatHasAFeedAlready: one whose feed has been asked for before does not follow behind its parent's border: whoever is below asks for it.
func TestAChildThatHasAFeedAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPasser(t)
		l, _ := p.link()
		l.End.Want(2)
		p.tee.publish(2, shard.FeedItem{Closed: 3, Generation: 1, Gap: true})
		p.tee.subscribe(3, ofHub)
		p.wantAsked("open r2", "open r3")
		p.tee.publish(3, shard.FeedItem{Closed: 7, Generation: 2, Gap: true})
		p.tee.publish(2, shard.FeedItem{Closed: 8, Generation: 1, Border: &shard.Border{At: []byte("m"), Child: 3, Generation: 2}})
		l.Told.Want(t, "cut", "2: 0 events, gap true, border false, c3", "2: 0 events, gap false, border true, c8")
		if !slices.Equal(l.Gone(), []shard.RangeID{3}) {
			t.Errorf("gone: %v", l.Gone())
		}
		l.End.Want(3)
		l.Told.Want(t, "asked for", "3: 0 events, gap true, border false, c7")
		p.wantAsked()
	})
}

// TestAStarvedFeedIsHadElsewhere: of a range that nobody is found for those below are told, and look elsewhere.
func TestAStarvedFeedIsHadElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPasser(t)
		l, _ := p.link()
		l.End.Want(2)
		p.end(2)
		p.end(9)
		synctest.Wait()
		if p.wantAsked("open r2", "close r2"); !slices.Equal(l.Gone(), []shard.RangeID{2}) {
			t.Errorf("gone: %v", l.Gone())
		}
	})
}

// found are the gateways at URLs.
type found struct {
	mu     sync.Mutex
	at     map[string]*pb.DiscoverResponse
	placed map[shard.NodeID]string
}

// Find implements UpstreamNodes.
func (f *found) Find(_ context.Context, url string) (*pb.DiscoverResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.at[url]; r != nil {
		return r, nil
	}
	return nil, errors.New("nobody")
}

// Place implements UpstreamNodes.
func (f *found) Place(node shard.NodeID, url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if url == "" {
		delete(f.placed, node)
		return
	}
	f.placed[node] = url
}

func (f *found) set(url string, r *pb.DiscoverResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at[url] = r
}

// placedAt is where a node was said to be; empty: nowhere.
func (f *found) placedAt(node shard.NodeID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.placed[node]
}

func gatewayAt(node shard.NodeID, ways ...*pb.LinkWay) *pb.DiscoverResponse {
	return &pb.DiscoverResponse{ClusterId: 7, NodeId: uint64(node), Way: link.NewWay(node, ways...)}
}

// TestUpstreams: feeds are had from gateways that are found at the URLs, whoever that is now, and not from those that are refused, of which it is said why; the
// way of the feeds is told below whenever it changes.
func TestUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := &found{at: map[string]*pb.DiscoverResponse{}, placed: map[shard.NodeID]string{}}
		u := newUpstreams([]string{"u", "v"}, 1, 7, nodes, slog.New(slog.DiscardHandler))
		go u.run(t.Context())
		var levels []uint32
		u.follow(func(w *pb.LinkWay) { levels = append(levels, w.Level) })
		have := func(what string, want ...shard.NodeID) {
			t.Helper()
			<-time.After(2 * upstreamAgain)
			synctest.Wait()
			if got := u.candidates(nil); !slices.Equal(got, want) {
				t.Errorf("%s: feeds from %v, want %v", what, got, want)
			}
		}
		refused := func(why string) {
			t.Helper()
			if got := u.tell(func(shard.NodeID) int { return 3 })[0].Refused; !strings.Contains(got, why) || got == "" {
				t.Errorf("refused because %q, want %q", got, why)
			}
		}
		have("nobody is there")
		nodes.set("u", gatewayAt(5))
		nodes.set("v", gatewayAt(6, link.NewWay(8)))
		have("both are there", 5, 6)
		if err := u.learn(5, link.NewWay(5, link.NewWay(1))); err == nil {
			t.Error("a ring is taken")
		}
		synctest.Wait()
		refused("in a ring")
		if got := u.candidates(nil); !slices.Equal(got, []shard.NodeID{6}) || nodes.placedAt(5) != "" {
			t.Errorf("feeds come from %v", got)
		}
		have("the ring is no more", 5, 6)
		nodes.set("u", gatewayAt(9))
		u.broke(5)
		have("another one is there", 9, 6)
		u.broke(9)
		nodes.set("u", nil)
		have("it has gone", 6)
		nodes.set("u", &pb.DiscoverResponse{ClusterId: 7, NodeId: 3})
		have("a member is there", 6)
		refused("--join")
		nodes.set("u", &pb.DiscoverResponse{ClusterId: 8, NodeId: 3, Way: link.NewWay(3)})
		have("one of another cluster", 6)
		refused("cluster 8")
		if !slices.Equal(levels, []uint32{1, 2, 3, 3, 3, 3, 3}) && !slices.Equal(levels, []uint32{1, 3, 3, 3, 3, 3}) && levels[len(levels)-1] != 3 {
			t.Errorf("told below: %v", levels)
		}
	})
}

// TestUpstreamsComeFirst: a feed is had from a gateway above, from a member if that one has it not, and from there if there is none.
func TestUpstreamsComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, f, _ := newElsewhere(t)
		nodes := &found{at: map[string]*pb.DiscoverResponse{"u": gatewayAt(5)}, placed: map[shard.NodeID]string{}}
		f.chain = &chain{ups: newUpstreams([]string{"u"}, 1, 7, nodes, slog.New(slog.DiscardHandler))}
		go f.chain.ups.run(t.Context())
		synctest.Wait()
		f.subscribe(2)
		l := e.link(t)
		l.wants(nil, []uint64{2})
		if l.node != 5 {
			t.Errorf("asked is node %v", l.node)
		}
		l.say(attached(2, 1, 1, true))
		l.say(&pb.LinkMessage{Ended: 2})
		l.wants([]uint64{2}, nil)
		m := e.link(t)
		if m.wants(nil, []uint64{2}); m.node != 9 {
			t.Errorf("asked is node %v, when the gateway has it not", m.node)
		}
		m.say(attached(2, 1, 1, true))
		l.frames <- &pb.LinkFrame{Way: link.NewWay(5, link.NewWay(1))}
		synctest.Wait()
		if <-l.ctx.Done(); len(f.chain.ups.candidates(nil)) != 0 {
			t.Error("feeds are had in a ring")
		}
		f.close()
	})
}
