package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"pontoon/internal/backend"
	"pontoon/internal/datadir"
	"pontoon/internal/httpapi"
	"pontoon/internal/peer"
	"pontoon/internal/peerrpc"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
	"pontoon/raftgroup/transport"
	"pontoon/shard"
	"pontoon/shard/router"
)

// Host holds a node's part of the data. Use Open, Run, Close, in this order and each once.
type Host struct {
	cfg   Config
	log   *slog.Logger
	began time.Time // by bootClock

	raftLog *raftlog.Store
	stores
	net     network
	raft    *raftgroup.Host
	meta    *metaGroup
	cluster *backend.Cluster
	// router is the replicas' and meta's. A front has its own: it may run where there is no host, it bounds a
	// request by its own patience, and its serializable reads wait for what it has acknowledged itself.
	router   *router.Router
	ranges   *ranges
	feeds    *feeds
	closer   *closer
	members  membership
	dispatch *dispatch
	life     *life

	metaLeads metaLeads

	failed  chan error     // the first reason why the node can promise nothing any more
	closers []func() error // what Close does, last first
}

// stores is what the stores of a node share.
type stores struct {
	cache  *mvcc.Cache
	memory *mvcc.Memory
	quota  *quota
}

// metaLeads is how the lead of the meta group has changed, as seen here.
type metaLeads struct {
	count   atomic.Int64
	changed waiters // woken at each change
}

// network is what goes between nodes.
type network struct {
	directory *peer.Directory // who is a member; nobody else keeps that
	dialer    *peer.Dialer
	traffic   *peer.Traffic
	transport *transport.Transport
	mesh      *peerrpc.Mesh
	server    *grpc.Server // of the peer port
}

// opened notes how to close what has been opened.
func (h *Host) opened(undo func() error) { h.closers = append(h.closers, undo) }

// Close closes what is open, last first. Run has returned, or was never called.
func (h *Host) Close() error {
	var errs []error
	for _, undo := range slices.Backward(h.closers) {
		errs = append(errs, undo())
	}
	h.closers = nil
	return errors.Join(errs...)
}

// Run takes part in the cluster until ctx ends, or the node can promise nothing any more: only its shared log,
// the meta group's replica, or data that nobody else has, end it from inside.
func (h *Host) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	run := func(fn func(context.Context)) {
		g.Go(func() error {
			fn(ctx)
			return nil
		})
	}
	for _, l := range h.cfg.Peer {
		h.log.Info("serving peer traffic", "address", l.Addr().String())
		run(func(context.Context) { h.serve(l) })
	}
	g.Go(func() error {
		select {
		case err := <-h.failed:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return h.raft.Run(ctx) })
	g.Go(func() error { return h.life.run(ctx) })
	g.Go(func() error { return h.newDeparture().run(ctx) })
	run(h.closer.run)
	run(func(ctx context.Context) { h.ranges.maintain(ctx, h.life.joined) })
	run(func(ctx context.Context) { h.ranges.defragmenter.run(ctx, h.life.joined) })
	run(h.ranges.scrub)
	run(h.ranges.repairs.run)
	run(h.ranges.births.run)
	run(h.ranges.newcomers.run)
	run(h.ranges.removals.run)
	run(newLoads(h.ranges).run)
	run(h.quota.run)
	run(h.gossipLeaders)
	run(func(ctx context.Context) { // what others wait for here ends first
		<-ctx.Done()
		h.members.leave()
		h.net.server.Stop()
		_ = h.net.mesh.Close()
		h.cluster.Client.Close()
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	return nil
}

// serve answers the peer port. Its listener is patient: it ends when it is told to.
func (h *Host) serve(l httpapi.Listener) {
	if err := h.net.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		h.log.Error("the peer port is not served any more", "url", l.URL, "error", err)
	}
}

// fail ends Run; the first reason counts.
func (h *Host) fail(err error) {
	select {
	case h.failed <- err:
	default:
	}
}

// failure is the reason that a part gave by itself, nil where there is none: it may know more than who ran into it.
func (h *Host) failure() error {
	select {
	case err := <-h.failed:
		return err
	default:
		return nil
	}
}

// logFailed ends Run because the node can promise nothing any more.
func (h *Host) logFailed(err error) {
	advice := "see that the disk takes writes, and start the node again: what it has promised is on it"
	if errors.Is(err, shard.ErrCorrupt) {
		advice = promisesLost
	}
	h.fail(advise(err, "the shared log", advice))
}

func (h *Host) rangesDir() string { return filepath.Join(h.cfg.DataDir, datadir.Ranges) }

// groupFailed is told that a replica has stopped.
func (h *Host) groupFailed(id shard.RangeID, err error) {
	h.log.Error("a range's replica has stopped", "range", id.String(), "error", err)
	if id == shard.MetaID {
		h.fail(fmt.Errorf("the meta group's replica: %w", err))
	} else if errors.Is(err, mvcc.ErrDamaged) {
		h.ranges.repairs.damaged(id, err)
	} else if errors.Is(err, syscall.ENOSPC) {
		h.ranges.repairs.full(id, err, true)
	}
}
