package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"pontoon/internal/etcdapi"
	"pontoon/internal/meta"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/mvcc"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// openMeta opens this node's replica of the meta group, where it has one, and the client.
func (s *Server) openMeta() error {
	ops := placement.Plan(placement.Snapshot{Members: s.cfg.Members, SplitKeys: s.cfg.SplitKeys, ReplicationFactor: s.cfg.ReplicationFactor})
	if len(ops) == 0 {
		return fmt.Errorf("server: %w: the initial cluster has no voting member", shard.ErrInvalid)
	}
	plan := ops[0].Bootstrap
	plan.ClusterId = s.cfg.ClusterID
	desc := pb.ToDescriptor(plan.Meta)
	conf := metaclient.Config{Self: s.cfg.NodeID, Calls: s.mesh, Meta: desc, ElectionTimeout: s.cfg.Election}
	self, here := desc.ReplicaOn(s.cfg.NodeID)
	if !here {
		s.client = metaclient.New(conf)
		return nil
	}
	dir := filepath.Join(s.cfg.DataDir, "meta")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mode := meta.ModeLease
	if s.cfg.QuorumOracle {
		mode = meta.ModeQuorum
	}
	m, err := meta.Open(meta.Config{
		Node: s.cfg.NodeID, Host: s.host, Dir: dir, Desc: desc, Bootstrap: plan, Now: bootClock,
		ElectionTimeout: s.cfg.Election, Mode: mode, Logger: s.log,
	})
	if err != nil {
		return err
	}
	conf.Local = m
	s.meta, s.client = m, metaclient.New(conf)
	return s.host.AddGroup(raftgroup.GroupConfig{
		ID: shard.MetaID, Replica: self.ID, Peers: peersOf(desc), SM: m,
		Observer: &metaObserver{Meta: m, s: s}, Lease: !s.cfg.QuorumOracle, NoQuiesce: true,
		CampaignNow: preferred(desc) == self.ID,
	})
}

// metaObserver counts leader changes besides telling the meta group's replica.
type metaObserver struct {
	*meta.Meta
	s    *Server
	last shard.ReplicaID
}

// LeaderChanged implements raftgroup.Observer.
func (o *metaObserver) LeaderChanged(l raftgroup.Leadership) {
	if l.Leader != 0 && l.Leader != o.last {
		o.last = l.Leader
		o.s.leaderChanges.Add(1)
		o.s.log.Info("the meta group has a leader", "leader", l.Leader, "term", l.Term, "this_node", l.IsLeader)
	}
	o.Meta.LeaderChanged(l)
}

func peersOf(d shard.Descriptor) map[shard.ReplicaID]shard.NodeID {
	peers := make(map[shard.ReplicaID]shard.NodeID, len(d.Replicas))
	for _, r := range d.Replicas {
		peers[r.ID] = r.Node
	}
	return peers
}

