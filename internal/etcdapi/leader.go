package etcdapi

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"pontoon/shard"
)

// leaderlessTicksMax is how many checks in a row may find no leader before a stream ends. To
// connect a stream anew costs much more than to refuse a request, so streams have patience.
const leaderlessTicksMax = 3

// wantsLeader reports whether the client asked to be turned away where there is no leader.
func wantsLeader(ctx context.Context) bool {
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// leaderGuard watches the lead on behalf of one stream, which asks it now and then, one question at a time. A
// guard of a stream that does not want one has more patience, if any: nobody has asked for it, but a stream on which nothing can come is better
// opened elsewhere.
type leaderGuard struct {
	leadership Leadership
	every      time.Duration // how often the stream is to ask; 0: it may stay
	missed     int
	missedMax  int
	end        error // of the stream
}

func (a *API) guardLeader(ctx context.Context) *leaderGuard {
	g := &leaderGuard{leadership: a.cfg.Leadership}
	switch {
	case wantsLeader(ctx):
		g.every, g.missedMax, g.end = a.cfg.ElectionTimeout, leaderlessTicksMax, rpctypes.ErrGRPCNoLeader
	case a.cfg.OrphanStreams > 0:
		g.every, g.missedMax, g.end = jittered(a.cfg.OrphanStreams/leaderlessTicksMax), leaderlessTicksMax+1, errOrphan
	}
	return g
}

// ticks are the moments at which lost is to be asked, until stop is called; nil when nobody wants to know.
func (g *leaderGuard) ticks() (ticks <-chan time.Time, stop func()) {
	if g.every == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(g.every)
	return t.C, t.Stop
}

// lost reports whether the lead of the meta group, or of a range in spans, has been vacant
// for too long.
func (g *leaderGuard) lost(spans []shard.Span) bool {
	if g.leadership.HasLeader(spans) {
		g.missed = 0
		return false
	}
	g.missed++
	return g.missed >= g.missedMax
}
