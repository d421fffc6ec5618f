package apitest

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"

	"pontoon/internal/etcdapi"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// What the store says about itself.
const (
	ClusterIDValue = 0xc1
	MemberIDValue  = 0x11
	TermValue      = 7
	minTTL         = 2
	maxTTL         = 9_000_000_000
)

// Config returns an API configuration with every part played by the store.
func (s *Store) Config() etcdapi.Config {
	return etcdapi.Config{
		KV: s, Leases: leases{s}, Watch: s.NewStream, Cluster: s, Maintenance: s, Header: s, Leadership: s,
	}
}

// ClusterID implements etcdapi.Header.
func (s *Store) ClusterID() uint64 { return ClusterIDValue }

// MemberID implements etcdapi.Header.
func (s *Store) MemberID() uint64 { return MemberIDValue }

// Term implements etcdapi.Header.
func (s *Store) Term() uint64 { return TermValue }

// Revision implements etcdapi.Header.
func (s *Store) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// Members implements etcdapi.Cluster.
func (s *Store) Members(context.Context, bool) ([]shard.Member, error) {
	if err := s.fail("Members"); err != nil {
		return nil, err
	}
	return []shard.Member{
		{ID: MemberIDValue, Name: "one", PeerURLs: []string{"http://127.0.0.1:2380"}, ClientURLs: []string{"http://127.0.0.1:2379"}},
		{ID: 0x12, PeerURLs: []string{"http://127.0.0.1:12380"}, Learner: true},
	}, nil
}

// ChangeMember implements etcdapi.Cluster: it does nothing, and says that it was done to the first member, or that one was added.
func (s *Store) ChangeMember(ctx context.Context, req *pb.ChangeMemberRequest) ([]shard.Member, shard.NodeID, error) {
	if err := s.fail("ChangeMember"); err != nil {
		return nil, 0, err
	}
	members, err := s.Members(ctx, true)
	if req.Change == uint32(shard.MemberAdd) {
		members = append(members, shard.Member{ID: 0x13, PeerURLs: req.PeerUrls, Learner: req.Learner})
		return members, 0x13, err
	}
	return members, shard.NodeID(req.Id), err
}

// Status implements etcdapi.Maintenance.
func (s *Store) Status(context.Context) (etcdapi.Status, error) {
	st := etcdapi.Status{
		DBSize: 8192, DBSizeInUse: 4096, DBSizeQuota: 1 << 31, RaftIndex: 10, RaftAppliedIndex: 9, RaftTerm: TermValue,
		StorageVersion: "3.7.0",
	}
	if s.HasLeader(nil) {
		st.Leader = MemberIDValue
	}
	return st, nil
}

// HashKV implements etcdapi.Maintenance.
func (s *Store) HashKV(_ context.Context, rev int64) (etcdapi.HashResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case rev == 0:
		rev = s.rev
	case rev > s.rev:
		return etcdapi.HashResult{}, shard.ErrFutureRevision
	case rev < s.compact:
		return etcdapi.HashResult{}, &shard.CompactedError{Revision: s.compact}
	}
	h := fnv.New64a()
	for _, kv := range s.scan(shard.All, rev) {
		fmt.Fprintf(h, "%q=%q@%d\n", kv.Key, kv.Value, kv.ModRevision)
	}
	return etcdapi.HashResult{Hash: h.Sum64(), Revision: s.rev, HashRevision: rev, CompactRevision: s.compact}, nil
}

// Alarms implements etcdapi.Maintenance.
func (s *Store) Alarms(context.Context) ([]etcdapi.Alarm, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.alarms), nil
}

// MoveLeader implements etcdapi.Maintenance: the only node leads, and no other can.
func (s *Store) MoveLeader(_ context.Context, to shard.NodeID) error {
	switch {
	case !s.HasLeader(nil):
		return &shard.NotLeaderError{Range: shard.MetaID}
	case to != MemberIDValue:
		return fmt.Errorf("%w: node %v is no voting member", shard.ErrInvalid, to)
	}
	return nil
}

// Defragment implements etcdapi.Maintenance.
func (s *Store) Defragment(context.Context) error { return s.fail("Defragment") }

// SetAlarm implements etcdapi.Maintenance.
func (s *Store) SetAlarm(_ context.Context, a etcdapi.Alarm, raise bool) ([]etcdapi.Alarm, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if raise {
		s.alarms = append(s.alarms, a)
		return []etcdapi.Alarm{a}, nil
	}
	s.alarms = slices.DeleteFunc(s.alarms, func(b etcdapi.Alarm) bool { return a == b })
	return []etcdapi.Alarm{a}, nil
}

// leases plays etcdapi.Leases; nothing expires by itself.
type leases struct{ s *Store }

func (l leases) Grant(_ context.Context, id, ttl int64) (etcdapi.Lease, error) {
	if err := l.s.fail("Grant"); err != nil {
		return etcdapi.Lease{}, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if ttl > maxTTL {
		return etcdapi.Lease{}, shard.ErrLeaseTTLTooLarge
	}
	if id == 0 {
		id = int64(1000 + len(l.s.leases))
	}
	if _, ok := l.s.leases[id]; ok {
		return etcdapi.Lease{}, shard.ErrLeaseExists
	}
	l.s.leases[id] = max(ttl, minTTL)
	return etcdapi.Lease{ID: id, TTL: max(ttl, minTTL), GrantedTTL: max(ttl, minTTL), Revision: l.s.rev}, nil
}

func (l leases) Revoke(_ context.Context, id int64) (int64, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if _, ok := l.s.leases[id]; !ok {
		return 0, shard.ErrLeaseNotFound
	}
	delete(l.s.leases, id)
	l.s.expire(id)
	return l.s.rev, nil
}

func (l leases) KeepAlive(_ context.Context, id int64) (etcdapi.Lease, error) {
	if err := l.s.fail("KeepAlive"); err != nil {
		return etcdapi.Lease{}, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	ttl, ok := l.s.leases[id]
	if !ok {
		return etcdapi.Lease{Revision: l.s.rev}, shard.ErrLeaseNotFound
	}
	return etcdapi.Lease{ID: id, TTL: ttl, GrantedTTL: ttl, Revision: l.s.rev}, nil
}

func (l leases) TimeToLive(_ context.Context, id int64, keys bool) (etcdapi.Lease, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	ttl, ok := l.s.leases[id]
	if !ok {
		return etcdapi.Lease{Revision: l.s.rev}, shard.ErrLeaseNotFound
	}
	lease := etcdapi.Lease{ID: id, TTL: ttl, GrantedTTL: ttl, Revision: l.s.rev}
	if keys {
		for _, kv := range l.s.scan(shard.All, l.s.rev) {
			if kv.Lease == id {
				lease.Keys = append(lease.Keys, kv.Key)
			}
		}
	}
	return lease, nil
}

func (l leases) List(context.Context) ([]int64, int64, error) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var ids []int64
	for id := range l.s.leases {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, l.s.rev, nil
}
