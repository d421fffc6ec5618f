package server

import (
	"context"
	"fmt"

	"pontoon/internal/etcdapi"
	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/router"
)

const (
	apiVersion     = httpapi.ServerVersion
	clusterVersion = "3.7.0" // the API level without its patch, as etcd tells it
)

// clusterView is the meta client as the router's Cluster.
type clusterView struct{ s *Server }

// Current implements router.Cluster.
func (c clusterView) Current(ctx context.Context) (router.Now, error) { return c.s.current(ctx) }

// CurrentFunc implements router.Cluster.
func (c clusterView) CurrentFunc(cb func(router.Now, error)) {
	c.s.client.NowFunc(func(now router.Now, err error) {
		if err == nil {
			c.s.noteCompacted(now.CompactRevision)
		}
		cb(now, err)
	})
}

// Map implements router.Cluster.
func (c clusterView) Map() *shard.Map { return c.s.client.Map() }

// Refresh implements router.Cluster.
func (c clusterView) Refresh(ctx context.Context) error { return c.s.client.Refresh(ctx) }

// Compact implements router.Cluster.
func (c clusterView) Compact(ctx context.Context, rev int64, physical bool) error {
	return c.s.client.Compact(ctx, rev, physical)
}

// leases is the meta client as etcdapi's Leases.
type leases struct {
	client *metaclient.Client
	router *router.Router
}

// Grant implements etcdapi.Leases.
func (l *leases) Grant(ctx context.Context, id, ttl int64) (etcdapi.Lease, error) {
	info, err := l.client.Grant(ctx, id, ttl)
	if err != nil {
		return etcdapi.Lease{}, err
	}
	rev, err := l.router.Current(ctx)
	return etcdapi.Lease{ID: info.ID, TTL: info.TTL, GrantedTTL: info.GrantedTTL, Revision: rev}, err
}

// Revoke implements etcdapi.Leases.
func (l *leases) Revoke(ctx context.Context, id int64) error { return l.client.Revoke(ctx, id) }

// KeepAlive implements etcdapi.Leases.
func (l *leases) KeepAlive(ctx context.Context, id int64) (int64, error) {
	return l.client.KeepAlive(ctx, id)
}

// TimeToLive implements etcdapi.Leases.
func (l *leases) TimeToLive(ctx context.Context, id int64, keys bool) (etcdapi.Lease, error) {
	info, err := l.client.Info(ctx, id)
	if err != nil {
		return etcdapi.Lease{}, err
	}
	out := etcdapi.Lease{ID: info.ID, TTL: info.TTL, GrantedTTL: info.GrantedTTL}
	if keys {
		if out.Keys, err = l.router.LeaseKeys(ctx, id, info.Spans); err != nil {
			return etcdapi.Lease{}, err
		}
	}
	out.Revision, err = l.router.Current(ctx)
	return out, err
}

// List implements etcdapi.Leases.
func (l *leases) List(ctx context.Context) ([]int64, error) { return l.client.Leases(ctx) }

// Members implements etcdapi.Cluster.
func (s *Server) Members(ctx context.Context, linearizable bool) ([]shard.Member, error) {
	if linearizable {
		return s.client.Members(ctx)
	}
	return s.members(), nil
}

// ClusterID implements etcdapi.Header.
func (s *Server) ClusterID() uint64 { return s.cfg.ClusterID }

// MemberID implements etcdapi.Header.
func (s *Server) MemberID() uint64 { return uint64(s.cfg.NodeID) }

// Term implements etcdapi.Header.
func (s *Server) Term() uint64 { return s.metaStatus().Term }

// Revision implements etcdapi.Header.
func (s *Server) Revision() int64 {
	rev, _ := s.newest()
	return rev
}

// HasLeader implements etcdapi.Leadership.
func (s *Server) HasLeader(spans []shard.Span) bool {
	if s.metaLeader() == 0 {
		return false
	}
	m := s.client.Map()
	if m == nil {
		return false
	}
	for _, span := range spans {
		for _, d := range m.Overlapping(span) {
			if st, ok := s.host.Status(d.ID); ok && st.Leader == 0 {
				return false
			}
		}
	}
	return true
}

// maintenance implements etcdapi.Maintenance.
type maintenance struct{ s *Server }

// Status implements etcdapi.Maintenance.
func (m *maintenance) Status(context.Context) (etcdapi.Status, error) {
	st, t := m.s.metaStatus(), m.s.sizes()
	out := etcdapi.Status{
		DBSize: t.file, DBSizeInUse: t.inUse,
		Leader: m.s.metaLeader(), RaftIndex: st.Commit, RaftAppliedIndex: st.Applied, RaftTerm: st.Term,
		StorageVersion: clusterVersion,
	}
	return out, nil
}

