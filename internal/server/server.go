package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/etcdapi"
	"pontoon/internal/failpoint"
	"pontoon/internal/linger"
	"pontoon/internal/meta"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/mvcc"
	"pontoon/placement/gossip"
	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
	"pontoon/raftgroup/transport"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/router"
	"pontoon/watchfanout"
)

// Server is a running node.
type Server struct {
	cfg   Config
	log   *slog.Logger
	began time.Time // by bootClock

	ctx      context.Context // ends when the node stops
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	done     chan error
	ready    chan struct{}
	stopping atomic.Bool // from here on accept loops end because they are told to
	stop     sync.Once
	stopEr   error

	raftLog   *raftlog.Store
	cache     *mvcc.Cache
	memory    *mvcc.Memory
	dialer    *peer.Dialer
	transport *transport.Transport
	mesh      *peerrpc.Mesh
	clients   *peerrpc.Mesh // serves routing clients
	gossip    *gossip.Gossip
	host      *raftgroup.Host
	meta      *meta.Meta
	client    *metaclient.Client
	ranges    *ranges
	feeds     *feeds
	hub       *watchfanout.Hub
	closer    *closer
	router    *router.Router
	api       *etcdapi.API
	fronts    fronts

	compacted     atomic.Int64 // the newest compaction revision seen
	mapped        atomic.Bool  // a map of the meta group has been acted upon
	leaderChanges atomic.Int64
	txns          replica.TxnStats
	linger        *linger.Linger
	saved         *shard.Map // of a former life
	fresh         bool       // the node has never held a replica
}

