package front

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// feedRetry is the pause before a feed is opened again.
const feedRetry = 100 * time.Millisecond

// feeds connects the feeds of ranges with the hub: those that are held in this process come from the backend,
// the others from nodes.
type feeds struct {
	backend *backend.Backend
	publish func(shard.RangeID, shard.FeedItem)
	log     *slog.Logger

	ctx    context.Context // of the feeds from nodes
	cancel context.CancelFunc
	wg     sync.WaitGroup
	broken atomic.Uint64 // times that a feed from another node broke, or did not open

	mu     sync.Mutex
	remote map[shard.RangeID]*remoteFeed // at most one a range
	claims map[shard.RangeID]claim       // behind borders that have come lately
}

// claim is where another node keeps the feed of a child for this one, from its parent's border on.
type claim struct {
	node   shard.NodeID
	parent uint64 // what the parent's feed was called
	since  time.Time
}

// claimLife is for how long a node keeps such a feed, at most.
const claimLife = 10 * time.Second

// putClaim notes that a feed from a node has come to a border. Those that nobody has made use of are forgotten.
func (f *feeds) putClaim(child shard.RangeID, c claim) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, old := range f.claims {
		if c.since.Sub(old.since) > claimLife {
			delete(f.claims, id)
		}
	}
	f.claims[child] = c
}

func (f *feeds) takeClaim(child shard.RangeID) (claim, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.claims[child]
	delete(f.claims, child)
	return c, ok
}

var _ backend.Subscriber = (*feeds)(nil)

