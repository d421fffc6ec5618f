package state

import (
	"cmp"
	"fmt"
	"slices"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/lease"
	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// FirstRevision is the current revision of a cluster that nobody has written to; the first
// write gets the next one.
const FirstRevision int64 = 1

// State is the meta group's replicated state. Use New or Restore.
type State struct {
	position
	clusterID uint64
	ranges    history
	limit     oracleLimit
	leases    map[int64]*lease.Lease
	compact   int64
	version   clusterversion.Version // that all members speak
	next      nextIDs
	group     // the meta group itself
	members
	ops
	borders
	settings
}

// nextIDs are the ids that nobody has had yet.
type nextIDs struct{ ranges, replicas, ops uint64 }

// replica gives a replica its id.
func (n *nextIDs) replica(r *shard.Replica) {
	r.ID = shard.ReplicaID(n.replicas)
	n.replicas++
}

// note sees that the ids of a range and its replicas are not given out again.
func (n *nextIDs) note(d shard.Descriptor) {
	n.ranges = max(n.ranges, uint64(d.ID)+1)
	for _, r := range d.Replicas {
		n.replicas = max(n.replicas, uint64(r.ID)+1)
	}
}

// New returns the state before the first entry.
func New() *State {
	return &State{limit: oracleLimit{revision: FirstRevision}, version: clusterversion.First, leases: make(map[int64]*lease.Lease), next: nextIDs{ops: 1},
		settings: settings{now: placement.NewSettings()}}
}

// Result is the outcome of one entry: the same on every replica.
type Result struct {
	// Err is an error of package shard: the entry was refused and changed nothing.
	Err error
	// Lease is the lease after a grant, revoke or attach, and what it was before a forget.
	Lease lease.Lease
	// Already is set by a revoke of a lease that was being revoked before.
	Already bool
	// Op is the op that has begun or ended.
	Op shard.Op
	// Member is the one that was added or changed.
	Member shard.NodeID
}

// Apply applies the committed entry at index, which Raft logged in term. An empty entry of Raft
// only moves the position. Indexes must rise.
func (s *State) Apply(index, term uint64, e *pb.MetaEntry) Result {
	s.advance(index, term)
	if e == nil {
		return Result{}
	}
	if e.Term != term {
		// Proposed by a leader of another term, which has given up on it.
		return Result{Err: &shard.NotLeaderError{Range: shard.MetaID, Term: term}}
	}
	switch {
	case e.Bootstrap != nil:
		return Result{Err: s.applyBootstrap(e.Bootstrap)}
	case e.OracleLimit != nil:
		return Result{Err: s.limit.apply(term, e.OracleLimit)}
	case e.Grant != nil:
		return s.applyGrant(index, e.Grant)
	case e.Revoke != nil:
		return s.applyRevoke(e.Revoke)
	case e.Forget != nil:
		return s.applyForget(e.Forget)
	case e.Attach != nil:
		return s.applyAttach(e.Attach)
	case e.Compact != nil:
		return Result{Err: s.applyCompact(e.Compact)}
	case e.Alarm != nil:
		return Result{Err: s.applyAlarm(s.version, e.Alarm)}
	case e.Auth != nil:
		return Result{Err: s.applyAuth(s.version, e.Auth)}
	case e.ClusterVersion != nil:
		return Result{Err: s.applyClusterVersion(clusterversion.Version(e.ClusterVersion.Version))}
	case e.BeginOp != nil:
		return s.begin(s, e.BeginOp)
	case e.StepOp != nil:
		return s.step(s, e.StepOp)
	case e.EndOp != nil:
		return s.end(s, e.EndOp)
	case e.Unstick != nil:
		return s.unstick(s, e.Unstick)
	case e.GenRise != nil:
		return Result{Err: s.rise(s, e.GenRise)}
	}
	if res, known := s.members.apply(s, e); known {
		return res
	}
	return Result{Err: fmt.Errorf("%w: entry %d of the meta group's log has no body that this version knows", shard.ErrCorrupt, index)}
}

// position is that of the last entry applied.
type position struct{ index, term uint64 }

// Position returns its index and term.
func (p *position) Position() (index, term uint64) { return p.index, p.term }

// advance moves it.
func (p *position) advance(index, term uint64) {
	if index <= p.index || term < p.term {
		panic(fmt.Sprintf("meta state: entry %d of term %d applied after entry %d of term %d", index, term, p.index, p.term))
	}
	p.index, p.term = index, term
}

// applyBootstrap lays out the cluster. Every first leader may propose it; only the first counts.
func (s *State) applyBootstrap(b *pb.MetaBootstrap) error {
	if s.Bootstrapped() {
		return nil
	}
	m, err := shard.NewMap(1, pb.ToDescriptors(b.Ranges))
	if err != nil {
		return fmt.Errorf("%w: bootstrap: %w", shard.ErrInvalid, err)
	}
	if err := s.restored(b.Restored); err != nil {
		return err
	}
	s.ranges.begin(m)
	s.borders = borders{first: m.Len()}
	s.clusterID, s.group = b.ClusterId, group{moves.Shape{Desc: pb.ToDescriptor(b.Meta)}}
	s.members.first(pb.ToMembers(b.Members))
	s.next = nextIDs{ranges: uint64(shard.FirstRangeID), replicas: 1, ops: 1}
	s.next.note(s.Meta())
	for d := range m.All() {
		s.next.note(d)
	}
	return nil
}

// RestoredGrant is the grant index of leases that come from a snapshot: of no entry that grants one.
const RestoredGrant uint64 = 1

// restored takes what a cluster begins with that is made of a snapshot; nil: nothing. Nobody has been given a revision before: what a leader has raised the
// limit to already does not count.
func (s *State) restored(r *pb.MetaRestored) error {
	if r == nil {
		return nil
	}
	if err := s.restoreUsers(r.Auth); err != nil {
		return err
	}
	s.limit.revision, s.compact = max(r.Revision, FirstRevision), r.Compact
	for _, l := range r.Leases {
		le := &lease.Lease{ID: l.Id, TTL: l.Ttl, GrantIndex: RestoredGrant}
		for _, span := range l.Spans {
			le.Attach(pb.ToSpan(span))
		}
		s.leases[l.Id] = le
	}
	return nil
}

// oracleLimit is what no revision that was handed out exceeds, and the term that last set it.
type oracleLimit struct {
	revision int64
	term     uint64
}

// apply raises the limit, or writes the exact value. An exact value lowers the limit, so it
// counts only while the leadership that last set the limit is still the one whose entry this is:
// a later oracle may have allocated everything up to its own limit.
func (o *oracleLimit) apply(term uint64, l *pb.OracleLimit) error {
	if !l.Exact {
		o.revision, o.term = max(o.revision, l.Limit), term
		return nil
	}
	if o.term != term || l.LastTerm != term {
		return &shard.NotLeaderError{Range: shard.MetaID, Term: term}
	}
	if l.Limit > o.revision || l.Limit < FirstRevision {
		return fmt.Errorf("%w: exact revision %d with the limit at %d", shard.ErrInvalid, l.Limit, o.revision)
	}
	o.revision = l.Limit
	return nil
}

func (s *State) applyGrant(index uint64, g *pb.MetaGrant) Result {
	switch {
	case g.Id == 0:
		return Result{Err: shard.ErrLeaseNotFound}
	case s.leases[g.Id] != nil: // until it is forgotten everywhere it exists
		return Result{Err: shard.ErrLeaseExists}
	case g.Ttl > lease.MaxTTL:
		return Result{Err: shard.ErrLeaseTTLTooLarge}
	}
	if err := s.forbids(s.version, true); err != nil {
		return Result{Err: err}
	}
	l := &lease.Lease{ID: g.Id, TTL: g.Ttl, GrantIndex: index}
	s.leases[g.Id] = l
	return Result{Lease: *l}
}

// lease finds the lease of one grant; an index of zero takes any.
func (s *State) lease(id int64, grantIndex uint64) (*lease.Lease, error) {
	l := s.leases[id]
	if l == nil || grantIndex != 0 && l.GrantIndex != grantIndex {
		return nil, shard.ErrLeaseNotFound
	}
	return l, nil
}

func (s *State) applyRevoke(r *pb.MetaRevoke) Result {
	l, err := s.lease(r.Id, r.GrantIndex)
	if err != nil {
		return Result{Err: err}
	}
	if r.GrantIndex == 0 { // a client's; the clock names the grant
		if err := s.forbids(s.version, false); err != nil {
			return Result{Err: err}
		}
	}
	already := l.Revoking
	l.Revoking = true
	return Result{Lease: *l, Already: already}
}

func (s *State) applyForget(f *pb.MetaForget) Result {
	l, err := s.lease(f.Id, f.GrantIndex)
	if err != nil {
		return Result{Err: err}
	}
	if !l.Revoking {
		return Result{Err: fmt.Errorf("%w: lease %x is forgotten before it is revoked", shard.ErrInvalid, f.Id)}
	}
	delete(s.leases, f.Id)
	return Result{Lease: *l}
}

func (s *State) applyAttach(a *pb.MetaAttach) Result {
	l, err := s.lease(a.Id, a.GrantIndex)
	if err != nil {
		return Result{Err: err}
	}
	if l.Revoking { // expiry has begun to visit the spans: none may be added
		return Result{Err: shard.ErrLeaseNotFound}
	}
	l.Attach(pb.ToSpan(a.Span))
	return Result{Lease: *l}
}

func (s *State) applyCompact(c *pb.MetaCompact) error {
	if c.Revision <= s.compact {
		return &shard.CompactedError{Revision: s.compact}
	}
	if err := s.forbids(s.version, false); err != nil {
		return err
	}
	s.compact = c.Revision
	return nil
}

// applyClusterVersion raises the cluster's version. Somebody may have announced a lower one since it was
// proposed: then it is refused.
func (s *State) applyClusterVersion(v clusterversion.Version) error {
	if v <= s.version {
		return nil
	}
	if all := Announced(s.list); v > all {
		return fmt.Errorf("%w: version %d, and a member speaks %d", shard.ErrInvalid, v, all)
	}
	s.version = v
	s.ranges.record(s.ranges.now, change{}) // every answer has the version
	return nil
}

// Bootstrapped reports whether the cluster has been laid out.
func (s *State) Bootstrapped() bool { return s.ranges.now != nil }

// ClusterID returns the cluster's id, 0 before the bootstrap.
func (s *State) ClusterID() uint64 { return s.clusterID }

// Map returns the range map, nil before the bootstrap. Its version rises with every change of
// ranges, members or the meta group's descriptor.
func (s *State) Map() *shard.Map { return s.ranges.now }

// OracleLimit returns the limit and the term that last set it.
func (s *State) OracleLimit() (limit int64, term uint64) { return s.limit.revision, s.limit.term }

// ClusterVersion returns the version of the formats that all members speak. It never falls.
func (s *State) ClusterVersion() clusterversion.Version { return s.version }

// CompactRevision returns the revision that the cluster is compacted at, 0 if never.
func (s *State) CompactRevision() int64 { return s.compact }

// Lease returns one lease.
func (s *State) Lease(id int64) (lease.Lease, bool) {
	l := s.leases[id]
	if l == nil {
		return lease.Lease{}, false
	}
	return *l, true
}

// Leases returns every lease by id.
func (s *State) Leases() []lease.Lease {
	out := make([]lease.Lease, 0, len(s.leases))
	for _, l := range s.leases {
		out = append(out, *l)
	}
	sortLeases(out)
	return out
}

func sortLeases(ls []lease.Lease) {
	slices.SortFunc(ls, func(a, b lease.Lease) int { return cmp.Compare(a.ID, b.ID) })
}
