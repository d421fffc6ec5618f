package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/failpoint"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/internal/tlsport"
	"pontoon/internal/tuning/linger"
	"pontoon/internal/underway"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
	"pontoon/raftgroup/transport"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/router"
)

// Open opens what the data directory holds. Nobody else may act for the node any more: the caller holds the
// lock of its data directory. Errors name what could not be opened; nothing is left open then.
func Open(cfg Config) (*Host, error) {
	cfg.setDefaults()
	cfg.Peer = httpapi.PeerPorts(cfg.Peer, peer.Unacknowledged, cfg.TLS.Listen, cfg.Logger)
	h := &Host{cfg: cfg, log: cfg.Logger, began: bootClock(), failed: make(chan error, 1)}
	h.opened(func() error { return httpapi.CloseAll(cfg.Peer) })
	err := cfg.Validate()
	for _, step := range (opening{Host: h, saved: &savedMap{dir: cfg.DataDir}, disk: newDiskFigures(), machines: newMachineFigures(cfg.SlowApply, cfg.Logger)}).steps() {
		if err == nil {
			err = cfg.fault(step.name)
		}
		if err == nil {
			err = step.open()
		}
		if err != nil {
			return nil, fmt.Errorf("host: %w", errors.Join(err, h.failure(), h.Close()))
		}
	}
	failpoint.Handle("transfer", h.transferLeaders)
	return h, nil
}

type step struct {
	name string
	open func() error
}

// opening is a host that is being opened.
type opening struct {
	*Host
	saved *savedMap // what a former life of the node knew of the cluster
	disk  *diskFigures
	// machines counts what the replicas do for their groups, the meta group's too.
	machines *machineFigures
}

// steps are those of Open, in order.
func (h opening) steps() []step {
	return []step{
		{"log", h.openLog}, {"cache", h.openCache}, {"saved", h.openSaved}, {"network", h.openNetwork}, {"groups", h.openGroups},
		{"meta", h.openMeta}, {"ranges", h.openRanges}, {"map", h.openLife},
		{"members", h.openMembers}, {"port", h.openPort}, {"metrics", h.registerMetrics},
	}
}

func (h opening) openLog() (err error) {
	dir := h.cfg.LogDir
	if dir == "" {
		dir = filepath.Join(h.cfg.DataDir, "raftlog")
	}
	h.raftLog, err = raftlog.Open(dir, raftlog.Options{FS: failpoint.FS(), Logger: h.log, OnFatal: h.logFailed, Wrote: h.disk.logged})
	if err != nil {
		return advise(err, "the shared log in "+dir, promisesLost)
	}
	h.opened(h.raftLog.Close)
	return nil
}

func (h opening) openCache() (err error) {
	if err := os.MkdirAll(h.rangesDir(), 0o700); err != nil {
		return err
	}
	h.memory = mvcc.NewMemory(h.cfg.UnsettledBytes)
	if h.cache, err = mvcc.NewCache(h.cfg.CacheBytes); err != nil {
		return err
	}
	h.opened(func() error {
		h.cache.Close()
		return nil
	})
	return nil
}

func (h opening) openSaved() error {
	if _, err := h.saved.load(); err != nil {
		return advise(err, savedMapFile+" in "+h.cfg.DataDir, hintLost)
	}
	return nil
}

func (h opening) openNetwork() error {
	self := h.cfg.Identity.Node
	members := h.cfg.Members
	if len(h.saved.about.members) > 0 {
		members = h.saved.about.members
	}
	h.net.directory = peer.NewDirectory(self, members)
	h.net.traffic = peer.NewTraffic(self, h.net.directory.Others)
	h.net.dialer = peer.NewDialer(peer.DialerConfig{
		Traffic:  h.net.traffic,
		Identity: h.cfg.Identity, Resolve: h.net.directory.Resolve, Credentials: h.cfg.credentials(),
		Refused: func(node shard.NodeID) { h.raft.PeerGone(node) },
	})
	h.opened(h.net.dialer.Close)
	h.net.transport = transport.New(transport.Config{
		Node: self, Dial: h.net.dialer.For(peer.ClassRaft), DialSnapshot: h.net.dialer.For(peer.ClassBulk),
		Handler: inbound{h.Host}, Logger: h.log, SnapshotRate: h.cfg.SnapshotRate,
	})
	h.opened(h.net.transport.Close)
	h.net.mesh = peerrpc.New(peerrpc.Config{
		Node: self, Dial: h.net.dialer.For(peer.ClassCalls), DialFeed: h.net.dialer.For(peer.ClassFeed), Logger: h.log,
		Handler: h.Handle, Link: h.serveLink,
		Hints: func() (int64, uint64) {
			rev, epoch := h.cluster.Newest()
			return rev, uint64(epoch)
		},
		Learn:  func(_ shard.NodeID, rev int64, epoch uint64) { h.cluster.Learn(rev, shard.Epoch(epoch)) },
		Relays: h.net.directory.Relays, SilenceTick: h.cfg.Election / 4,
		Acknowledged: func(n shard.NodeID) (time.Duration, bool) { return h.net.dialer.Acknowledged(n, peer.ClassCalls) },
	})
	h.opened(h.net.mesh.Close)
	return nil
}

