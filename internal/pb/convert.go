package pb

import (
	"context"
	"errors"
	"time"

	"pontoon/shard"
)

// The actions of an AlarmRequest, as etcd numbers them.
const (
	AlarmList int32 = iota
	AlarmRaise
	AlarmClear
)

// FromSpan renders a span for the wire. The bytes are shared.
func FromSpan(s shard.Span) *Span { return &Span{Start: s.Start, End: s.End} }

// ToSpan is the reverse of FromSpan. An absent span holds no key: a missing field must never be
// read as the whole key space, which is what an empty message means.
func ToSpan(s *Span) shard.Span {
	if s == nil {
		return shard.Span{Start: []byte{0}, End: []byte{0}}
	}
	return shard.Span{Start: s.Start, End: s.End}
}

// FromSpans renders spans in order.
func FromSpans(ss []shard.Span) []*Span {
	out := make([]*Span, len(ss))
	for i := range ss {
		out[i] = FromSpan(ss[i])
	}
	return out
}

// ToSpans is the reverse of FromSpans.
func ToSpans(ss []*Span) []shard.Span {
	out := make([]shard.Span, len(ss))
	for i := range ss {
		out[i] = ToSpan(ss[i])
	}
	return out
}

// FromWho renders who makes a request; nobody becomes nil.
func FromWho(w shard.Who) *Who {
	if w == (shard.Who{}) {
		return nil
	}
	return &Who{Name: w.Name, Known: w.Known, Credential: w.Credential, Dated: w.Dated, Revision: w.Revision}
}

// ToWho is the reverse of FromWho.
func ToWho(w *Who) shard.Who {
	return shard.Who{Name: w.GetName(), Known: w.GetKnown(), Credential: w.GetCredential(), Dated: w.GetDated(), Revision: w.GetRevision()}
}

// FromReplicas renders the replicas of a descriptor.
func FromReplicas(rs []shard.Replica) []*ReplicaDesc {
	out := make([]*ReplicaDesc, len(rs))
	for i, r := range rs {
		out[i] = fromPresentReplica(r)
	}
	return out
}

func fromPresentReplica(r shard.Replica) *ReplicaDesc {
	return &ReplicaDesc{ReplicaId: uint64(r.ID), NodeId: uint64(r.Node), Role: uint32(r.Role)}
}

// FromReplica renders a replica; the zero one becomes nil.
func FromReplica(r shard.Replica) *ReplicaDesc {
	if r == (shard.Replica{}) {
		return nil
	}
	return fromPresentReplica(r)
}

// ToReplica reads a replica; nil becomes the zero one.
func ToReplica(r *ReplicaDesc) shard.Replica {
	return shard.Replica{ID: shard.ReplicaID(r.GetReplicaId()), Node: shard.NodeID(r.GetNodeId()), Role: shard.Role(r.GetRole())}
}

// ToReplicas is the reverse of FromReplicas.
func ToReplicas(rs []*ReplicaDesc) []shard.Replica {
	out := make([]shard.Replica, len(rs))
	for i, r := range rs {
		out[i] = ToReplica(r)
	}
	return out
}

// FromDescriptor renders a descriptor. Keys are shared.
func FromDescriptor(d shard.Descriptor) *Descriptor {
	return &Descriptor{
		RangeId:    uint64(d.ID),
		Span:       FromSpan(d.Span),
		Generation: uint64(d.Generation),
		Replicas:   FromReplicas(d.Replicas),
	}
}

// ToDescriptor is the reverse of FromDescriptor; nil becomes the zero Descriptor, which has no
// id and no replicas.
func ToDescriptor(d *Descriptor) shard.Descriptor {
	if d == nil {
		return shard.Descriptor{}
	}
	return shard.Descriptor{
		ID:         shard.RangeID(d.RangeId),
		Span:       ToSpan(d.Span),
		Generation: shard.Generation(d.Generation),
		Replicas:   ToReplicas(d.Replicas),
	}
}

