package meta

import (
	"context"
	"fmt"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Handle answers a call, whose answers may come from any goroutine. It does not block. A replica
// that does not lead answers with *shard.NotLeaderError and what it knows of the leader.
func (m *Meta) Handle(ctx context.Context, _ shard.NodeID, req *pb.PeerRequest, answer func(*pb.PeerResponse)) {
	if m == nil {
		answer(&pb.PeerResponse{Error: pb.ErrorToPB(&shard.NotLeaderError{Range: shard.MetaID})})
		return
	}
	if req.Oracle != nil {
		m.askOracle(req.Epoch, question{req.Oracle.Asker, req.Oracle.Seq}, int64(req.Oracle.Count), func(now Now, err error) {
			answer(&pb.PeerResponse{Error: pb.ErrorToPB(err), Oracle: fromNow(now, err)})
		})
		return
	}
	rep := func(resp *pb.PeerResponse, err error) {
		if err != nil {
			resp = &pb.PeerResponse{Error: pb.ErrorToPB(err)}
		}
		m.later(func() { answer(resp) })
	}
	m.dispatch(ctx, req, rep)
}

func (m *Meta) dispatch(ctx context.Context, req *pb.PeerRequest, rep reply) {
	switch {
	case req.Descriptors != nil:
		m.read(req.Epoch, rep, func() { rep(&pb.PeerResponse{Descriptors: m.descriptors(req.Descriptors.KnownVersion)}, nil) })
	case req.LeaseGrant != nil:
		m.grant(req.Epoch, req.LeaseGrant, rep)
	case req.LeaseRevoke != nil:
		m.revoke(req.Epoch, req.LeaseRevoke, rep)
	case req.LeaseKeepAlive != nil:
		m.keepAlive(req.Epoch, req.LeaseKeepAlive, rep)
	case req.LeaseInfo != nil:
		m.info(req.Epoch, req.LeaseInfo, rep)
	case req.LeaseList != nil:
		m.list(req.Epoch, rep)
	case req.LeaseAttach != nil:
		m.attach(req.Epoch, req.LeaseAttach, rep)
	case req.Compact != nil:
		m.compactRequest(ctx, req.Epoch, req.Compact, rep)
	case req.MemberAttrs != nil:
		m.memberAttrs(req.Epoch, req.MemberAttrs, rep)
	case req.Alarm != nil:
		m.alarm(req.Epoch, req.Alarm, rep)
	case req.MetaStatus != nil:
		m.read(req.Epoch, rep, func() { rep(&pb.PeerResponse{MetaStatus: m.metaStatus()}, nil) })
	default:
		m.mu.Lock()
		rep(nil, fmt.Errorf("%w: the meta group does not know this call", shard.ErrUnimplemented))
		m.unlock()
	}
}

func fromNow(now Now, err error) *pb.OracleResponse {
	if err != nil {
		return nil
	}
	return &pb.OracleResponse{Revision: now.Revision, Epoch: uint64(now.Epoch), CompactRevision: now.CompactRevision,
		AuthRevision: now.AuthRevision, RangesVersion: now.RangesVersion}
}

// descriptors answers with everything, or with the version alone if that is known.
func (m *Meta) descriptors(known uint64) *pb.DescriptorsResponse {
	s := m.mu.state
	out := &pb.DescriptorsResponse{Version: s.Map().Version(), ClusterId: s.ClusterID()}
	if known != out.Version {
		out.Ranges = pb.FromDescriptors(s.Map().All())
		out.Members = pb.FromMembers(s.Members())
		out.Meta = pb.FromDescriptor(m.descriptor())
	}
	return out
}

func (m *Meta) memberAttrs(epoch uint64, req *pb.MemberAttrsRequest, rep reply) {
	m.write(epoch, rep, func() (*pb.MetaEntry, error) {
		return &pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: req.Id, Name: req.Name, ClientUrls: req.ClientUrls}}, nil
	}, func(state.Result) { rep(&pb.PeerResponse{Empty: &pb.Empty{}}, nil) })
}

// The actions of an alarm request, as etcd numbers them.
const (
	alarmGet = iota
	alarmActivate
	alarmDeactivate
)

func (m *Meta) alarm(epoch uint64, req *pb.AlarmRequest, rep reply) {
	if req.Action == alarmGet {
		m.read(epoch, rep, func() { rep(&pb.PeerResponse{MetaStatus: m.metaStatus()}, nil) })
		return
	}
	m.write(epoch, rep, func() (*pb.MetaEntry, error) {
		if req.Action != alarmActivate && req.Action != alarmDeactivate {
			return nil, fmt.Errorf("%w: alarm action %d", shard.ErrInvalid, req.Action)
		}
		return &pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: req.MemberId, Alarm: req.Alarm, Activate: req.Action == alarmActivate}}, nil
	}, func(state.Result) { rep(&pb.PeerResponse{MetaStatus: m.metaStatus()}, nil) })
}

func (m *Meta) metaStatus() *pb.MetaStatusResponse {
	index, _ := m.mu.state.Position()
	out := &pb.MetaStatusResponse{LeaderNode: uint64(m.cfg.Node), Term: m.mu.lead.Term, Index: index,
		CompactRevision: m.mu.state.CompactRevision()}
	for _, a := range m.mu.state.Alarms() {
		out.Alarms = append(out.Alarms, &pb.MetaAlarmMember{MemberId: uint64(a.Member), Alarm: a.Kind})
	}
	return out
}