// New builds a node and starts it. Nobody else may act for it any more: whoever calls New holds the lock of
// its data directory. Ready tells when it serves clients. Errors name what could not be opened; nothing is
// left running then.
func New(cfg Config) (*Server, error) {
	cfg.setDefaults()
	cfg.makePatient()
	s := &Server{cfg: cfg, log: cfg.Logger, began: bootClock(), linger: linger.New(linger.Config{Max: cfg.LingerMax}), done: make(chan error, 1), ready: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	err := cfg.Validate()
	if err == nil {
		err = s.start()
	}
	if err != nil {
		s.closeListeners()
		return nil, errors.Join(err, s.Stop(context.Background()))
	}
	return s, nil
}

// Ready is closed once the node serves clients: a quorum is there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Done receives the error that ends the node from inside: its disk failed, a port was lost.
func (s *Server) Done() <-chan error { return s.done }

// fail ends the node from inside; the first reason counts.
func (s *Server) fail(err error) {
	select {
	case s.done <- err:
		s.log.Error("the node cannot go on", "error", err)
	default:
	}
}

// logFailed ends the node because it can promise nothing any more.
func (s *Server) logFailed(err error) { s.fail(fmt.Errorf("server: the shared log failed: %w", err)) }

func (s *Server) start() error {
	steps := []func() error{s.openStorage, s.openNetwork, s.openMeta, s.openRanges, s.openAPI, s.openRouting}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	s.registerMetrics(s.cfg.Registry)
	failpoint.Handle("transfer", s.giveAway)
	s.run()
	return nil
}

func (s *Server) openStorage() error {
	dir := s.cfg.LogDir
	if dir == "" {
		dir = filepath.Join(s.cfg.DataDir, "raftlog")
	}
	if err := os.MkdirAll(filepath.Join(s.cfg.DataDir, "ranges"), 0o700); err != nil {
		return err
	}
	var err error
	s.raftLog, err = raftlog.Open(dir, raftlog.Options{FS: failpoint.FS(), Logger: s.log, OnFatal: s.logFailed})
	if err != nil {
		return err
	}
	s.memory = mvcc.NewMemory(s.cfg.UnsettledBytes)
	s.cache, err = mvcc.NewCache(s.cfg.CacheBytes)
	return err
}

// peerGone is told by the dialer, whose first connection comes after the host.
func (s *Server) peerGone(node shard.NodeID) {
	if s.host != nil {
		s.host.PeerGone(node)
	}
}

func (s *Server) openNetwork() error {
	id := peer.Identity{ClusterID: s.cfg.ClusterID, Node: s.cfg.NodeID}
	s.dialer = peer.NewDialer(peer.DialerConfig{Identity: id, Resolve: s.resolve, Refused: s.peerGone})
	s.transport = transport.New(transport.Config{
		Node: s.cfg.NodeID, Dial: s.dialer.For(peer.ClassRaft), DialSnapshot: s.dialer.For(peer.ClassBulk), Logger: s.log,
	})
	s.mesh = peerrpc.New(peerrpc.Config{
		Node: s.cfg.NodeID, Dial: s.dialer.For(peer.ClassCalls), DialFeed: s.dialer.For(peer.ClassFeed), Logger: s.log,
		Hints: func() (int64, uint64) {
			rev, epoch := s.newest()
			return rev, uint64(epoch)
		},
		Learn:  func(_ shard.NodeID, rev int64, epoch uint64) { s.learn(rev, epoch) },
		Relays: s.relays, SilenceTick: s.cfg.Election / 4,
	})
	var err error
	s.host, err = raftgroup.NewHost(raftgroup.Config{
		Node: s.cfg.NodeID, Log: s.raftLog, Sender: s.transport, Now: bootClock, Alone: s.began,
		TickInterval: s.cfg.Heartbeat, ElectionTicks: int(s.cfg.Election / s.cfg.Heartbeat), HeartbeatTicks: 1,
		Workers: workers, CatchUpEntries: s.cfg.CatchUpEntries, Logger: s.log,
		OnGroupError: func(id shard.RangeID, err error) {
			s.log.Error("a range's replica has stopped", "range", id.String(), "error", err)
			if id == shard.MetaID {
				s.fail(fmt.Errorf("server: the meta group's replica: %w", err))
			} else if errors.Is(err, mvcc.ErrDamaged) {
				s.ranges.repairs.damaged(id, err)
			}
		},
		OnFatal: s.logFailed,
	})
	if err != nil {
		return err
	}
	s.transport.SetHandler(s.host)
	return nil
}

// workers step the groups of a node; as many more apply.
const workers = 4

// resolve finds the peer address of a member.
func (s *Server) resolve(node shard.NodeID) (string, bool) {
	for _, m := range s.cfg.Members {
		if m.ID == node && len(m.PeerURLs) > 0 {
			return hostPort(m.PeerURLs[0])
		}
	}
	return "", false
}

// newest is the newest revision that this node has seen anywhere, and the highest epoch. A
// fence at them is sound: no later oracle hands out a revision at or below one seen before.
func (s *Server) newest() (int64, shard.Epoch) { return s.client.Revision(), s.client.Epoch() }

// learn takes a revision and an epoch that a message carried.
func (s *Server) learn(rev int64, epoch uint64) {
	s.client.NoteEpoch(shard.Epoch(epoch))
	s.client.NoteRevision(rev)
}

// current asks the oracle.
func (s *Server) current(ctx context.Context) (shard.Now, error) {
	now, err := s.client.Current(ctx)
	if err == nil {
		s.noteCompacted(now.CompactRevision)
	}
	return now, err
}

func (s *Server) noteCompacted(rev int64) {
	for old := s.compacted.Load(); rev > old; old = s.compacted.Load() {
		if s.compacted.CompareAndSwap(old, rev) {
			return
		}
	}
}

// members are those that the meta group has, or of the initial cluster before it is known.
func (s *Server) members() []shard.Member {
	if v := s.client.View(); v != nil && len(v.Members) > 0 {
		return v.Members
	}
	return s.cfg.Members
}

// Stop ends the node cleanly: leaders move away, client traffic ends, stores are flushed. ctx
// bounds the first two. Later calls return what the first did.
func (s *Server) Stop(ctx context.Context) error {
	s.stop.Do(func() { s.stopEr = s.shutdown(ctx) })
	return s.stopEr
}

func (s *Server) shutdown(ctx context.Context) error {
	s.stopping.Store(true)
	if s.api != nil {
		s.api.SetServing(false)
		s.moveLeaders(ctx)
		s.stopClients(500 * time.Millisecond)
	}
	s.cancel()
	var errs []error
	if s.gossip != nil {
		_ = s.gossip.Leave(200 * time.Millisecond) // a courtesy: others notice anyway
		errs = append(errs, s.gossip.Close())
	}
	if s.hub != nil {
		s.hub.Close()
	}
	if s.feeds != nil {
		s.feeds.close()
	}
	if s.fronts.peerGRPC != nil {
		s.fronts.peerGRPC.Stop()
	}
	if s.fronts.metrics != nil {
		_ = s.fronts.metrics.Close() // nothing can be lost
	}
	if s.clients != nil {
		errs = append(errs, s.clients.Close())
	}
	if s.mesh != nil {
		errs = append(errs, s.mesh.Close())
	}
	if s.client != nil {
		s.client.Close()
	}
	s.wg.Wait()
	if s.host != nil {
		errs = append(errs, s.host.Close())
	}
	if s.meta != nil {
		errs = append(errs, s.meta.Close())
	}
	if s.transport != nil {
		errs = append(errs, s.transport.Close())
	}
	if s.ranges != nil {
		errs = append(errs, s.ranges.close())
	}
	if s.cache != nil {
		s.cache.Close()
	}
	if s.dialer != nil {
		errs = append(errs, s.dialer.Close())
	}
	if s.raftLog != nil {
		errs = append(errs, s.raftLog.Close())
	}
	s.closeListeners()
	return errors.Join(errs...)
}

// moveLeaders hands the lead of every group to another node, so that clients notice a stop as
// little as possible: a new leader within milliseconds instead of an election timeout.
func (s *Server) moveLeaders(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Election/2)
	defer cancel()
	if s.meta != nil {
		if err := s.meta.Retire(ctx); err != nil {
			s.log.Warn("the meta group's lead was not handed over", "error", err)
		}
	}
	s.ranges.each(func(rep *replica.Replica) {
		if _, leads := rep.Leading(); !leads {
			return
		}
		if to := s.successor(rep.Desc()); to != 0 {
			s.host.TransferLeader(rep.ID(), to)
		}
	})
	for ctx.Err() == nil && s.sizes().leading > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// giveAway hands the lead of every group to another node and goes on: a failpoint.
func (s *Server) giveAway() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Election)
	defer cancel()
	s.moveLeaders(ctx)
	return ctx.Err()
}

// successor picks a replica on another node, spread by range id.
func (s *Server) successor(d shard.Descriptor) shard.ReplicaID {
	for i := range d.Replicas {
		r := d.Replicas[(int(uint64(d.ID)%uint64(len(d.Replicas)))+i)%len(d.Replicas)]
		if r.Node != s.cfg.NodeID && !r.Learner && (s.gossip == nil || s.gossip.Alive(r.Node)) {
			return r.ID
		}
	}
	return 0
}

// metaStatus is the meta group as this node knows it.
func (s *Server) metaStatus() raftgroup.Status {
	st, _ := s.host.Status(shard.MetaID) // a node without a replica of it knows nothing here
	return st
}

// metaLeader is the node that leads the meta group; 0 when unknown.
func (s *Server) metaLeader() shard.NodeID {
	if st, ok := s.host.Status(shard.MetaID); ok {
		return st.LeaderNode
	}
	return s.client.Leader()
}

// tellOthers tells every other node something; hints only, so nothing is lost with one.
func (s *Server) tellOthers(req func() *pb.PeerRequest) {
	for _, m := range s.cfg.Members {
		if m.ID != s.cfg.NodeID {
			s.mesh.Tell(m.ID, req())
		}
	}
}
