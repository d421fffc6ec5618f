package metaclient

import (
	"context"
	"errors"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Lease is one lease as its holders see it.
type Lease struct {
	ID         int64
	TTL        int64 // what is left, in seconds
	GrantedTTL int64
	GrantIndex uint64
	Spans      []shard.Span
	Revoking   bool
	Revision   int64 // that was current when the answer was made; 0: not told
}

func toLease(l *pb.LeaseInfo) Lease {
	return Lease{ID: l.GetId(), TTL: l.GetTtl(), GrantedTTL: l.GetGrantedTtl(), GrantIndex: l.GetGrantIndex(),
		Spans: pb.ToSpans(l.GetSpans()), Revoking: l.GetRevoking()}
}

func firstLease(resp *pb.PeerResponse, err error) (Lease, error) {
	if err != nil {
		return Lease{}, err
	}
	if ls := resp.GetLeaseInfo().GetLeases(); len(ls) > 0 {
		l := toLease(ls[0])
		l.Revision = resp.GetLeaseInfo().GetRevision()
		return l, nil
	}
	return Lease{}, fmt.Errorf("%w: an answer without a lease", shard.ErrCorrupt)
}

// leases calls the lessor.
type leases struct {
	calls      *caller
	keepAlives keepAlives
}

func (ls *leases) init(calls *caller) {
	ls.calls = calls
	ls.keepAlives.calls = calls
}

// Grant creates a lease; with id 0 the cluster chooses one. The TTL, in seconds, may be raised.
func (ls *leases) Grant(ctx context.Context, id, ttl int64) (Lease, error) {
	l, err := firstLease(ls.calls.one(ctx, &pb.PeerRequest{LeaseGrant: &pb.LeaseGrantRequest{Id: id, Ttl: ttl}}, true, false))
	ls.calls.NoteRevision(l.Revision)
	return l, err
}

// Revoke ends a lease and returns when its keys are deleted, with the revision of the deletes, or the one
// that was current if there was nothing to delete. shard.ErrAmbiguous: it may be going on, or it is done
// and nobody knows at which revision.
func (ls *leases) Revoke(ctx context.Context, id int64) (rev int64, err error) {
	resp, err := ls.calls.one(ctx, &pb.PeerRequest{LeaseRevoke: &pb.LeaseRevokeRequest{Id: id}}, true, true)
	rev = resp.GetLeaseRevoke().GetRevision()
	ls.calls.NoteRevision(rev)
	return rev, err
}

// Info returns a lease; shard.ErrLeaseNotFound, and the revision alone, if there is none.
func (ls *leases) Info(ctx context.Context, id int64) (Lease, error) {
	l, err := firstLease(ls.calls.one(ctx, &pb.PeerRequest{LeaseInfo: &pb.LeaseInfoRequest{Id: id}}, false, false))
	ls.calls.NoteRevision(l.Revision)
	if err == nil && l.TTL < 0 {
		return Lease{Revision: l.Revision}, shard.ErrLeaseNotFound
	}
	return l, err
}

// Leases lists the ids of all leases, the next to expire first, and tells the revision that was current.
func (ls *leases) Leases(ctx context.Context) (ids []int64, rev int64, err error) {
	resp, err := ls.calls.one(ctx, &pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}, false, false)
	rev = resp.GetLeaseList().GetRevision()
	ls.calls.NoteRevision(rev)
	return resp.GetLeaseList().GetIds(), rev, err
}

// GrantedLeases lists all leases with the TTLs that they were granted for; nothing else of them is told.
func (ls *leases) GrantedLeases(ctx context.Context) ([]Lease, error) {
	resp, err := ls.calls.one(ctx, &pb.PeerRequest{LeaseList: &pb.LeaseListRequest{}}, false, false)
	if err != nil {
		return nil, err
	}
	list := resp.GetLeaseList()
	out := make([]Lease, 0, len(list.GetIds()))
	for i, id := range list.GetIds() {
		if i < len(list.GrantedTtls) {
			out = append(out, Lease{ID: id, GrantedTTL: list.GrantedTtls[i]})
			continue
		}
		l, err := ls.Info(ctx, id) // of a node that is older than the list's TTLs
		switch {
		case errors.Is(err, shard.ErrLeaseNotFound):
		case err != nil:
			return nil, err
		default:
			out = append(out, l)
		}
	}
	return out, nil
}

// Attach records, before a put with the lease is proposed, that span may hold keys of it. With
// grantIndex 0 any grant of the id will do. It returns the index of the grant.
func (ls *leases) Attach(ctx context.Context, id int64, grantIndex uint64, span shard.Span) (uint64, error) {
	req := &pb.LeaseAttachRequest{Id: id, GrantIndex: grantIndex, Span: pb.FromSpan(span)}
	resp, err := ls.calls.one(ctx, &pb.PeerRequest{LeaseAttach: req}, false, false)
	return resp.GetLeaseAttach().GetGrantIndex(), err
}

// KeepAlive renews a lease and returns it with its full TTL, or with a TTL of 0 if it does not exist, and
// the revision that was current then; spans and grant are not told. One that is about to end is waited for.
func (ls *leases) KeepAlive(ctx context.Context, id int64) (Lease, error) {
	return wait(ctx, func(cb func(Lease, error)) { ls.KeepAliveFunc(id, cb) })
}

// KeepAliveFunc is KeepAlive with a callback, which must not block.
func (ls *leases) KeepAliveFunc(id int64, cb func(Lease, error)) { ls.keepAlives.add(renewal{id, cb}) }