// HashKV implements etcdapi.Maintenance.
func (m *maintenance) HashKV(ctx context.Context, rev int64) (etcdapi.HashResult, error) {
	h, err := m.s.router.HashKV(ctx, rev)
	return etcdapi.HashResult{Hash: h.Hash, Revision: h.Header, HashRevision: h.Revision, CompactRevision: h.CompactRevision}, err
}

// Alarms implements etcdapi.Maintenance.
func (m *maintenance) Alarms(ctx context.Context) ([]etcdapi.Alarm, error) {
	st, err := m.s.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []etcdapi.Alarm
	for _, a := range st.Alarms {
		out = append(out, etcdapi.Alarm{Member: shard.NodeID(a.MemberId), Kind: a.Alarm})
	}
	return out, nil
}

// SetAlarm implements etcdapi.Maintenance.
func (m *maintenance) SetAlarm(context.Context, etcdapi.Alarm, bool) ([]etcdapi.Alarm, error) {
	return nil, shard.ErrUnimplemented
}

// nodeHealth implements httpapi.Health.
type nodeHealth struct{ s *Server }

// Alarms implements httpapi.Health. Nothing raises an alarm in this version.
func (h nodeHealth) Alarms() []string { return nil }

// HasLeader implements httpapi.Health.
func (h nodeHealth) HasLeader() bool { return h.s.metaLeader() != 0 }

// Learner implements httpapi.Health.
func (h nodeHealth) Learner() bool { return false }

// Read implements httpapi.Health.
func (h nodeHealth) Read(ctx context.Context, serializable bool) error {
	_, err := h.s.router.Range(ctx, &pb.RangeOp{Key: []byte("health"), Limit: 1}, serializable)
	return err
}

// Ranges implements httpapi.RangeLister.
func (s *Server) Ranges(ctx context.Context) ([]httpapi.Range, error) {
	sts, err := s.router.RangeStatuses(ctx)
	if err != nil {
		return nil, err
	}
	names := map[shard.NodeID]string{}
	for _, m := range s.members() {
		names[m.ID] = m.Name
	}
	out := make([]httpapi.Range, 0, len(sts))
	for _, st := range sts {
		v := rangeView(st, names)
		for i := range v.Replicas {
			if rep := &v.Replicas[i]; rep.Node == uint64(s.cfg.NodeID) && s.ranges.repairs.isLost(shard.RangeID(v.ID)) {
				rep.State = "rebuilding"
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func rangeView(st *pb.RangeStatusResponse, names map[shard.NodeID]string) httpapi.Range {
	d := pb.ToDescriptor(st.Descriptor_)
	v := httpapi.Range{
		ID: uint64(d.ID), Start: d.Span.Start, End: d.Span.End,
		StartText: keyText(d.Span.Start), EndText: keyText(d.Span.End),
		Generation: uint64(d.Generation), Term: st.Term,
		Keys: st.Keys, Size: st.Size, SizeInUse: st.SizeInUse,
		Revision: st.Revision, Applied: st.Applied, Quiescent: st.Quiescent,
		Leader: uint64(d.NodeOf(shard.ReplicaID(st.Leader))),
	}
	for _, r := range d.Replicas {
		v.Replicas = append(v.Replicas, httpapi.Replica{Replica: uint64(r.ID), Node: uint64(r.Node), Name: names[r.Node]})
	}
	return v
}

// keyText shows a key as Go would quote it, without the quotes.
func keyText(key []byte) string {
	q := fmt.Sprintf("%q", key)
	return q[1 : len(q)-1]
}

// nodeStatus answers another node's NodeStatusRequest.
func (s *Server) nodeStatus(withRanges bool) *pb.NodeStatusResponse {
	st, t := s.metaStatus(), s.sizes()
	resp := &pb.NodeStatusResponse{
		NodeId: uint64(s.cfg.NodeID), DbSize: t.file, DbSizeInUse: t.inUse, Version: apiVersion,
		MetaTerm: st.Term, MetaCommit: st.Commit, MetaApplied: st.Applied, MetaLeaderNode: uint64(s.metaLeader()),
	}
	if withRanges {
		s.ranges.each(func(rep *replica.Replica) { resp.Ranges = append(resp.Ranges, rep.Status()) })
	}
	return resp
}