// FromDescriptors renders descriptors in order.
func FromDescriptors(ds []shard.Descriptor) []*Descriptor {
	out := make([]*Descriptor, len(ds))
	for i := range ds {
		out[i] = FromDescriptor(ds[i])
	}
	return out
}

// FromMap renders the descriptors of a map in key order.
func FromMap(m *shard.Map) []*Descriptor {
	out := make([]*Descriptor, 0, m.Len())
	for d := range m.All() {
		out = append(out, FromDescriptor(d))
	}
	return out
}

// ToDescriptors is the reverse of FromDescriptors.
func ToDescriptors(ds []*Descriptor) []shard.Descriptor {
	out := make([]shard.Descriptor, len(ds))
	for i := range ds {
		out[i] = ToDescriptor(ds[i])
	}
	return out
}

// FromRangeIDs is the reverse of ToRangeIDs.
func FromRangeIDs(ids []shard.RangeID) []uint64 {
	if len(ids) == 0 {
		return nil
	}
	out := make([]uint64, len(ids))
	for i, id := range ids {
		out[i] = uint64(id)
	}
	return out
}

// FromGranted is nil for nil.
func FromGranted(g *shard.Granted) *Granted {
	if g == nil {
		return nil
	}
	out := &Granted{Revision: g.Revision, Floor: g.Floor, RangeIds: make([]uint64, 0, len(g.Last)), Lasts: make([]int64, 0, len(g.Last))}
	for id, last := range g.Last {
		out.RangeIds, out.Lasts = append(out.RangeIds, uint64(id)), append(out.Lasts, last)
	}
	return out
}

// ToGranted is nil for nil, and where ranges and their revisions do not match: then nothing is known.
func ToGranted(g *Granted) *shard.Granted {
	if g == nil || len(g.RangeIds) != len(g.Lasts) {
		return nil
	}
	out := &shard.Granted{Revision: g.Revision, Floor: g.Floor, Last: make(map[shard.RangeID]int64, len(g.Lasts))}
	for i, id := range g.RangeIds {
		out.Last[shard.RangeID(id)] = g.Lasts[i]
	}
	return out
}

// ToRangeIDs reads ids in order; nil if there are none.
func ToRangeIDs(ids []uint64) []shard.RangeID {
	if len(ids) == 0 {
		return nil
	}
	out := make([]shard.RangeID, len(ids))
	for i, id := range ids {
		out[i] = shard.RangeID(id)
	}
	return out
}

// FromOp renders an op. The bytes are shared.
func FromOp(o *shard.Op) *MetaOp {
	return &MetaOp{Id: uint64(o.ID), Kind: uint32(o.Kind), RangeId: uint64(o.Range), Generation: uint64(o.Generation),
		Key: o.Key, Child: uint64(o.Child), Replicas: FromReplicas(o.Replicas), Reason: o.Reason,
		BeganMs: o.Began, EndedMs: o.Ended, Failure: o.Failure, StoodUs: o.Stood.Microseconds(),
		From: FromReplica(o.From), To: FromReplica(o.To), ChildGeneration: uint64(o.ChildGeneration), StickyUntilMs: o.Until}
}

// ToOp is the reverse of FromOp; nil becomes the zero Op.
func ToOp(o *MetaOp) shard.Op {
	return shard.Op{ID: shard.OpID(o.GetId()), Kind: shard.OpKind(o.GetKind()), Range: shard.RangeID(o.GetRangeId()),
		Generation: shard.Generation(o.GetGeneration()), Key: o.GetKey(), Child: shard.RangeID(o.GetChild()),
		Replicas: ToReplicas(o.GetReplicas()), Reason: o.GetReason(), Began: o.GetBeganMs(), Ended: o.GetEndedMs(),
		Failure: o.GetFailure(), Stood: time.Duration(o.GetStoodUs()) * time.Microsecond,
		From: ToReplica(o.GetFrom()), To: ToReplica(o.GetTo()), ChildGeneration: shard.Generation(o.GetChildGeneration()), Until: o.GetStickyUntilMs()}
}