// workers step the groups of a node; as many more apply.
const workers = 4

func (h opening) openGroups() (err error) {
	h.raft, err = raftgroup.NewHost(raftgroup.Config{
		Node: h.cfg.Identity.Node, Log: h.raftLog, Sender: h.net.transport, Now: bootClock, Alone: h.began,
		TickInterval: h.cfg.Heartbeat, ElectionTicks: int(h.cfg.Election / h.cfg.Heartbeat), HeartbeatTicks: 1,
		Workers: workers, CatchUpEntries: h.cfg.CatchUpEntries, Logger: h.log,
		OnStranger:   func(s raftgroup.Stranger) { h.ranges.newcomers.told(s) },
		OnGroupError: h.groupFailed, OnFatal: h.logFailed,
	})
	if err == nil {
		h.opened(h.raft.Close)
	}
	return err
}

// openRanges builds what holds the ranges. None is opened yet: the map says which.
func (h opening) openRanges() (err error) {
	h.ranges = newRanges(h.cfg.Identity.Node, h.memory, h.raft, h.log, h.cfg.DataDir, h.cfg.Election, rangesEnv{
		log:       h.raftLog,
		meta:      h.meta,
		present:   h.present,
		displaced: func(d shard.Descriptor) bool { m := h.cluster.Map(); return m != nil && m.Displaced(d) },
		refresh:   h.cluster.Refresh,
		linger:    linger.New(linger.Config{Max: h.cfg.LingerMax}),
		open:      h.openReplica,
		successor: func(d shard.Descriptor) shard.ReplicaID { return successor(h.cfg.Identity.Node, h.members, d) },
		moved:     func(id shard.RangeID) { h.feeds.replicaChanged(id) },
		born:      func(id shard.RangeID) { h.feeds.born(id) },
		watch:     h.machines.watch,
	})
	h.opened(func() error { return errors.Join(h.raft.Close(), h.ranges.close()) }) // nobody drives them then
	h.quota = newQuota(h.cfg.QuotaBytes, h.cfg.DataDir, func() int64 { return takenBy(h.ranges) }, func(ctx context.Context) error { return raiseNoSpace(ctx, h.Host) })
	h.ranges.defragmenter = newDefragmenter(h.ranges, h.cfg.DataDir, h.cfg.DefragmentAtStart)
	pins := newPins()
	h.opened(pins.close) // before the ranges, which wait for whoever reads them
	h.feeds = newFeeds(h.ranges)
	h.closer = newCloser(h.closerEnv())
	h.dispatch = &dispatch{
		self: h.cfg.Identity.Node, cluster: h.cluster, ranges: h.ranges, closer: h.closer, meta: h.meta, status: h.nodeStatus, vitals: newVitals(h.cfg.DataDir), sums: newSums(h.ranges.sizes),
		pages: newPool(pagesAtOnce, pagesWaiting), scans: newPool(scansAtOnce, scansWaiting), hashes: newPool(hashesAtOnce, hashesWaiting), pins: pins,
		room: underway.NewRoom(h.cfg.RequestsMax, h.cfg.RequestsMaxBytes),
	}
	h.router, err = router.New(router.Config{
		Peers: h.net.mesh, Cluster: h.cluster, Local: h.localView(), Patience: h.cfg.Patience, Logger: h.log,
	})
	return err
}

// present is what the newest map of the meta group says of a range, or of the group itself.
func (h opening) present(id shard.RangeID) (shard.Descriptor, bool) {
	if id == shard.MetaID {
		v := h.cluster.Client.View()
		return v.Meta, v.Map != nil
	}
	return h.cluster.Range(id)
}

func (h opening) openReplica(d shard.Descriptor, self shard.Replica, closed int64) (*replica.Replica, error) {
	return replica.Open(replica.Config{
		Desc: d, Self: self, Closed: closed, Dir: h.rangesDir(), Nodes: h.net.mesh, Births: h.ranges.births, Neighbours: neighbours{h.ranges}, Copying: h.ranges.copying, Cache: h.cache, Store: mvcc.Options{Memory: h.memory, Committed: h.disk.committed, Sweep: h.ranges.scheduler.compactions.sweep},
		Host: h.raft, Oracle: h.cluster.Client, Leases: h.cluster.Client, Settings: h.cluster.Client.Settings, Quota: h.quota, Ranges: h.router, TxnPatience: h.cfg.Election,
		TxnStats: &h.ranges.txns, Feed: h.feeds, Linger: h.ranges.linger,
		Wake: h.ranges.scheduler.touch, Removed: h.ranges.removals.push, Damaged: h.ranges.repairs.damaged, Logger: h.log,
	})
}

// openPort prepares the service of the peer port, which Run serves.
func (h opening) openPort() error {
	opts := append(peer.ServerOptions(), grpc.StatsHandler(h.net.traffic.Accepted()))
	if h.cfg.TLS != nil {
		opts = append(opts, grpc.Creds(tlsport.Accepted()))
	}
	h.net.server = grpc.NewServer(opts...)
	peer.NewServer(h.cfg.Identity, h.newReception(), h.net.transport, h.net.mesh, h.members.service()).Register(h.net.server)
	h.opened(func() error {
		h.net.server.Stop()
		return nil
	})
	return nil
}
