package main

import (
	"pontoon/internal/compactor"
	"pontoon/internal/config"
	"pontoon/internal/corruption"
	"pontoon/internal/failpoint"
	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/peer"
	"pontoon/internal/restore"
	"pontoon/internal/server"
	"pontoon/internal/tuning/memory"
	"pontoon/placement"
	"pontoon/shard"
)

// startServer translates what the process was told into what a server is built of.
func startServer(p parts) (node, error) {
	if err := failpoint.Serve(); err != nil {
		return nil, err
	}
	c := p.cfg
	if config.IsGateway(c) {
		return startGateway(p)
	}
	plan, err := restore.LoadPlan(c.DataDir)
	if err != nil {
		return nil, err
	}
	mode, _ := placement.ModeNamed(c.Placement) // it was checked
	return server.New(server.Config{
		Host: host.Config{
			Name: c.Name, Identity: peer.Identity{ClusterID: c.ClusterID, Node: c.NodeID}, Members: c.Members, Joined: c.Joined, Bootstrap: plan,
			DataDir: c.DataDir, LogDir: c.RaftLogDir(),
			Peer: listeners(p.peer), TLS: p.tls.peer, ClientURLs: config.URLStrings(c.AdvertiseClientURLs),
			SplitKeys: splitKeys(c), ReplicationFactor: c.ReplicationFactor,
			Heartbeat: c.HeartbeatInterval, QuorumOracle: c.OracleMode == config.OracleQuorum, LingerMax: c.BatchLingerMax,
			ShutdownTimeout: c.ShutdownTimeout, Placement: mode, RangeMaxBytes: c.RangeMaxBytes, QuotaBytes: c.QuotaBackendBytes, DeadAfter: c.DeadAfter, MergeAfter: c.MergeAfter, SnapshotRate: int(c.SnapshotRate),
			RequestsMax: int(c.RequestsMax), RequestsMaxBytes: c.RequestsMaxBytes,
			DefragmentAtStart: int64(c.BootstrapDefragThresholdMegabytes) << 20,
			CatchUpEntries:    c.SnapshotCatchUpEntries, CacheBytes: c.CacheBytes, SlowApply: c.WarningApplyDuration,
		},
		Front:    frontConfig(p),
		Election: c.ElectionTimeout, Registry: p.registry, Logger: p.logger,
	})
}

// frontConfig is what serves clients, in a member.
func frontConfig(p parts) front.Config {
	c := p.cfg
	return front.Config{
		Client: listeners(p.client), ClientHTTP: listeners(p.clientHTTP), Metrics: listeners(p.metrics), TLS: p.tls.client,
		Corruption:  replicaChecks(c),
		Compaction:  compactor.Plan{Mode: compactor.Mode(c.AutoCompactionMode), Period: c.CompactPeriod, Count: c.CompactKeep},
		Auth:        front.AuthConfig{Token: c.AuthToken, TokenTTL: c.AuthTokenTTL, BcryptCost: int(c.BcryptCost), CertificateNames: c.ClientTLS.ClientCertAuth},
		Members:     front.MemberRules{Strict: c.StrictReconfigCheck, LearnersMax: c.MaxLearners},
		RequestsMax: int(c.RequestsMax), RequestsMaxBytes: c.RequestsMaxBytes, ListsMaxBytes: c.ListsMaxBytes,
		MaxRequestBytes: int(c.MaxRequestBytes), MaxTxnOps: int(c.MaxTxnOps), MaxConcurrentStreams: c.MaxConcurrentStreams,
		ProgressInterval: c.WatchProgressNotifyInterval, DeliveryLinger: c.DeliveryLingerMax, KeepAliveMinTime: c.GRPCKeepAliveMinTime,
		KeepAliveInterval: c.GRPCKeepAliveInterval, KeepAliveTimeout: c.GRPCKeepAliveTimeout,
		OrphanStreams: c.OrphanStreams, RingBytes: int(c.RingBytes), DeliveryBytes: int(c.DeliveryMemory.Of(memory.Limit(), 0)), DrainPeriod: c.DrainPeriod, MaxConnectionAge: c.MaxConnectionAge, MaxConnectionAgeGrace: c.MaxConnectionAgeGrace,
		SlowRequest: c.WarningUnaryRequestDuration,
		Pprof:       c.EnablePprof, JSON: c.EnableGRPCGateway, ExtensiveMetrics: c.MetricsExtensive, CORS: c.CORS, Hosts: c.HostWhitelist,
	}
}

func listeners(ls []listener) []server.Listener {
	out := make([]server.Listener, len(ls))
	for i, l := range ls {
		out[i] = server.Listener{Listener: l.Listener, URL: l.url.String(), TLS: l.tls, Plain: l.plain}
	}
	return out
}

// replicaChecks is when the node compares replicas.
func replicaChecks(c *config.Config) corruption.Plan {
	p := corruption.Plan{Every: c.CorruptCheckTime, First: c.InitialCorruptCheck}
	if c.CompactHashCheck {
		p.Compacted = c.CompactHashCheckTime
	}
	return p
}

func splitKeys(c *config.Config) [][]byte {
	if c.InitialRanges > 1 {
		return shard.SplitKeys(c.InitialRanges)
	}
	return c.InitialSplitKeys
}