// openRanges builds what serves requests: the router, the hub and the set of local replicas.
func (s *Server) openRanges() error {
	s.ranges = newRanges(s.cfg.NodeID, s.memory, s.host, s.log, s.cfg.DataDir, s.cfg.Election, s.openReplica)
	s.feeds = newFeeds(s.ctx, s.ranges, s.log, s.findRange, s.mesh.OpenFeed)
	s.ranges.repairs.moved, s.ranges.repairs.successor = s.feeds.moved, s.successor
	s.closer = newCloser(closerEnv{
		leaders: func(visit func(closable)) { s.ranges.each(func(r *replica.Replica) { visit(r) }) },
		find: func(id shard.RangeID) (closable, bool) {
			rep, ok := s.ranges.get(id)
			return rep, ok
		},
		behind: func(rev int64) (behind bool) {
			s.ranges.each(func(r *replica.Replica) { behind = behind || r.ClosedRevision() < rev })
			return behind
		},
		newest: s.newest,
		current: func(ctx context.Context) (int64, shard.Epoch, error) {
			now, err := s.current(ctx)
			return now.Revision, now.Epoch, err
		},
		push: func(p *pb.ClosedPush) {
			s.tellOthers(func() *pb.PeerRequest { return &pb.PeerRequest{ClosedPush: p} })
		},
		ask: func(c *pb.CloseRequest) {
			s.tellOthers(func() *pb.PeerRequest { return &pb.PeerRequest{Close: c} })
		},
	})
	s.hub = watchfanout.NewHub(watchfanout.Config{
		History: &history{ranges: s.ranges, find: s.findRange, call: s.mesh.Call},
		Closer:  s.closer,
		Current: func(ctx context.Context) (int64, error) {
			now, err := s.current(ctx)
			return now.Revision, err
		},
		Map: s.client.Map, Subscribe: s.feeds.subscribe, Unsubscribe: s.feeds.unsubscribe,
		CompactRevision: s.compacted.Load, Logger: s.log,
	})
	s.feeds.publish, s.feeds.learn = s.hub.Publish, s.learn
	var err error
	s.router, err = router.New(router.Config{
		Peers: s.mesh, Cluster: clusterView{s}, Local: &localView{ranges: s.ranges, ask: s.closer.AskClose, hint: s.hintedLeader},
		Patience: s.cfg.patience(), Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.mesh.SetHandler(s.handle)
	s.mesh.SetFeedHandler(s.feeds.serve)
	if s.meta != nil {
		s.meta.SetRanges(s.router)
	}
	s.saved, err = loadMap(s.cfg.DataDir)
	s.fresh = err == nil && s.saved == nil
	return err
}

func (s *Server) findRange(id shard.RangeID) (shard.Descriptor, bool) {
	if m := s.client.Map(); m != nil {
		return m.Get(id)
	}
	return shard.Descriptor{}, false
}

func (s *Server) openReplica(d shard.Descriptor, self shard.Replica) (*replica.Replica, error) {
	return replica.Open(replica.Config{
		Desc: d, Self: self, Dir: filepath.Join(s.cfg.DataDir, "ranges"), Cache: s.cache, Store: mvcc.Options{Memory: s.memory},
		Host: s.host, Oracle: s.client, Leases: s.client, Ranges: s.router, TxnPatience: s.cfg.Election, TxnStats: &s.txns, Feed: s.feeds,
		Linger: s.linger, Wake: s.ranges.touched, Damaged: s.ranges.repairs.damaged, Logger: s.log,
	})
}

// mapRetry is the pause before what a map asks for is tried again.
const mapRetry = time.Second

// followMap opens the replicas that a former life of this node has left, while the meta group elects
// its leader. Then it opens those of every new range map, keeps it, and tells the hub.
func (s *Server) followMap() {
	if s.saved != nil {
		s.openAll(s.saved, false) // a newer map comes, and what has failed is tried again with it
	}
	var done *shard.Map
	for {
		changed := s.client.Changed()
		var retry <-chan time.Time
		if m := s.client.Map(); m != nil && m != done {
			if s.mapChanged(m) {
				done = m
			} else {
				retry = time.After(mapRetry)
			}
		}
		select {
		case <-changed:
		case <-retry:
		case <-s.ctx.Done():
			return
		}
	}
}

// mapChanged does what a new map asks for; false if some of it has to be tried again.
func (s *Server) mapChanged(m *shard.Map) bool {
	ok := s.openAll(m, s.fresh)
	if err := saveMap(s.cfg.DataDir, m); err != nil { // it only makes the next start quicker
		s.log.Error("the range map could not be kept in the data directory", "error", err)
		ok = false
	}
	s.hub.MapChanged()
	s.mapped.Store(true)
	return ok
}

// openAll opens the replicas that a map places here; false if one could not be opened for now. What has
// become of its data ends the node, but not that there was no file or no memory to be had.
func (s *Server) openAll(m *shard.Map, campaign bool) bool {
	err := s.ranges.reconcile(m, campaign)
	switch {
	case err == nil:
		return true
	case errors.Is(err, shard.ErrCorrupt):
		s.fail(fmt.Errorf("server: %w", err))
	default:
		s.log.Error("a replica could not be opened; it is tried again", "error", err)
	}
	return false
}

func (s *Server) openAPI() error {
	var err error
	s.api, err = etcdapi.New(etcdapi.Config{
		KV: s.router, Leases: &leases{client: s.client, router: s.router},
		Watch:   func(o watchfanout.StreamOptions) etcdapi.WatchStream { return s.hub.NewStream(o) },
		Cluster: s, Maintenance: &maintenance{s}, Header: s, Leadership: s,
		MaxRequestBytes: s.cfg.MaxRequestBytes, MaxTxnOps: s.cfg.MaxTxnOps, MaxConcurrentStreams: s.cfg.MaxConcurrentStreams,
		ProgressInterval: s.cfg.ProgressInterval, ElectionTimeout: s.cfg.Election,
		Registerer: s.cfg.Registry, ExtensiveMetrics: s.cfg.ExtensiveMetrics, Logger: s.log,
	})
	return err
}

// run starts what runs: from here on the node takes part in the cluster.
func (s *Server) run() {
	s.startGossip()
	var gs peer.GossipService
	if s.gossip != nil {
		gs = s.gossip.Service()
	}
	s.servePeers(peer.NewServer(peer.Identity{ClusterID: s.cfg.ClusterID, Node: s.cfg.NodeID}, s.transport, s.mesh, gs))
	s.serveMetrics()
	s.background(func() {
		if err := s.host.Run(s.ctx); err != nil && s.ctx.Err() == nil {
			s.fail(fmt.Errorf("server: %w", err))
		}
	})
	s.background(s.followMap)
	s.background(func() { s.closer.run(s.ctx) })
	s.background(func() { s.ranges.maintain(s.ctx, s.ready) })
	s.background(func() { s.ranges.lookThrough(s.ctx) })
	s.background(func() { s.ranges.repairs.run(s.ctx) })
	s.background(s.tellLeads)
	s.background(s.join)
}

func (s *Server) background(fn func()) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		fn()
	}()
}

