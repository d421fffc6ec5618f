package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc/credentials"

	"pontoon/internal/clusterversion"
	"pontoon/internal/config"
	"pontoon/internal/datadir"
	"pontoon/internal/discovery"
	"pontoon/internal/manifest"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/restore"
	"pontoon/shard"
)

// How long one peer is asked, as in etcd: by a node that joins, which needs an answer, and by one of a new cluster, which mostly gets none.
const (
	joinAsk      = 10 * time.Second
	bootstrapAsk = time.Second
)

// firstStart finds out who a node without data is: a member of a new cluster, or one that was added to a cluster that is there.
func firstStart(cfg *config.Config, secure func() (endpoints, error), signals <-chan os.Signal, lg *slog.Logger) (datadir.Identity, error) {
	src, err := restore.Find(cfg.DataDir, cfg.WALDir)
	if err != nil {
		return datadir.Identity{}, err
	}
	if src == nil && cfg.Discovery.On() {
		if err := untilSignal(signals, lg, func(ctx context.Context) error { return findMembers(ctx, cfg, lg) }); err != nil {
			return datadir.Identity{}, err
		}
	}
	tls, err := secure()
	if err != nil {
		return datadir.Identity{}, err
	}
	creds := tls.credentials()
	if src != nil {
		return beginWith(cfg, src, creds, lg)
	}
	if !cfg.IsNewCluster() {
		if err := join(cfg, creds); err != nil {
			return datadir.Identity{}, err
		}
		lg.Info("the node joins a cluster", "local-member-id", cfg.NodeID.String(), "cluster-id", fmt.Sprintf("%x", cfg.ClusterID))
		return datadir.Identity{Cluster: cfg.ClusterID, Node: cfg.NodeID, Members: cfg.Members, Joined: true}, nil
	}
	// Whoever answers knows the cluster, if it is there. That nobody does is what a new cluster looks like.
	if found, err := discover(cfg.Others(), creds, bootstrapAsk, false); err == nil {
		if err := mayBootstrap(cfg, found, lg); err != nil {
			return datadir.Identity{}, err
		}
	}
	return datadir.Identity{Cluster: cfg.ClusterID, Node: cfg.NodeID, Members: cfg.Members}, nil
}

// mayBootstrap holds a first start against what the members say that are there.
func mayBootstrap(cfg *config.Config, found *pb.DiscoverResponse, lg *slog.Logger) error {
	if err := cfg.MayBootstrap(found.ClusterId, pb.ToMembers(found.Members)); err != nil {
		return err
	}
	if found.ClusterId != cfg.ClusterID {
		lg.Warn("members of another cluster are still at the addresses that --initial-cluster names; this node waits for others of its own",
			"cluster-id", fmt.Sprintf("%x", cfg.ClusterID), "their-cluster-id", fmt.Sprintf("%x", found.ClusterId))
	}
	return nil
}

// findMembers asks for the members of the cluster, which --initial-cluster does not name.
func findMembers(ctx context.Context, cfg *config.Config, lg *slog.Logger) (err error) {
	d := &cfg.Discovery
	var found string
	switch {
	case d.ByDNS():
		if found, err = discovery.Records(ctx, d, cfg.Name, cfg.AdvertisePeerURLs, lg); err != nil {
			return fmt.Errorf("error setting up initial cluster: %w", err)
		}
	case !cfg.IsNewCluster():
		return errors.New("discovery URL should not be set when joining existing initial cluster")
	default:
		lg.Info("Bootstrapping cluster using v3 discovery.")
		if found, err = discovery.Join(ctx, d, cfg.NodeID, config.OwnEntry(cfg), lg); err != nil {
			return err
		}
	}
	if err := cfg.Discovered(found); err != nil {
		return err
	}
	cfg.Discovery.Verify(cfg.Members, &cfg.PeerTLS)
	return nil
}

// beginWith makes a snapshot the beginning of a new cluster's member. Who it is, the snapshot's directory says, as in etcd, whatever the flags say.
func beginWith(cfg *config.Config, src *restore.Source, creds func(addr string) credentials.TransportCredentials, lg *slog.Logger) (datadir.Identity, error) {
	plan := manifest.Plan{SplitKeys: cfg.InitialSplitKeys}
	if cfg.Explicit("initial-ranges") {
		plan.Ranges = cfg.InitialRanges
	}
	got, err := restore.Import(restore.Config{Source: src, DataDir: cfg.DataDir, Plan: plan, ReplicationFactor: cfg.ReplicationFactor, Logger: lg})
	if err != nil {
		return datadir.Identity{}, err
	}
	cfg.ClusterID, cfg.NodeID, cfg.Members = got.Cluster, src.Node, src.Members
	if found, err := discover(cfg.Others(), creds, bootstrapAsk, false); err == nil {
		if err := mayBootstrap(cfg, found, lg); err != nil {
			return datadir.Identity{}, err
		}
	}
	return datadir.Identity{Cluster: got.Cluster, Node: src.Node, Members: src.Members, Restored: got.Digest}, nil
}

// join makes the node a member of the cluster that its peers belong to.
func join(cfg *config.Config, creds func(addr string) credentials.TransportCredentials) error {
	found, err := discover(cfg.Others(), creds, joinAsk, true)
	if err != nil {
		return fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	if err := clusterversion.Newest.Join(clusterversion.Version(found.ClusterVersion)); err != nil {
		return fmt.Errorf("incompatible with current running cluster: %w", err)
	}
	return cfg.Join(found.ClusterId, shard.PresentMembers(pb.ToMembers(found.Members)))
}

var errNobodyKnows = errors.New("could not retrieve cluster information from the given URLs")

// discover asks peers at some URLs, one after the other, until one knows the members of its cluster.
func discover(urls []string, creds func(addr string) credentials.TransportCredentials, each time.Duration, confirm bool) (*pb.DiscoverResponse, error) {
	errs := []error{errNobodyKnows}
	for _, u := range urls {
		addr, ok := peer.URLAddr(u)
		if !ok {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), each)
		found, err := peer.Discover(ctx, creds, addr, confirm)
		cancel()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", u, err))
		case !found.Bootstrapped:
			errs = append(errs, fmt.Errorf("%s: it belongs to no cluster yet", u))
		default:
			return found, nil
		}
	}
	return nil, errors.Join(errs...)
}
