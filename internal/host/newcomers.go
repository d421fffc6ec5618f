package host

import (
	"context"
	"errors"
	"time"

	"pontoon/internal/mutate"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// newcomers are replicas that are not here and that a member of their group has spoken to. Such a replica begins to wait
// for its state if the map has it on this node, and nothing here stands in its way. A node on which nothing goes on hears of no new map
// by itself: it asks, now and then, when it is spoken to as what it does not know to be.
type newcomers struct {
	rs      *ranges
	meta    *metaGroup                                   // nil: this node has none
	present func(shard.RangeID) (shard.Descriptor, bool) // as the newest map has it
	refresh func(context.Context) error                  // fetches that
	asked   time.Time                                    // when; of run alone
	queue   chan raftgroup.Stranger
}

// newcomersAsk is the least time between two questions for the map.
const newcomersAsk = time.Second

// newcomersMax bounds those that wait to be looked at. There is another message for each that is left out.
const newcomersMax = 1024

func newNewcomers(rs *ranges, meta *metaGroup, present func(shard.RangeID) (shard.Descriptor, bool), refresh func(context.Context) error) *newcomers {
	return &newcomers{rs: rs, meta: meta, present: present, refresh: refresh, queue: make(chan raftgroup.Stranger, newcomersMax)}
}

// told is told by the groups. It does not block.
func (n *newcomers) told(s raftgroup.Stranger) {
	select {
	case n.queue <- s:
	default:
	}
}

// run looks at them, one after the other, until ctx ends.
func (n *newcomers) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-n.queue:
			n.look(ctx, s)
			if err := n.consider(s); err != nil {
				n.rs.log.Warn("a replica that a member has spoken to is not here", "range", s.Group.String(), "from", s.From.String(), "error", err)
			}
		}
	}
}

// look fetches a newer map if the one that is known does not have the replica here.
func (n *newcomers) look(ctx context.Context, s raftgroup.Stranger) {
	d, _ := n.present(s.Group)
	if self, mine := d.ReplicaOn(n.rs.self); mine && self.ID == s.Replica || time.Since(n.asked) < newcomersAsk {
		return
	}
	n.asked = time.Now()
	ctx, cancel := context.WithTimeout(ctx, newcomersAsk)
	defer cancel()
	if err := n.refresh(ctx); err != nil {
		n.rs.log.Debug("the map could not be fetched for a replica that is not here", "range", s.Group.String(), "error", err)
	}
}

// consider lets a replica wait, or does nothing: it is spoken to again.
func (n *newcomers) consider(s raftgroup.Stranger) error {
	d, known := n.present(s.Group)
	self, mine := d.ReplicaOn(n.rs.self)
	if s.Group == shard.MetaID {
		if n.meta == nil || !known || !mine || self.ID != s.Replica {
			return nil
		}
		return n.meta.spokenTo(d, self, n.rs.held)
	}
	if !known || !mine || d.Generation == bornEmpty || self.ID != s.Replica && !mutate.On(mutate.WaitAnyReplica) {
		return nil
	}
	return n.rs.held.alone(s.Group, func() error {
		if n.rs.held.here(s.Group) || n.rs.held.isListed(s.Group) || n.overlapped(d) {
			return nil
		}
		if free, err := n.empty(s.Group); err != nil || !free {
			return err
		}
		err := n.rs.repairs.wait(d, self)
		if errors.Is(err, raftgroup.ErrReplicaRemoved) {
			return nil // the map has not heard yet, or the sender
		}
		return err
	})
}

// empty sees that nothing of an earlier replica is there: what has a tombstone, and could not be deleted yet, goes now. A file without a word in the
// log is left alone, see held.orphan: what that replica has promised is not known.
func (n *newcomers) empty(id shard.RangeID) (bool, error) {
	has, err := replica.HasFile(n.rs.repairs.dir, id)
	if err != nil || !has {
		return err == nil, err
	}
	st, _, err := n.rs.held.log.Load(id)
	if err != nil || st.Replica.State != raftgroup.ReplicaRemoved {
		return false, err
	}
	return true, replica.RemoveDir(n.rs.repairs.dir, id)
}

// overlapped reports whether a replica here holds keys of the range, as far as it has applied: it may still have to cut the range
// off, and then nothing needs to be fetched. So may one whose state is to come, or that is not open yet.
func (n *newcomers) overlapped(d shard.Descriptor) bool {
	if mutate.On(mutate.WaitOverlapping) {
		return false
	}
	if n.rs.held.unopened() {
		return true
	}
	for _, rep := range n.rs.byID.Values() {
		if span := rep.Desc().Span; span.Overlaps(d.Span) && !(mutate.On(mutate.FrozenUnder) && rep.Shape().Frozen != nil) {
			return true
		}
	}
	return n.rs.repairs.overlaps(d.Span)
}
