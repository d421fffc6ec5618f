package front

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/internal/backend"
	"pontoon/internal/clusterversion"
	"pontoon/internal/etcdapi"
	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

const (
	apiVersion     = httpapi.ServerVersion
	clusterVersion = "3.7.0" // the API level without its patch, as etcd tells it
)

// listsAtOnce is how many lists of all ranges are made at a time: each asks every leader.
const listsAtOnce = 4

// node is the backend as the API sees it.
type node struct {
	backend  *backend.Backend
	router   *router.Router
	listing  semaphore // of all ranges
	members  MemberRules
	presence *presence // nil: this is no gateway
	// election bounds the question whether this node is still a learner.
	election time.Duration
}

// leases is the meta client as etcdapi's Leases.
type leases struct {
	client *metaclient.Client
	router *router.Router
}

// Grant implements etcdapi.Leases.
func (l *leases) Grant(ctx context.Context, id, ttl int64) (etcdapi.Lease, error) {
	info, err := l.client.Grant(ctx, id, ttl)
	return toLease(info), err
}

func toLease(l metaclient.Lease) etcdapi.Lease {
	return etcdapi.Lease{ID: l.ID, TTL: l.TTL, GrantedTTL: l.GrantedTTL, Revision: l.Revision}
}

// Revoke implements etcdapi.Leases.
func (l *leases) Revoke(ctx context.Context, id int64) (int64, error) {
	rev, err := l.client.Revoke(ctx, id)
	l.router.NoteAcked(rev) // 0 after an error
	return rev, err
}

// KeepAlive implements etcdapi.Leases.
func (l *leases) KeepAlive(ctx context.Context, id int64) (etcdapi.Lease, error) {
	info, err := l.client.KeepAlive(ctx, id)
	return toLease(info), err
}

// TimeToLive implements etcdapi.Leases.
func (l *leases) TimeToLive(ctx context.Context, id int64, keys bool) (etcdapi.Lease, error) {
	info, err := l.client.Info(ctx, id)
	out := toLease(info)
	if err != nil || !keys {
		return out, err
	}
	if out.Keys, err = l.router.LeaseKeys(ctx, id, info.Spans); err != nil {
		return etcdapi.Lease{}, err
	}
	out.Revision, err = l.router.Current(ctx) // the keys were read since
	return out, err
}

// List implements etcdapi.Leases.
func (l *leases) List(ctx context.Context) ([]int64, int64, error) { return l.client.Leases(ctx) }

// Members implements etcdapi.Cluster.
func (n *node) Members(ctx context.Context, linearizable bool) ([]shard.Member, error) {
	if group := n.presence.members(); group != nil {
		return group, nil
	}
	if !linearizable {
		return n.backend.Cluster.Members(), nil
	}
	all, err := n.backend.Cluster.Client.Members(ctx)
	return shard.PresentMembers(all), err
}

// ChangeMember implements etcdapi.Cluster.
func (n *node) ChangeMember(ctx context.Context, req *pb.ChangeMemberRequest) ([]shard.Member, shard.NodeID, error) {
	req.Strict, req.LearnersMax = n.members.Strict, n.members.LearnersMax
	ms, err := n.backend.Cluster.Client.ChangeMember(ctx, req)
	return shard.PresentMembers(ms.Members), ms.Changed, err
}

// learner tells whether this node is a learner, by the newest members that it has heard of.
func (n *node) learner() bool {
	members := n.backend.Cluster.Client.View().Members
	i := shard.FindMember(members, n.backend.Identity.Node)
	return i >= 0 && members[i].Learner
}

// stillLearner is learner, and asks the meta group where that says yes: who has been told that this node was promoted is not refused here.
func (n *node) stillLearner(ctx context.Context) bool {
	if !n.learner() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, n.election)
	defer cancel()
	_ = n.backend.Cluster.Client.Refresh(ctx) // without an answer it is what it was
	return n.learner()
}

// ClusterID implements etcdapi.Header.
func (n *node) ClusterID() uint64 { return n.backend.Identity.ClusterID }

// MemberID implements etcdapi.Header.
func (n *node) MemberID() uint64 { return uint64(n.backend.Identity.Node) }

