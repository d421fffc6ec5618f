package state

import (
	"fmt"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/lease"
	"pontoon/internal/moves"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// Image is the state at one position. It is immutable: rendering it needs no lock.
type Image struct {
	rest     *pb.MetaState // all else
	ranges   *shard.Map
	leases   []lease.Lease
	borders  []Border
	settings *placement.Settings
}

// Image returns it. It costs a copy of the leases, and nothing of the ranges, nor of users.
func (s *State) Image() *Image {
	i := &Image{rest: &pb.MetaState{
		Index: s.index, Term: s.term,
		ClusterId:       s.clusterID,
		Members:         pb.FromMembers(s.list),
		OracleLimit:     s.limit.revision,
		OracleTerm:      s.limit.term,
		CompactRevision: s.compact,
		NextRangeId:     s.next.ranges,
		NextReplicaId:   s.next.replicas,
		NextOpId:        s.next.ops,
		Ops:             s.ops.image(),
		ClusterVersion:  uint32(s.version),
		FirstRanges:     uint32(s.borders.first),
	}, ranges: s.ranges.now, borders: s.borders.stay, settings: s.settings.now, leases: make([]lease.Lease, 0, len(s.leases))}
	for _, id := range s.removed {
		i.rest.Removed = append(i.rest.Removed, uint64(id))
	}
	if s.Bootstrapped() {
		i.rest.RangesVersion, i.rest.Meta, i.rest.MetaDone = s.ranges.now.Version(), pb.FromDescriptor(s.Meta()), s.group.Done
	}
	for _, l := range s.leases {
		i.leases = append(i.leases, *l)
	}
	return i
}

// Marshal renders it, once: the same bytes on every replica at the same position.
func (i *Image) Marshal() ([]byte, error) {
	m := i.rest
	if i.ranges != nil {
		m.Ranges = pb.FromMap(i.ranges)
	}
	m.Borders = fromBorders(i.borders)
	settings := i.settings.ToPB()
	m.SettingsVersion, m.Alarms, m.Auth = settings.Version, settings.Alarms, settings.Auth
	sortLeases(i.leases)
	for _, l := range i.leases {
		m.Leases = append(m.Leases, &pb.MetaLease{Id: l.ID, Ttl: l.TTL, GrantIndex: l.GrantIndex, Revoking: l.Revoking, Spans: pb.FromSpans(l.Spans)})
	}
	return m.MarshalVT()
}

// Restore reads what Marshal wrote, and refuses what no state can be.
func Restore(raw []byte) (*State, error) {
	var m pb.MetaState
	if err := m.UnmarshalVT(raw); err != nil {
		return nil, fmt.Errorf("%w: meta state: %w", shard.ErrCorrupt, err)
	}
	s := New()
	s.index, s.term, s.clusterID = m.Index, m.Term, m.ClusterId
	s.limit, s.compact = oracleLimit{m.OracleLimit, m.OracleTerm}, m.CompactRevision
	s.next = nextIDs{ranges: m.NextRangeId, replicas: m.NextReplicaId, ops: max(m.NextOpId, 1)} // 0: written before there were ops
	s.version = clusterversion.Version(m.ClusterVersion).OrFirst()
	if s.limit.revision < FirstRevision || s.compact < 0 {
		return nil, fmt.Errorf("%w: meta state: limit %d, compacted at %d", shard.ErrCorrupt, s.limit.revision, s.compact)
	}
	if len(m.Members) > 0 {
		s.list = pb.ToMembers(m.Members)
	}
	for _, id := range m.Removed {
		s.removed = append(s.removed, shard.NodeID(id))
	}
	if len(m.Ranges) > 0 {
		ranges, err := shard.NewMap(m.RangesVersion, pb.ToDescriptors(m.Ranges))
		if err != nil {
			return nil, fmt.Errorf("%w: meta state: %w", shard.ErrCorrupt, err)
		}
		s.ranges.begin(ranges)
		s.group = group{moves.Shape{Desc: pb.ToDescriptor(m.Meta), Done: m.MetaDone}}
	}
	var err error
	if s.borders.stay, err = toBorders(m.Borders); err != nil {
		return nil, err
	}
	s.borders.first = int(m.FirstRanges)
	if err := s.ops.restore(m.Ops, s.next); err != nil {
		return nil, err
	}
	for _, l := range m.Leases {
		if l.Id == 0 || s.leases[l.Id] != nil {
			return nil, fmt.Errorf("%w: meta state: lease %x stands twice or has no id", shard.ErrCorrupt, l.Id)
		}
		le := &lease.Lease{ID: l.Id, TTL: l.Ttl, GrantIndex: l.GrantIndex, Revoking: l.Revoking}
		for _, span := range l.Spans {
			le.Attach(pb.ToSpan(span))
		}
		s.leases[l.Id] = le
	}
	if err := s.settings.restore(&m); err != nil {
		return nil, err
	}
	return s, nil
}
