package sim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// held are the ranges that have a replica here, ascending.
func (l *life) held() []shard.RangeID {
	var ids []shard.RangeID
	for _, rep := range l.reps.Values() {
		ids = append(ids, rep.ID())
	}
	slices.Sort(ids)
	return ids
}

// holdings says what is here.
func (l *life) holdings() string {
	var s strings.Builder
	for _, id := range l.held() {
		rep, _ := l.reps.Get(id)
		is := rep.Shape()
		fmt.Fprintf(&s, "%v %v at generation %d, ", id, is.Desc.Span, is.Desc.Generation)
		if is.Frozen != nil {
			fmt.Fprintf(&s, "frozen by %v, ", is.Frozen)
		}
	}
	return fmt.Sprintf("%swaiting: %v", s.String(), l.waiting)
}

// find is what the map that this node has says of a range.
func (l *life) find(id shard.RangeID) (shard.Descriptor, bool) {
	m := l.client.Map()
	if m == nil {
		return shard.Descriptor{}, false
	}
	return m.Get(id)
}

func (l *life) holds(id shard.RangeID) bool {
	_, here := l.reps.Get(id)
	return here
}

func (l *life) rangesDir() string { return filepath.Join(l.dir, "ranges") }

// openRanges opens what this node holds, as internal/host does: at first what the layout says, later what the log lists,
// and children whose file was made, and whose group had not begun.
func (l *life) openRanges() error {
	if l.n.lives == 1 {
		for d := range l.n.w.layout.all.All() {
			if self, here := d.ReplicaOn(l.n.id); here {
				if err := l.openRange(replica.Birth{Desc: d, Self: self, Leads: d.Replicas[0].ID == self.ID}, false); err != nil {
					return err
				}
			}
		}
		return nil
	}
	list, err := l.n.log.Replicas()
	if err != nil {
		return err
	}
	ids, err := replica.ListLeft(l.rangesDir())
	if err != nil {
		return err
	}
	slices.Sort(ids)
	noted := map[shard.RangeID]raftgroup.Replica{}
	for _, r := range list {
		noted[r.Group] = r
	}
	for _, id := range ids {
		r, known := noted[id]
		has, err := replica.HasFile(l.rangesDir(), id)
		if err != nil {
			return err
		}
		desc := shard.Descriptor{ID: id}
		self := shard.Replica{ID: r.ID, Node: l.n.id}
		switch {
		case known && r.State == raftgroup.ReplicaRemoved: // and not all of it had been deleted
			if err := replica.RemoveDir(l.rangesDir(), id); err != nil {
				return err
			}
			continue
		case !has && known && r.State == raftgroup.ReplicaWaiting:
			err = l.wait(id, r.ID)
		case !has && known:
			return fmt.Errorf("%v: the replica is noted, and its file is not there", id)
		case !has: // something was to be made there
			err = replica.RemoveEmptyDir(l.rangesDir(), id)
		case !known:
			d, pos, ierr := replica.Inspect(l.rangesDir(), id)
			if ierr != nil {
				return ierr
			}
			if first, ok := l.n.w.layout.all.Get(id); ok { // its file was made, and nothing of its log
				desc, d = first, first
			} else if raftgroup.Position(pos) != raftgroup.BirthPosition() {
				return fmt.Errorf("%v stands at %v, and the log does not know it", id, pos)
			}
			self, _ = d.ReplicaOn(l.n.id)
			err = l.openRange(replica.Birth{Desc: desc, Self: self}, false)
		default:
			err = l.openRange(replica.Birth{Desc: desc, Self: self}, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *life) openRange(b replica.Birth, born bool) error {
	rep, err := replica.Open(replica.Config{
		Desc: b.Desc, Self: b.Self, Closed: b.Closed, Dir: l.rangesDir(), Host: l.host, Oracle: l.client, Leases: l.client, Settings: l.client.Settings, Ranges: l.router,
		Nodes: l.port, Births: births{l}, Neighbours: neighbours{l}, TxnPatience: election,
		Feed: l.fans, AfterFunc: l.after, Linger: l.linger, Removed: l.givenUp,
		Store: mvcc.Options{NoSync: true, InitialMmapSize: 1 << 20, FlushBytes: 6 << 10, SettleBytes: 24 << 10},
	})
	if err != nil {
		return err
	}
	desc := rep.Desc()
	l.reps.Put(desc.ID, rep)
	l.removals.seen = nil                                                           // the map may have given it up already
	if _, member := desc.Replica(b.Self.ID); !member || rep.Shape().Frozen != nil { // a crash came before it was removed
		l.givenUp(desc.ID)
	}
	peers := desc.Places()
	peers[b.Self.ID] = l.n.id
	return l.host.AddGroup(raftgroup.GroupConfig{
		ID: desc.ID, Replica: b.Self.ID, Peers: peers, SM: rep, Observer: rep, CampaignNow: b.Leads, Born: born,
		Members: func() map[shard.ReplicaID]shard.NodeID { d := rep.Desc(); return d.Places() },
	})
}

// births is replica.Births.
type births struct{ l *life }

// Wanted implements replica.Births.
func (b births) Wanted(child shard.RangeID, self shard.ReplicaID) bool {
	l := b.l
	if _, here := l.reps.Get(child); here {
		return false
	}
	if _, waits := l.waiting[child]; waits {
		_ = l.host.StopGroup(child, func() {})
		delete(l.waiting, child)
	}
	return raftgroup.MayBeBorn(l.n.log, child, self) == nil
}

// Born implements replica.Births.
func (b births) Born(birth replica.Birth) {
	b.l.n.w.stats.Births++
	if err := b.l.openRange(birth, true); err != nil && b.l.alive {
		b.l.n.w.failf("node %d: %v was cut off, and cannot be opened: %v", b.l.n.id, birth.Desc.ID, err)
	}
}

// neighbours is replica.Neighbours. Nobody waits: what a node holds is open before its log goes on.
type neighbours struct{ l *life }

// Neighbour implements replica.Neighbours.
func (n neighbours) Neighbour(id shard.RangeID) *replica.Replica {
	rep, _ := n.l.reps.Get(id)
	return rep
}

// Await implements replica.Neighbours.
func (n neighbours) Await(id, _ shard.RangeID) (*replica.Replica, error) {
	if rep, open := n.l.reps.Get(id); open {
		return rep, nil
	}
	return nil, fmt.Errorf("%w: %v is not on node %d", shard.ErrInvalid, id, n.l.n.id)
}

// Changed implements replica.Neighbours.
func (n neighbours) Changed(id shard.RangeID) {
	if rep, open := n.l.reps.Get(id); open {
		if f := rep.Shape().Frozen; f != nil {
			raftgroup.Retry(n.l.host, shard.RangeID(f.Left))
		}
	}
}

// Merged implements replica.Neighbours.
func (n neighbours) Merged(id shard.RangeID) {
	w := n.l.n.w
	w.stats.United++
	if rep, open := n.l.reps.Get(id); open {
		w.orders.united(shard.RangeID(rep.Shape().Frozen.Left), id)
	}
	n.l.givenUp(id)
}

// consider lets a replica wait that a member of its group has spoken to.
func (l *life) consider(s raftgroup.Stranger) {
	m := l.client.Map()
	if !l.alive || m == nil {
		return
	}
	if s.Group == shard.MetaID {
		l.meta.consider(s)
		return
	}
	d, known := m.Get(s.Group)
	self, mine := d.ReplicaOn(l.n.id)
	_, here := l.reps.Get(s.Group)
	_, waits := l.waiting[s.Group]
	if !known || !mine || self.ID != s.Replica || here || waits || d.Generation == 1 || !l.free(s.Group) {
		return
	}
	for _, rep := range l.reps.Values() {
		if span := rep.Desc().Span; span.Overlaps(d.Span) {
			return
		}
	}
	l.n.w.note("node %d: %v waits", l.n.id, s.Group)
	err := l.wait(s.Group, self.ID)
	if errors.Is(err, raftgroup.ErrReplicaRemoved) { // the map has not heard yet
		delete(l.waiting, s.Group)
		err = replica.RemoveEmptyDir(l.rangesDir(), s.Group)
	}
	if err != nil {
		l.n.w.failf("node %d: %v cannot wait: %v", l.n.id, s.Group, err)
	}
}

// wait begins a replica without a state.
func (l *life) wait(id shard.RangeID, self shard.ReplicaID) error {
	if err := os.MkdirAll(filepath.Join(l.rangesDir(), id.String()), 0o700); err != nil {
		return err
	}
	l.waiting[id] = self
	l.removals.seen = nil
	l.n.w.stats.Waited++
	sm := replica.NewRebuilder(l.rangesDir(), id, func() {
		l.n.w.post(fmt.Sprintf("state %d/%d", l.n.id, id), 0, func() { l.stateCame(id, self) })
	})
	return l.host.AddGroup(raftgroup.GroupConfig{ID: id, Replica: self, SM: sm, Waiting: true, Lost: true})
}

// stateCame opens a replica that has waited.
func (l *life) stateCame(id shard.RangeID, self shard.ReplicaID) {
	if _, waits := l.waiting[id]; !l.alive || !waits {
		return
	}
	delete(l.waiting, id)
	err := l.host.StopGroup(id, func() {
		l.n.w.post(fmt.Sprintf("stopped %d/%d", l.n.id, id), 0, func() {
			if !l.alive {
				return
			}
			if err := l.openRange(replica.Birth{Desc: shard.Descriptor{ID: id}, Self: shard.Replica{ID: self, Node: l.n.id}}, false); err != nil {
				l.n.w.failf("node %d: %v has got its state, and cannot be opened: %v", l.n.id, id, err)
				return
			}
			l.fans.arrived(id)
		})
	})
	if err != nil {
		l.n.w.failf("node %d: %v: %v", l.n.id, id, err)
	}
}

// newest is the newest map that anybody has.
func (w *world) newest() *shard.Map {
	m := w.layout.all
	for _, n := range w.nodes {
		if n.life == nil {
			continue
		}
		if o := n.life.client.Map(); o != nil && o.Version() > m.Version() {
			m = o
		}
	}
	return m
}