// join waits until the cluster serves, and then serves clients. It tries for as long as the
// node runs: members of a new cluster start in any order, at any time.
func (s *Server) join() {
	said := time.Now()
	for s.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(s.ctx, s.cfg.patience())
		err := s.tryJoin(ctx)
		cancel()
		if err == nil {
			break
		}
		if s.ctx.Err() != nil {
			return
		}
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			s.log.Warn("waiting for a quorum of the cluster", "error", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.log.Info("published local member to cluster through raft",
		"local-member-id", s.cfg.NodeID.String(), "cluster-id", fmt.Sprintf("%x", s.cfg.ClusterID), "name", s.cfg.Name)
	s.serveClients()
	s.api.SetServing(true)
	close(s.ready)
}

// tryJoin returns nil once the oracle answers, the ranges are known, every local replica knows a
// leader, and this member's client URLs are published.
func (s *Server) tryJoin(ctx context.Context) error {
	if err := s.awaitMetaLeader(ctx); err != nil {
		return err
	}
	if _, err := s.client.Current(ctx); err != nil {
		return err
	}
	if s.client.Map() == nil {
		if err := s.client.Refresh(ctx); err != nil {
			return err
		}
	}
	for !s.mapped.Load() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the ranges of this node are not open yet: %w", ctx.Err())
		case <-time.After(joinPoll):
		}
	}
	if err := s.client.Publish(ctx, s.cfg.NodeID, s.cfg.Name, s.cfg.ClientURLs); err != nil {
		return err
	}
	return s.awaitLeaders(ctx)
}

// joinPoll is how often a node that starts looks whether it can go on.
const joinPoll = 5 * time.Millisecond

// awaitMetaLeader waits, where a replica of the meta group is here, until it knows its leader: asking
// before that is in vain, and pauses grow.
func (s *Server) awaitMetaLeader(ctx context.Context) error {
	for s.meta != nil && s.metaLeader() == 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the meta group has no leader yet: %w", ctx.Err())
		case <-time.After(joinPoll):
		}
	}
	return nil
}

// awaitLeaders waits until every range with a replica here has a leader, but not for ever: a
// range that has lost its quorum must not keep the others from being served.
func (s *Server) awaitLeaders(ctx context.Context) error {
	deadline := time.Now().Add(5 * s.cfg.Election)
	for {
		missing := 0
		s.ranges.each(func(r *replica.Replica) {
			if st, ok := s.host.Status(r.ID()); ok && st.Leader == 0 {
				missing++
			}
		})
		if missing == 0 || time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d ranges have no leader yet: %w", missing, ctx.Err())
		case <-time.After(joinPoll):
		}
	}
}

// seeds are the other members, for gossip.
func (s *Server) seeds() []shard.NodeID {
	var ids []shard.NodeID
	for _, m := range s.members() {
		if m.ID != s.cfg.NodeID {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// hostPort is the address of a URL.
func hostPort(raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return "", false
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "2380"), true
	}
	return u.Host, true
}