func newFeeds(b *backend.Backend, log *slog.Logger, publish func(shard.RangeID, shard.FeedItem)) *feeds {
	f := &feeds{backend: b, publish: publish, log: log, remote: map[shard.RangeID]*remoteFeed{}, claims: map[shard.RangeID]claim{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// close ends the feeds from nodes.
func (f *feeds) close() {
	f.cancel()
	f.wg.Wait()
}

// remoteFeed is a feed of a range that is not held here. Once it has ended it publishes nothing more: an
// item that was late would come between those of the next feed.
type remoteFeed struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	ended  bool
}

// end returns when nothing is being published any more.
func (r *remoteFeed) end() {
	r.cancel()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// subscribe is the hub's hook: its first watcher needs the range's feed.
func (f *feeds) subscribe(id shard.RangeID) { f.backend.Feeds.Subscribe(id, f) }

// unsubscribe is the hub's hook: its last watcher of the range is gone.
func (f *feeds) unsubscribe(id shard.RangeID) {
	f.backend.Feeds.Unsubscribe(id)
	f.endRemote(id)
}

// Publish implements backend.Subscriber. What the events have come to is learned before the hub has them: it
// will ask that everything be closed there, which a node does at the newest revision that it knows.
func (f *feeds) Publish(id shard.RangeID, item shard.FeedItem) {
	if n := len(item.Events); n > 0 {
		f.backend.Cluster.Learn(item.Events[n-1].Rev(), item.Epoch)
	}
	f.publish(id, item)
}

// Held implements backend.Subscriber.
func (f *feeds) Held(id shard.RangeID, held bool) {
	if held {
		f.endRemote(id)
	} else {
		f.beginRemote(id)
	}
}

func (f *feeds) beginRemote(id shard.RangeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.remote[id] != nil || f.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	r := &remoteFeed{cancel: cancel}
	f.remote[id] = r
	f.wg.Go(func() { f.follow(ctx, id, r) })
}

// endRemote ends the feed from another node, if there is one.
func (f *feeds) endRemote(id shard.RangeID) {
	f.mu.Lock()
	r := f.remote[id]
	delete(f.remote, id)
	f.mu.Unlock()
	if r != nil {
		r.end()
	}
}

// follow keeps a feed of a range that is not held here open, from one replica or another.
func (f *feeds) follow(ctx context.Context, id shard.RangeID, r *remoteFeed) {
	broken := 0 // times in a row, of which the first is a warning: a node that is down is for long
	kept, claimed := f.takeClaim(id)
	for try := 0; ctx.Err() == nil; try++ {
		d, ok := f.backend.Cluster.Range(id)
		if claimed || ok && len(d.Replicas) > 0 {
			req := &pb.FeedRequest{RangeId: uint64(id), NodeId: uint64(f.backend.Identity.Node), Name: rand.Uint64()}
			var node shard.NodeID
			if claimed {
				node, req.Parent, claimed = kept.node, kept.parent, false
			} else {
				node = d.Replicas[try%len(d.Replicas)].Node
			}
			gap := true // what was missed between two streams
			err := f.backend.Peers.OpenFeed(ctx, node, req, func(fr *pb.FeedFrame) error {
				item := frameToItem(fr)
				gap = gap && (req.Parent == 0 || fr.Base == 0) // the node has kept the feed from its beginning on
				item.Gap = item.Gap || gap
				gap = false
				if broken > 0 {
					f.log.Info("a range's feed from another node goes on", "range", id.String(), "node", node.String(), "broken", broken)
					broken = 0
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				if r.ended {
					return context.Canceled
				}
				if item.Border != nil {
					f.putClaim(item.Border.Child, claim{node: node, parent: req.Name, since: time.Now()})
				}
				f.Publish(id, item)
				return nil
			})
			if err != nil && ctx.Err() == nil {
				f.broken.Add(1)
				level := slog.LevelDebug
				if broken++; broken == 1 {
					level = slog.LevelWarn
				}
				f.log.Log(ctx, level, "a range's feed from another node broke", "range", id.String(), "node", node.String(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(feedRetry):
		}
	}
}

func frameToItem(fr *pb.FeedFrame) shard.FeedItem {
	item := shard.FeedItem{Events: pb.ToEvents(fr.Events), Closed: fr.Closed, Epoch: shard.Epoch(fr.Epoch), Index: fr.Index, Generation: shard.Generation(fr.Generation), Gap: fr.Gap}
	if b := fr.Border; b != nil {
		item.Border = &shard.Border{At: b.At, Child: shard.RangeID(b.Child), Generation: shard.Generation(b.Generation)}
	}
	return item
}

// history implements watchfanout.History: from the replica in this process, else from another node's.
type history struct{ backend *backend.Backend }

// Read implements watchfanout.History.
func (h *history) Read(ctx context.Context, id shard.RangeID, spans []shard.Span, from, to int64, maxBytes int) ([]*shard.Event, int64, error) {
	req := &pb.HistoryRequest{RangeId: uint64(id), Spans: pb.FromSpans(spans), From: from, To: to, MaxBytes: int64(maxBytes), PrevKv: true}
	if evs, next, err := h.backend.Feeds.History(req); !errors.Is(err, shard.ErrUnavailable) {
		return evs, next, err
	}
	d, ok := h.backend.Cluster.Range(id)
	if !ok {
		return nil, 0, shard.ErrUnavailable
	}
	req.Generation = uint64(d.Generation)
	last := shard.ErrUnavailable
	for _, rep := range d.Replicas {
		evs, next, err := h.ask(ctx, rep.Node, req)
		var compacted *shard.CompactedError
		if err == nil || errors.As(err, &compacted) {
			return evs, next, err
		}
		last = err
	}
	return nil, 0, last
}

func (h *history) ask(ctx context.Context, node shard.NodeID, req *pb.HistoryRequest) ([]*shard.Event, int64, error) {
	resp, err := h.backend.Peers.Call(ctx, node, &pb.PeerRequest{History: req})
	if err != nil {
		return nil, 0, err
	}
	if resp.History == nil {
		return nil, 0, shard.ErrUnavailable
	}
	return pb.ToEvents(resp.History.Events), resp.History.Next, nil
}
