package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/clusterversion"
	"pontoon/internal/metaclient"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// life opens the replicas that are held here, follows the range map, which places new ones here, and says when the node has
// joined the cluster.
type life struct {
	self     shard.NodeID
	election time.Duration
	cluster  *backend.Cluster
	ranges   *ranges
	raft     *raftgroup.Host
	log      *slog.Logger

	files   savedMap
	saved   *shard.Map    // of a former life
	unsaved bool          // the newest map could not be written
	mapped  chan struct{} // closed once a map of the meta group has been acted upon
	joined  chan struct{} // closed once the node has joined
	metaLed *waiters      // woken when the meta group has another leader
	once    struct{ mapped, joined sync.Once }
}

func (h opening) openLife() error {
	h.life = &life{
		self: h.cfg.Identity.Node, election: h.cfg.Election, cluster: h.cluster, ranges: h.ranges, raft: h.raft, log: h.log,
		files: *h.saved, saved: h.saved.kept, mapped: make(chan struct{}), joined: make(chan struct{}), metaLed: &h.metaLeads.changed,
	}
	return nil
}

// mapRetry is the pause before what a map asks for is tried again.
const mapRetry = time.Second

// run opens the replicas that a former life of this node has left, while the meta group elects its leader.
// Then it opens those of every new range map and keeps it. An error is damage that nobody can repair.
func (l *life) run(ctx context.Context) error {
	if _, err := l.opened(l.ranges.start(l.saved)); err != nil { // what was not to be had now is tried again with the next map
		return err
	}
	var done *shard.Map
	for {
		changed := l.cluster.Client.Changed()
		var retry <-chan time.Time
		if v := l.cluster.Client.View(); v.Map != nil && v.Map != done {
			ok, err := l.mapChanged(done, v)
			if err != nil {
				return err
			}
			if ok {
				done = v.Map
			} else {
				done = nil // what did not work out may be anywhere
				retry = time.After(mapRetry)
			}
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}

// mapChanged does what a new map asks for; false if some of it has to be tried again. What done asks for is done; nil: nothing is.
func (l *life) mapChanged(done *shard.Map, v *metaclient.View) (ok bool, err error) {
	if err := clusterversion.Newest.Join(v.Version); err != nil {
		return false, err // what is written now may be unknown here
	}
	l.ranges.removals.changed(v.Meta)
	ok, err = l.opened(l.ranges.reconcile(done, v.Map, l.saved == nil))
	if err != nil {
		return false, err
	}
	if err := l.files.save(v.Map, about{members: v.Members, meta: v.Meta}); err != nil { // it only makes the next start quicker
		l.log.Error("the range map could not be kept in the data directory", "error", err)
		ok, l.unsaved = false, true
	} else if l.unsaved {
		l.log.Info("the range map is kept again")
		l.unsaved = false
	}
	l.once.mapped.Do(func() { close(l.mapped) })
	return ok, nil
}

// opened says what is to be made of an attempt to open replicas; false if one could not be opened for now: what has
// become of its data is an error, but not that there was no file or no memory to be had.
func (l *life) opened(err error) (ok bool, _ error) {
	if err == nil {
		return true, nil
	}
	if errors.Is(err, shard.ErrCorrupt) {
		return false, advise(err, "a replica in "+l.ranges.repairs.dir, dataLost)
	}
	l.log.Error("a replica could not be opened; it is tried again", "error", err)
	return false, nil
}

// metaLeader is the node that leads the meta group; 0 when unknown. A replica that is here says it, once it is in the group's configuration.
func (l *life) metaLeader() shard.NodeID {
	if st, ok := l.raft.Status(shard.MetaID); ok && (st.LeaderNode != 0 || len(st.Conf.State.GetVoters()) > 0) {
		return st.LeaderNode
	}
	return l.cluster.Client.Leader()
}

// awaitMetaLeader waits, where a replica of the meta group is here, until it knows its leader: asking
// before that is in vain, and pauses grow. But one that the group has given up while it was away never knows one: others do.
func (l *life) awaitMetaLeader(ctx context.Context) error {
	if st, here := l.raft.Status(shard.MetaID); !here || len(st.Conf.State.GetVoters()) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, leadersWait*l.election)
	defer cancel()
	err := l.metaLed.until(bounded, func() bool { return l.metaLeader() != 0 })
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the meta group has no leader yet: %w", err)
	}
	return nil
}

// awaitMap waits until the oracle answers and the ranges of this node are open.
func (l *life) awaitMap(ctx context.Context) error {
	if _, err := l.cluster.Current(ctx); err != nil {
		return err
	}
	if l.cluster.Map() == nil {
		if err := l.cluster.Refresh(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("the ranges of this node are not open yet: %w", ctx.Err())
	case <-l.mapped:
		return nil
	}
}

// leadersWait bounds, in election timeouts, how long a node that starts waits for leaders of its ranges: one that has
// lost its quorum must not keep the others from being served.
const leadersWait = 5

// awaitLeaders waits until every range with a replica here has had a leader, but not for longer than leadersWait.
func (l *life) awaitLeaders(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, leadersWait*l.election)
	defer cancel()
	for _, rep := range l.ranges.byID.Values() {
		if err := l.ranges.awaitLeader(bounded, rep.ID()); ctx.Err() != nil {
			return fmt.Errorf("%v has no leader yet: %w", rep.ID(), err)
		}
	}
	return nil
}

// Pauses while a node waits for a quorum: before it tries again, and before it says so again.
const (
	joinRetry    = 50 * time.Millisecond
	joinLogEvery = 5 * time.Second
)

// Join waits until the cluster serves and this node with it: the oracle answers, the ranges are known, every
// local replica knows a leader, and this member's client URLs are published. It tries until ctx ends: members
// of a new cluster start in any order, at any time.
func (h *Host) Join(ctx context.Context) error {
	said := time.Now()
	for {
		try, cancel := context.WithTimeout(ctx, h.cfg.Patience)
		err := h.tryJoin(try)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			break
		}
		if time.Since(said) > joinLogEvery {
			said = time.Now()
			h.log.Warn("waiting for a quorum of the cluster", "error", err)
		}
		pause(ctx, joinRetry)
	}
	h.log.Info("published local member to cluster through raft",
		"local-member-id", h.cfg.Identity.Node.String(), "cluster-id", fmt.Sprintf("%x", h.cfg.Identity.ClusterID), "name", h.cfg.Name)
	h.life.once.joined.Do(func() { close(h.life.joined) })
	return nil
}

func (h *Host) tryJoin(ctx context.Context) error {
	if err := h.life.awaitMetaLeader(ctx); err != nil {
		return err
	}
	if err := h.life.awaitMap(ctx); err != nil {
		return err
	}
	if err := h.cluster.Client.Publish(ctx, h.cfg.Identity.Node, h.cfg.Name, h.cfg.ClientURLs); err != nil {
		return err
	}
	if err := h.life.awaitLeaders(ctx); err != nil {
		return err
	}
	h.meta.awaitLearning(ctx)
	_, err := h.cluster.Client.Borrow(ctx) // whoever may do what is known before anybody is served
	return err
}

// successor picks a replica on another node, spread by range id.
func successor(self shard.NodeID, members membership, d shard.Descriptor) shard.ReplicaID {
	for i := range d.Replicas {
		r := d.Replicas[(int(uint64(d.ID)%uint64(len(d.Replicas)))+i)%len(d.Replicas)]
		if r.Node != self && r.Votes() && members.alive(r.Node) {
			return r.ID
		}
	}
	return 0
}
