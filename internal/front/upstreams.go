package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// upstreamLook is how often it is looked who is at a URL where nobody was, or somebody else; upstreamAgain where feeds are refused.
	upstreamLook  = time.Second
	upstreamAgain = 5 * time.Second
	// upstreamPatience bounds the question.
	upstreamPatience = 2 * time.Second
)

// UpstreamNodes finds gateways at the URLs where they serve others.
type UpstreamNodes interface {
	// Find asks who is at a URL.
	Find(ctx context.Context, url string) (*pb.DiscoverResponse, error)
	// Place says at which URL a gateway is to be reached from here on; "": nowhere.
	Place(node shard.NodeID, url string)
}

// upstreams are the gateways that feeds are to come from, before they come from members.
type upstreams struct {
	self    shard.NodeID
	cluster uint64
	nodes   UpstreamNodes
	log     *slog.Logger
	look    chan struct{}     // one of them is to be found again
	changed func(*pb.LinkWay) // hears of each new way of the feeds; called one at a time, and must not block

	mu  sync.Mutex
	all []*upstream
	way *pb.LinkWay
}

// upstream is one of them.
type upstream struct {
	url     string
	node    shard.NodeID // who is there; 0: nobody
	way     *pb.LinkWay
	refused error     // why no feed is had from there
	silent  bool      // nobody is there, which was said
	due     time.Time // when it is looked again
}

func newUpstreams(urls []string, self shard.NodeID, cluster uint64, nodes UpstreamNodes, log *slog.Logger) *upstreams {
	u := &upstreams{self: self, cluster: cluster, nodes: nodes, log: log, look: make(chan struct{}, 1), changed: func(*pb.LinkWay) {}, way: link.NewWay(self)}
	for _, url := range urls {
		u.all = append(u.all, &upstream{url: url})
	}
	return u
}

// run finds who is there, until ctx ends.
func (u *upstreams) run(ctx context.Context) {
	if len(u.all) == 0 {
		return
	}
	for {
		var finding sync.WaitGroup
		for _, up := range u.due(time.Now()) {
			finding.Go(func() { u.find(ctx, up) })
		}
		finding.Wait()
		timer := time.NewTimer(upstreamLook)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-u.look:
			timer.Stop()
			if patience.Pause(ctx, feedRetry) != nil {
				return
			}
		case <-timer.C:
		}
	}
}

// due are those that are to be found.
func (u *upstreams) due(now time.Time) (due []*upstream) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.all {
		if up.node == 0 && !up.due.After(now) {
			due = append(due, up)
		}
	}
	return due
}

func (u *upstreams) find(ctx context.Context, up *upstream) {
	ctx, cancel := context.WithTimeout(ctx, upstreamPatience)
	found, err := u.nodes.Find(ctx, up.url)
	cancel()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		up.due = time.Now().Add(upstreamLook)
		if !up.silent && ctx.Err() == nil {
			u.log.Warn("no gateway is reached at an upstream URL", "url", up.url, "error", err)
		}
		up.silent = true
		u.refuse(up, nil)
		return
	}
	up.silent = false
	switch node := shard.NodeID(found.NodeId); {
	case found.ClusterId != u.cluster:
		err = fmt.Errorf("it belongs to cluster %x, and this gateway to %x: name another one with --upstream", found.ClusterId, u.cluster)
	case found.Way == nil:
		err = errors.New("it is no gateway: --upstream names URLs at which gateways listen for others, with --listen-peer-urls; members are named by --join")
	default:
		if err = link.CheckWay(u.self, found.Way); err == nil {
			up.node, up.way = node, found.Way
			u.nodes.Place(node, up.url)
			u.log.Info("feeds come from another gateway, where it has them", "url", up.url, "gateway", node.String(), "level", found.Way.Level+1)
		}
	}
	u.refuse(up, err)
	u.rise()
}

// refuse notes why feeds are not had from one, or that they are, and says so once. The caller holds mu.
func (u *upstreams) refuse(up *upstream, err error) {
	if err != nil {
		u.leave(up)
		up.due = time.Now().Add(upstreamAgain/2 + rand.N(upstreamAgain)) // of two that refuse each other one is to come first
		if up.refused == nil || up.refused.Error() != err.Error() {
			u.log.Error("no feeds are had from an upstream gateway; they come from other upstreams, or from members", "url", up.url, "error", err)
		}
	}
	up.refused = err
}

// leave forgets who is at a URL. The caller holds mu.
func (u *upstreams) leave(up *upstream) {
	if up.node != 0 {
		u.nodes.Place(up.node, "")
	}
	up.node, up.way = 0, nil
}

// rise tells of the way of the feeds, if it is another one. The caller holds mu.
func (u *upstreams) rise() {
	var ways []*pb.LinkWay
	for _, up := range u.all {
		if up.way != nil {
			ways = append(ways, up.way)
		}
	}
	now := link.NewWay(u.self, ways...)
	if now.Level == u.way.Level && slices.Equal(now.Gateways, u.way.Gateways) {
		return
	}
	u.way = now
	u.changed(now)
}

// follow has each new way told, and the present one.
func (u *upstreams) follow(changed func(*pb.LinkWay)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changed = changed
	changed(u.way)
}

// current is the way of the feeds.
func (u *upstreams) current() *pb.LinkWay {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.way
}

// candidates adds those from which feeds may be had.
func (u *upstreams) candidates(nodes []shard.NodeID) []shard.NodeID {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.all {
		if up.node != 0 && !slices.Contains(nodes, up.node) {
			nodes = append(nodes, up.node)
		}
	}
	return nodes
}

// learn takes the way by which feeds come to one to which there is a link. An error ends the link.
func (u *upstreams) learn(node shard.NodeID, way *pb.LinkWay) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.all {
		if up.node != node {
			continue
		}
		err := link.CheckWay(u.self, way)
		up.way = way
		u.refuse(up, err)
		u.rise()
		return err
	}
	return nil
}

// broke says that the link to a node has broken: who is there now may be another one.
func (u *upstreams) broke(node shard.NodeID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.all {
		if up.node == node {
			u.leave(up)
			up.due = time.Time{}
			u.rise()
			patience.Wake(u.look)
		}
	}
}

// tell is what is shown of them.
func (u *upstreams) tell(feeds func(shard.NodeID) int) (out []*pb.GatewayUpstream) {
	u.mu.Lock()
	for _, up := range u.all {
		g := &pb.GatewayUpstream{Url: up.url, Gateway: uint64(up.node)}
		if up.refused != nil {
			g.Refused = up.refused.Error()
		}
		out = append(out, g)
	}
	u.mu.Unlock()
	for _, g := range out {
		if g.Gateway != 0 {
			g.Feeds = int64(feeds(shard.NodeID(g.Gateway)))
		}
	}
	return out
}