// Term implements etcdapi.Header.
func (n *node) Term() uint64 { return n.backend.Local.Meta().Term }

// Revision implements etcdapi.Header.
func (n *node) Revision() int64 {
	rev, _ := n.backend.Cluster.Newest()
	return rev
}

// HasLeader implements etcdapi.Leadership.
func (n *node) HasLeader(spans []shard.Span) bool {
	if n.backend.Local.Meta().Leader == 0 {
		return false
	}
	m := n.backend.Cluster.Map()
	if m == nil {
		return false
	}
	for _, span := range spans {
		for d := range m.Overlapping(span) {
			if st := n.backend.Local.Replica(d.ID); st.Held && !st.HasLeader {
				return false
			}
		}
	}
	return true
}

// hashesAtOnce is how many HashKV run at a time: each reads every key of the cluster.
const hashesAtOnce = 2

// maintenance implements etcdapi.Maintenance.
type maintenance struct {
	n      *node
	hashes semaphore
	log    *slog.Logger
}

func newMaintenance(n *node, log *slog.Logger) *maintenance {
	return &maintenance{n: n, hashes: newSemaphore(hashesAtOnce), log: log}
}

// Status implements etcdapi.Maintenance.
func (m *maintenance) Status(context.Context) (etcdapi.Status, error) {
	st, t := m.n.backend.Local.Meta(), m.n.backend.Local.Sizes()
	out := etcdapi.Status{
		DBSize: t.Taken, DBSizeInUse: min(t.InUse, t.Taken), DBSizeQuota: t.Quota,
		Leader: st.Leader, RaftIndex: st.Commit, RaftAppliedIndex: st.Applied, RaftTerm: st.Term,
		StorageVersion: clusterVersion, IsLearner: m.n.learner(),
	}
	for _, a := range m.n.backend.Cluster.Client.Settings().Alarms {
		out.Alarms = append(out.Alarms, etcdapi.Alarm(a))
	}
	return out, nil
}

// HashKV implements etcdapi.Maintenance.
func (m *maintenance) HashKV(ctx context.Context, rev int64) (etcdapi.HashResult, error) {
	if !m.hashes.tryAcquire() {
		return etcdapi.HashResult{}, shard.ErrTooManyRequests
	}
	defer m.hashes.release()
	h, err := m.n.router.HashKV(ctx, rev, m.n.backend.Cluster.Client.Active(clusterversion.Contents))
	return etcdapi.HashResult{Hash: h.Hash, Revision: h.Header, HashRevision: h.Revision, CompactRevision: h.CompactRevision}, err
}

// Alarms implements etcdapi.Maintenance.
func (m *maintenance) Alarms(ctx context.Context) ([]etcdapi.Alarm, error) {
	st, err := m.n.backend.Cluster.Client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []etcdapi.Alarm
	for _, a := range st.Alarms {
		out = append(out, etcdapi.Alarm{Member: shard.NodeID(a.MemberId), Kind: a.Alarm})
	}
	return out, nil
}

// MoveLeader implements etcdapi.Maintenance.
func (m *maintenance) MoveLeader(ctx context.Context, to shard.NodeID) error {
	return m.n.backend.Local.MoveLeader(ctx, to)
}

// Defragment implements etcdapi.Maintenance.
func (m *maintenance) Defragment(ctx context.Context) error {
	m.log.Info("starting defragment")
	if err := m.n.backend.Local.Defragment(ctx); err != nil {
		m.log.Warn("failed to defragment", "error", err)
		return err
	}
	m.log.Info("finished defragment")
	return nil
}

// SetAlarm implements etcdapi.Maintenance.
func (m *maintenance) SetAlarm(ctx context.Context, a etcdapi.Alarm, raise bool) ([]etcdapi.Alarm, error) {
	if err := m.n.backend.Cluster.Client.SetAlarm(ctx, a.Member, a.Kind, raise); err != nil {
		return nil, err
	}
	return []etcdapi.Alarm{a}, nil
}

// health implements httpapi.Health.
type health struct{ n *node }

// Alarms implements httpapi.Health.
func (h health) Alarms() (names []string) {
	for _, a := range h.n.backend.Cluster.Client.Settings().Alarms {
		names = append(names, etcdserverpb.AlarmType(a.Kind).String())
	}
	return names
}