// FromMember renders a member.
func FromMember(m shard.Member) *Member {
	return &Member{Id: uint64(m.ID), Name: m.Name, PeerUrls: m.PeerURLs, ClientUrls: m.ClientURLs, Learner: m.Learner, Locality: m.Locality,
		Formats: m.Formats, State: uint32(m.State), Left: m.Left}
}

// ToMember is the reverse of FromMember.
func ToMember(m *Member) shard.Member {
	return shard.Member{ID: shard.NodeID(m.GetId()), Name: m.GetName(), PeerURLs: m.GetPeerUrls(),
		ClientURLs: m.GetClientUrls(), Learner: m.GetLearner(), Locality: m.GetLocality(), Formats: m.GetFormats(),
		State: shard.MemberState(m.GetState()), Left: m.GetLeft()}
}

// FromMembers renders members in order.
func FromMembers(ms []shard.Member) []*Member {
	out := make([]*Member, len(ms))
	for i := range ms {
		out[i] = FromMember(ms[i])
	}
	return out
}

// ToMembers is the reverse of FromMembers.
func ToMembers(ms []*Member) []shard.Member {
	out := make([]shard.Member, len(ms))
	for i := range ms {
		out[i] = ToMember(ms[i])
	}
	return out
}

// FromKeyValue renders a version of a key. The bytes are shared.
func FromKeyValue(kv *shard.KeyValue) *KeyValue {
	return &KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

// ToKeyValue is the reverse of FromKeyValue; nil becomes the zero KeyValue.
func ToKeyValue(kv *KeyValue) shard.KeyValue {
	return shard.KeyValue{
		Key: kv.GetKey(), Value: kv.GetValue(), CreateRevision: kv.GetCreateRevision(),
		ModRevision: kv.GetModRevision(), Version: kv.GetVersion(), Lease: kv.GetLease(),
	}
}

// FromEvents renders events in order. The bytes are shared.
func FromEvents(evs []*shard.Event) []*Event {
	if len(evs) == 0 {
		return nil
	}
	out := make([]*Event, len(evs))
	for i, e := range evs {
		out[i] = &Event{Delete: e.Delete, Kv: FromKeyValue(&e.KV), Sub: e.Sub}
		if e.Prev != nil {
			out[i].PrevKv = FromKeyValue(e.Prev)
		}
	}
	return out
}

// ToEvents is the reverse of FromEvents.
func ToEvents(evs []*Event) []*shard.Event {
	out := shard.NewEvents(len(evs))
	for i, e := range evs {
		out[i].KV, out[i].Delete, out[i].Sub = ToKeyValue(e.GetKv()), e.GetDelete(), e.GetSub()
		if e.GetPrevKv() != nil {
			prev := ToKeyValue(e.PrevKv)
			out[i].Prev = &prev
		}
	}
	return out
}

// NewWrite returns a request with an empty write in it, in one allocation.
func NewWrite() *PeerRequest {
	w := &struct {
		req   PeerRequest
		write WriteRequest
	}{}
	w.req.Write = &w.write
	return &w.req
}

// NewPut returns an operation with an empty put in it, in one allocation.
func NewPut() *Op {
	w := &struct {
		op  Op
		put PutOp
	}{}
	w.op.Put = &w.put
	return &w.op
}

// Code numbers an error of package shard on the wire. Numbers are never reused: nodes of two
// versions talk to each other.
type Code uint32

// The codes. CodeUnknown stands for an error that is not one of package shard's: its fate is
// unknown too, so nobody retries it.
const (
	CodeUnknown Code = iota
	CodeNotLeader
	CodeWrongRange
	CodeCompacted
	CodeAmbiguous
	CodeUnavailable
	CodeStaleEpoch
	CodeTooManyRequests
	CodeFutureRevision
	CodeLeaseNotFound
	CodeLeaseExists
	CodeLeaseTTLTooLarge
	CodeKeyNotFound
	CodeTimeout
	CodeNoSpace
	CodeCorrupt
	CodeUnimplemented
	CodeInvalid
	CodeStopped
	CodeConflict
	CodeAmbiguousTimeout
	CodeAmbiguousConnection
	CodeOpInWay
)

// Those of changes of the members.
const (
	CodeMemberNotFound Code = iota + 60
	CodeMemberExists
	CodePeerURLExists
	CodeMemberBadURLs
	CodeNotEnoughStarted
	CodeUnhealthy
	CodeNotLearner
	CodeLearnerNotReady
	CodeTooManyLearners
)

// Codes of users and roles, in the order of their errors in package shard.
const (
	CodeRootUserNotExist Code = iota + 100
	CodeRootRoleNotExist
	CodeUserExists
	CodeUserEmpty
	CodeUserNotFound
	CodeRoleExists
	CodeRoleNotFound
	CodeRoleEmpty
	CodePermissionNotGiven
	CodeAuthFailed
	CodeNoPasswordUser
	CodePermissionDenied
	CodeRoleNotGranted
	CodePermissionNotGranted
	CodeAuthNotEnabled
	CodeAuthOldRevision
	CodeInvalidAuthToken
	CodeInvalidAuthMgmt
)

// Those of what the settings forbid.
const (
	CodeClusterCorrupt Code = iota + 80
)

// sentinels pairs the plain errors with their codes. Ambiguous ones come first, with the cause before the
// kind: an error that wraps several is as bad as its worst.
var sentinels = []struct {
	code Code
	err  error
}{
	{CodeAmbiguousTimeout, shard.ErrAmbiguousTimeout},
	{CodeAmbiguousConnection, shard.ErrAmbiguousConnection},
	{CodeAmbiguous, shard.ErrAmbiguous},
	{CodeUnavailable, shard.ErrUnavailable},
	{CodeStaleEpoch, shard.ErrStaleEpoch},
	{CodeTooManyRequests, shard.ErrTooManyRequests},
	{CodeFutureRevision, shard.ErrFutureRevision},
	{CodeLeaseNotFound, shard.ErrLeaseNotFound},
	{CodeLeaseExists, shard.ErrLeaseExists},
	{CodeLeaseTTLTooLarge, shard.ErrLeaseTTLTooLarge},
	{CodeKeyNotFound, shard.ErrKeyNotFound},
	{CodeTimeout, shard.ErrTimeout},
	{CodeNoSpace, shard.ErrNoSpace},
	{CodeCorrupt, shard.ErrCorrupt},
	{CodeUnimplemented, shard.ErrUnimplemented},
	{CodeInvalid, shard.ErrInvalid},
	{CodeStopped, shard.ErrStopped},
	{CodeConflict, shard.ErrConflict},
	{CodeOpInWay, shard.ErrOpInWay},
	{CodeMemberNotFound, shard.ErrMemberNotFound},
	{CodeMemberExists, shard.ErrMemberExists},
	{CodePeerURLExists, shard.ErrPeerURLExists},
	{CodeMemberBadURLs, shard.ErrMemberBadURLs},
	{CodeNotEnoughStarted, shard.ErrNotEnoughStarted},
	{CodeUnhealthy, shard.ErrUnhealthy},
	{CodeNotLearner, shard.ErrNotLearner},
	{CodeLearnerNotReady, shard.ErrLearnerNotReady},
	{CodeTooManyLearners, shard.ErrTooManyLearners},
	{CodeRootUserNotExist, shard.ErrRootUserNotExist},
	{CodeRootRoleNotExist, shard.ErrRootRoleNotExist},
	{CodeUserExists, shard.ErrUserExists},
	{CodeUserEmpty, shard.ErrUserEmpty},
	{CodeUserNotFound, shard.ErrUserNotFound},
	{CodeRoleExists, shard.ErrRoleExists},
	{CodeRoleNotFound, shard.ErrRoleNotFound},
	{CodeRoleEmpty, shard.ErrRoleEmpty},
	{CodePermissionNotGiven, shard.ErrPermissionNotGiven},
	{CodeAuthFailed, shard.ErrAuthFailed},
	{CodeNoPasswordUser, shard.ErrNoPasswordUser},
	{CodePermissionDenied, shard.ErrPermissionDenied},
	{CodeRoleNotGranted, shard.ErrRoleNotGranted},
	{CodePermissionNotGranted, shard.ErrPermissionNotGranted},
	{CodeAuthNotEnabled, shard.ErrAuthNotEnabled},
	{CodeAuthOldRevision, shard.ErrAuthOldRevision},
	{CodeInvalidAuthToken, shard.ErrInvalidAuthToken},
	{CodeInvalidAuthMgmt, shard.ErrInvalidAuthMgmt},
	{CodeClusterCorrupt, shard.ErrClusterCorrupt},
}

// wireError is a plain error of package shard that was wrapped with more text where it arose.
type wireError struct {
	text string
	is   error
}

func (e *wireError) Error() string { return e.text }
func (e *wireError) Unwrap() error { return e.is }

// ErrorToPB renders an error for the wire; nil becomes nil. A bare context error means that
// patience ended: whoever had already proposed says ErrAmbiguous itself, so that what arrives
// here as a context error becomes ErrTimeout.
func ErrorToPB(err error) *Error {
	if err == nil {
		return nil
	}
	if errors.Is(err, shard.ErrAmbiguous) {
		return sentinelToPB(err)
	}
	var nl *shard.NotLeaderError
	var wr *shard.WrongRangeError
	var co *shard.CompactedError
	switch {
	case errors.As(err, &nl):
		return &Error{Code: uint32(CodeNotLeader), RangeId: uint64(nl.Range), LeaderNode: uint64(nl.Leader), Term: nl.Term, Descriptors: FromDescriptors(nl.Known)}
	case errors.As(err, &wr):
		return &Error{Code: uint32(CodeWrongRange), RangeId: uint64(wr.Range), Descriptors: FromDescriptors(wr.Known)}
	case errors.As(err, &co):
		return &Error{Code: uint32(CodeCompacted), Revision: co.Revision}
	}
	if e := sentinelToPB(err); e != nil {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &Error{Code: uint32(CodeTimeout), Message: shard.ErrTimeout.Error()}
	}
	return &Error{Code: uint32(CodeUnknown), Message: err.Error()}
}

// sentinelToPB renders an error that wraps a sentinel; nil for any other.
func sentinelToPB(err error) *Error {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return &Error{Code: uint32(s.code), Message: err.Error()}
		}
	}
	return nil
}

// ErrorFromPB is the reverse of ErrorToPB: errors.Is and errors.As find what was sent. A code of
// a newer version becomes an error of unknown fate.
func ErrorFromPB(e *Error) error {
	if e == nil {
		return nil
	}
	switch Code(e.Code) {
	case CodeNotLeader:
		nl := &shard.NotLeaderError{Range: shard.RangeID(e.RangeId), Leader: shard.NodeID(e.LeaderNode), Term: e.Term}
		if len(e.Descriptors) > 0 {
			nl.Known = ToDescriptors(e.Descriptors)
		}
		return nl
	case CodeWrongRange:
		return &shard.WrongRangeError{Range: shard.RangeID(e.RangeId), Known: ToDescriptors(e.Descriptors)}
	case CodeCompacted:
		return &shard.CompactedError{Revision: e.Revision}
	}
	for _, s := range sentinels {
		if s.code != Code(e.Code) {
			continue
		}
		if e.Message == "" || e.Message == s.err.Error() {
			return s.err
		}
		return &wireError{text: e.Message, is: s.err}
	}
	return errors.New(e.Message)
}
