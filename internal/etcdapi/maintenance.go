package etcdapi

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/internal/auth"
	"pontoon/shard"
)

// noQuota is what etcd calls the quota of a store that has none: its flag is then below zero.
const noQuota int64 = -1

// maintenanceServer is etcd's Maintenance service.
type maintenanceServer struct {
	etcdserverpb.UnsafeMaintenanceServer
	api *API
}

// Status describes this node. It answers without a quorum.
func (s *maintenanceServer) Status(ctx context.Context, _ *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	st, err := s.api.cfg.Maintenance.Status(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	resp := &etcdserverpb.StatusResponse{
		Header:  s.api.header(0),
		Version: Version, StorageVersion: st.StorageVersion,
		DbSize: st.DBSize, DbSizeInUse: st.DBSizeInUse, DbSizeQuota: cmp.Or(st.DBSizeQuota, noQuota),
		Leader: uint64(st.Leader), RaftTerm: st.RaftTerm,
		RaftIndex: st.RaftIndex, RaftAppliedIndex: st.RaftAppliedIndex,
		IsLearner:     st.IsLearner,
		DowngradeInfo: &etcdserverpb.DowngradeInfo{},
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrNoLeader.Error())
	}
	for _, a := range st.Alarms {
		resp.Errors = append(resp.Errors, (&etcdserverpb.AlarmMember{MemberID: uint64(a.Member), Alarm: etcdserverpb.AlarmType(a.Kind)}).String())
	}
	return resp, nil
}

// Hash hashes the whole store at the current revision. Unlike etcd's it does not depend on
// what lies in the file besides keys, so that it is equal wherever HashKV is.
func (s *maintenanceServer) Hash(ctx context.Context, _ *etcdserverpb.HashRequest) (*etcdserverpb.HashResponse, error) {
	h, err := s.api.cfg.Maintenance.HashKV(ctx, 0)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.HashResponse{Header: s.api.header(h.Revision), Hash: fold(h.Hash)}, nil
}

// HashKV hashes all keys at a revision.
func (s *maintenanceServer) HashKV(ctx context.Context, r *etcdserverpb.HashKVRequest) (*etcdserverpb.HashKVResponse, error) {
	h, err := s.api.cfg.Maintenance.HashKV(ctx, max(r.Revision, 0))
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.HashKVResponse{
		Header: s.api.header(h.Revision), Hash: fold(h.Hash),
		CompactRevision: compacted(h.CompactRevision), HashRevision: h.HashRevision,
	}, nil
}

// neverCompacted is what etcd names where nothing was compacted yet.
const neverCompacted = -1

func compacted(rev int64) int64 {
	if rev == 0 {
		return neverCompacted
	}
	return rev
}

// emptyHash is the hash of no keys. Ours are sums, to which none adds nothing; in etcd there is always something to hash, so clients may take
// 0 for a field that is missing.
const emptyHash uint32 = 0x811c9dc5

// fold brings our 64-bit hash into etcd's 32 bits.
func fold(h uint64) uint32 { return emptyHash ^ uint32(h) ^ uint32(h>>32) }

// Alarm lists, raises or clears alarms.
func (s *maintenanceServer) Alarm(ctx context.Context, r *etcdserverpb.AlarmRequest) (*etcdserverpb.AlarmResponse, error) {
	judge := (*auth.View).Admin
	if r.Action == etcdserverpb.AlarmRequest_GET {
		judge = (*auth.View).Identified
	}
	_, _, err := s.api.guard.checkSettled(ctx, judge)
	if err != nil {
		return nil, toRPC(err)
	}
	var alarms []Alarm
	asked := Alarm{Member: shard.NodeID(r.MemberID), Kind: int32(r.Alarm)}
	switch r.Action {
	case etcdserverpb.AlarmRequest_GET:
		alarms, err = s.api.cfg.Maintenance.Alarms(ctx)
	case etcdserverpb.AlarmRequest_ACTIVATE, etcdserverpb.AlarmRequest_DEACTIVATE:
		alarms, err = s.setAlarm(ctx, asked, r.Action == etcdserverpb.AlarmRequest_ACTIVATE)
	}
	if err != nil {
		return nil, toRPC(err)
	}
	resp := &etcdserverpb.AlarmResponse{Header: s.api.header(0)}
	for _, a := range alarms {
		if r.Action == etcdserverpb.AlarmRequest_GET && !matches(asked, a) {
			continue
		}
		resp.Alarms = append(resp.Alarms, &etcdserverpb.AlarmMember{MemberID: uint64(a.Member), Alarm: etcdserverpb.AlarmType(a.Kind)})
	}
	return resp, nil
}

// setAlarm raises or clears an alarm. To clear one that is not raised changes nothing, and, as in
// etcd, neither does raising none in particular.
func (s *maintenanceServer) setAlarm(ctx context.Context, a Alarm, raise bool) ([]Alarm, error) {
	if raise && a.Kind == AlarmNone {
		return nil, nil
	}
	if !raise {
		raised, err := s.api.cfg.Maintenance.Alarms(ctx)
		if err != nil || !slices.Contains(raised, a) {
			return nil, err
		}
	}
	return s.api.cfg.Maintenance.SetAlarm(ctx, a, raise)
}

// matches reports whether a listed alarm is of the kind that was asked for.
func matches(asked, a Alarm) bool {
	return asked.Kind == AlarmNone || asked.Kind == a.Kind
}

// Defragment gives the free pages of this node's files back to its disk. As in etcd the answer has no header.
func (s *maintenanceServer) Defragment(ctx context.Context, _ *etcdserverpb.DefragmentRequest) (*etcdserverpb.DefragmentResponse, error) {
	if err := s.api.cfg.Maintenance.Defragment(ctx); err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.DefragmentResponse{}, nil
}

// MoveLeader moves the lead of the meta group, whose leader is the one that Status names. As in etcd only the
// leader does it, and to a voting member alone.
func (s *maintenanceServer) MoveLeader(ctx context.Context, r *etcdserverpb.MoveLeaderRequest) (*etcdserverpb.MoveLeaderResponse, error) {
	err := s.api.cfg.Maintenance.MoveLeader(ctx, shard.NodeID(r.TargetID))
	var notLeader *shard.NotLeaderError
	switch {
	case errors.As(err, &notLeader):
		return nil, rpctypes.ErrGRPCNotLeader
	case errors.Is(err, shard.ErrInvalid):
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	case err != nil:
		return nil, toRPC(err)
	}
	return &etcdserverpb.MoveLeaderResponse{Header: s.api.header(0)}, nil
}