// HasLeader implements httpapi.Health.
func (h health) HasLeader() bool { return h.n.backend.Local.Meta().Leader != 0 }

// Learner implements httpapi.Health.
func (h health) Learner() bool { return h.n.learner() }

// Read implements httpapi.Health.
func (h health) Read(ctx context.Context, serializable bool) error {
	_, err := h.n.router.Range(ctx, &pb.RangeOp{Key: []byte("health"), Limit: 1}, serializable)
	return err
}

// bordersAskedMax bounds the question which borders stay: without a leader of the meta group ranges are listed all the same.
const bordersAskedMax = time.Second

// Ranges implements httpapi.RangeLister.
func (n *node) Ranges(ctx context.Context) ([]httpapi.Range, error) {
	if !n.listing.tryAcquire() {
		return nil, shard.ErrTooManyRequests
	}
	defer n.listing.release()
	sts, err := n.router.RangeStatuses(ctx)
	if err != nil {
		return nil, err
	}
	names := n.names()
	asked, cancel := context.WithTimeout(ctx, bordersAskedMax)
	borders, _ := n.backend.Cluster.Client.Borders(asked) // what nobody tells stays open, as with all else here
	cancel()
	out := make([]httpapi.Range, 0, len(sts))
	for _, st := range sts {
		v := rangeView(st, names)
		if until := borders[string(v.Start)]; until != 0 {
			v.Sticky = true
			if until != shard.Forever {
				v.StickyUntil = unixText(until)
			}
		}
		for i := range v.Replicas {
			if rep := &v.Replicas[i]; rep.Node == n.MemberID() && n.backend.Local.Replica(shard.RangeID(v.ID)).Rebuilding {
				rep.State = "rebuilding"
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// names are those of the members.
func (n *node) names() map[shard.NodeID]string {
	names := map[shard.NodeID]string{}
	for _, m := range n.backend.Cluster.Members() {
		names[m.ID] = m.Name
	}
	return names
}

// Meta is where the meta group is, as far as this node has heard.
func (n *node) Meta() httpapi.Range {
	d, st := n.backend.Cluster.Client.Meta(), n.backend.Local.Meta()
	v := httpapi.Range{ID: uint64(d.ID), Generation: uint64(d.Generation), Leader: uint64(st.Leader), Term: st.Term, Applied: st.Applied}
	names := n.names()
	for _, r := range d.Replicas {
		rep := httpapi.Replica{Replica: uint64(r.ID), Node: uint64(r.Node), Name: names[r.Node]}
		if r.Role != shard.Voter {
			rep.State = r.Role.String()
		}
		v.Replicas = append(v.Replicas, rep)
	}
	return v
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

// Nodes lists the members as gossip sees them from here.
func (n *node) Nodes() []httpapi.Node {
	var out []httpapi.Node
	for _, m := range n.backend.Local.Nodes() {
		o := httpapi.Node{Node: uint64(m.Node), Name: m.Name, Address: m.Addr, Locality: m.Locality, State: m.State.String()}
		if !m.Since.IsZero() {
			o.Since = m.Since.UTC().Format(time.RFC3339)
		}
		out = append(out, o)
	}
	return out
}

// clusterVersion is what /version tells.
func (n *node) clusterVersion() string {
	if n.backend.Cluster.Map() == nil {
		return httpapi.VersionUndecided
	}
	return clusterVersion
}

// semaphore lets so many in at a time.
type semaphore chan struct{}

func newSemaphore(n int) semaphore { return make(semaphore, n) }

// tryAcquire is false where there is no room: the caller is refused.
func (s semaphore) tryAcquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s semaphore) release() { <-s }

// member finds one by its name, or by its id in hexadecimal digits.
func (n *node) member(name string) (shard.Member, error) {
	id, err := strconv.ParseUint(name, 16, 64)
	for _, m := range n.backend.Cluster.Members() {
		if m.Name == name || err == nil && uint64(m.ID) == id {
			return m, nil
		}
	}
	return shard.Member{}, fmt.Errorf("%w: no member has the name or the id %q: see `client members`", shard.ErrInvalid, name)
}
