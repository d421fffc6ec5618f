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

// leaderGuard watches the lead on behalf of one stream, on that stream's own goroutine. A
// guard of a stream that does not want one never ticks.
type leaderGuard struct {
	leadership Leadership
	ticker     *time.Ticker
	missed     int
}

func (a *API) guardLeader(ctx context.Context) *leaderGuard {
	g := &leaderGuard{leadership: a.cfg.Leadership}
	if wantsLeader(ctx) {
		g.ticker = time.NewTicker(a.cfg.ElectionTimeout)
	}
	return g
}

// tick is the channel after whose signals lost is to be asked; nil when nobody wants to know.
func (g *leaderGuard) tick() <-chan time.Time {
	if g.ticker == nil {
		return nil
	}
	return g.ticker.C
}

// lost reports whether the lead of the meta group, or of a range in spans, has been vacant
// for too long.
func (g *leaderGuard) lost(spans []shard.Span) bool {
	if g.leadership.HasLeader(spans) {
		g.missed = 0
		return false
	}
	g.missed++
	return g.missed >= leaderlessTicksMax
}

func (g *leaderGuard) stop() {
	if g.ticker != nil {
		g.ticker.Stop()
	}
}
