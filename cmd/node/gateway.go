package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"pontoon/internal/backend"
	"pontoon/internal/clusterversion"
	"pontoon/internal/compactor"
	"pontoon/internal/config"
	"pontoon/internal/corruption"
	"pontoon/internal/front"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/server"
	"pontoon/internal/tuning/memory"
	"pontoon/shard"
)

const (
	// clusterRetry is the pause before members are asked again of which cluster they are.
	clusterRetry = time.Second
	// clusterSaid is how often the log says that nobody has answered.
	clusterSaid = 15 * time.Second
)

// runGateway finds the cluster, opens what a gateway needs, runs it until a signal or an error, and stops it. It keeps nothing: it is another gateway
// each time that it starts.
func runGateway(cfg *config.Config, lg *slog.Logger, signals <-chan os.Signal, start starter) error {
	defer tune(cfg, lg)()
	tls, err := openEndpoints(cfg, lg)
	if err != nil {
		return err
	}
	var found *pb.DiscoverResponse
	err = untilSignal(signals, lg, func(ctx context.Context) error {
		found, err = awaitCluster(ctx, config.URLStrings(cfg.JoinURLs), tls.credentials(), lg)
		return err
	})
	if err != nil {
		return err
	}
	if err := clusterversion.Newest.Join(clusterversion.Version(found.ClusterVersion)); err != nil {
		return fmt.Errorf("incompatible with current running cluster: %w", err)
	}
	cfg.ClusterID, cfg.Members = found.ClusterId, shard.PresentMembers(pb.ToMembers(found.Members))
	for cfg.NodeID == 0 || shard.FindMember(cfg.Members, cfg.NodeID) >= 0 {
		cfg.NodeID = shard.NodeID(rand.Uint64())
	}
	p, err := open(cfg, tls, lg)
	if err != nil {
		return err
	}
	n, err := start(p)
	if err != nil {
		return err
	}
	lg.Info("a gateway, waiting for a quorum of the cluster", "name", cfg.Name, "gateway-id", cfg.NodeID.String(),
		"cluster-id", fmt.Sprintf("%x", cfg.ClusterID), "members", len(cfg.Members), "pontoon-version", version)
	return supervise(n, cfg.DrainPeriod, lg, signals)
}

// awaitCluster asks members until one of them knows its cluster, or ctx ends.
func awaitCluster(ctx context.Context, urls []string, creds func(addr string) credentials.TransportCredentials, lg *slog.Logger) (*pb.DiscoverResponse, error) {
	var said time.Time
	pause := time.NewTicker(clusterRetry)
	defer pause.Stop()
	for {
		found, err := discover(urls, creds, bootstrapAsk, false)
		if err == nil {
			return found, nil
		}
		if now := time.Now(); now.Sub(said) >= clusterSaid {
			said = now
			lg.Warn("no member that --join names has told of its cluster; asking again", "error", err)
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// autoSizeUnknown is what ranges that are listed often may take where nobody knows how much memory there is.
const autoSizeUnknown = 64 << 20

// startGateway translates what the process was told into what a gateway is built of.
func startGateway(p parts) (node, error) {
	c := p.cfg
	fc := frontConfig(p)
	fc.Corruption, fc.Compaction = corruption.Plan{}, compactor.Plan{} // are the members' to do
	fc.Gateway = &front.GatewayConfig{
		Name: c.Name, ClientURLs: config.URLStrings(c.AdvertiseClientURLs), Version: version, Members: c.MemberList == config.ListMembers,
		Chain: front.ChainConfig{Upstreams: config.URLStrings(c.UpstreamURLs), Links: listeners(p.peer), TLS: p.tls.peer},
	}
	fc.Mirror = front.MirrorConfig{
		Prefixes: c.MirrorPrefixes, History: c.MirrorHistory, SizeMax: int(c.MirrorSize), AuditEvery: c.MirrorAuditInterval,
		AutoSize: int(c.MirrorAutoSize.Of(memory.Limit(), autoSizeUnknown)),
	}
	if c.MirrorAuditInterval == 0 {
		fc.Mirror.AuditEvery = -1 // never
	}
	return server.NewGateway(server.GatewayConfig{
		Config: server.Config{Front: fc, Election: c.ElectionTimeout, Registry: p.registry, Logger: p.logger},
		Remote: backend.RemoteConfig{
			Identity: peer.Identity{ClusterID: c.ClusterID, Node: c.NodeID}, Members: c.Members, TLS: p.tls.peer.Dial(),
		},
	})
}
