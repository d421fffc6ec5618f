package etcdapi

import (
	"context"
	"errors"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"pontoon/internal/auth"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// Access is users and roles as this node knows them. Its methods may be called by any goroutine; View, Lent and BorrowFunc do not block.
type Access interface {
	// View is the newest; never nil. An answer of the oracle that knows of a newer one has come only after that is here.
	View() *auth.View
	// Lent reports whether no change that the view does not have has been acknowledged to anybody.
	Lent() bool
	// Borrow returns when that is so at a moment after it was called; shard.ErrUnavailable where nobody can tell.
	Borrow(ctx context.Context) error
	// BorrowFunc is Borrow with a callback, which must not block.
	BorrowFunc(cb func(error))
	// Change has a change of users and roles decided, and returns when it holds everywhere. It keeps e.
	Change(ctx context.Context, e *pb.MetaAuth) error
}

// rule is what a call asks of who makes it, while authentication is on.
type rule uint8

// The rules. A call that is not in the table is refused.
const (
	ruleNone   rule = iota
	anybody         // or what is asked of the store on behalf of the caller is judged
	identified      // somebody, whoever
	rootOnly        // the role root
	byRequest       // what the request says decides
)

// rules has every method that the port for clients serves: a node does not open one that is missing.
var rules = map[string]rule{
	etcdserverpb.KV_Range_FullMethodName:       byRequest,
	etcdserverpb.KV_RangeStream_FullMethodName: byRequest,
	etcdserverpb.KV_Put_FullMethodName:         byRequest,
	etcdserverpb.KV_DeleteRange_FullMethodName: byRequest,
	etcdserverpb.KV_Txn_FullMethodName:         byRequest,
	etcdserverpb.KV_Compact_FullMethodName:     rootOnly,

	etcdserverpb.Watch_Watch_FullMethodName: byRequest,

	etcdserverpb.Lease_LeaseGrant_FullMethodName:      identified,
	etcdserverpb.Lease_LeaseRevoke_FullMethodName:     byRequest,
	etcdserverpb.Lease_LeaseKeepAlive_FullMethodName:  byRequest,
	etcdserverpb.Lease_LeaseTimeToLive_FullMethodName: byRequest,
	etcdserverpb.Lease_LeaseLeases_FullMethodName:     byRequest,

	etcdserverpb.Cluster_MemberList_FullMethodName:    identified,
	etcdserverpb.Cluster_MemberAdd_FullMethodName:     rootOnly,
	etcdserverpb.Cluster_MemberRemove_FullMethodName:  rootOnly,
	etcdserverpb.Cluster_MemberUpdate_FullMethodName:  rootOnly,
	etcdserverpb.Cluster_MemberPromote_FullMethodName: rootOnly,

	etcdserverpb.Maintenance_Alarm_FullMethodName:      byRequest,
	etcdserverpb.Maintenance_Status_FullMethodName:     identified,
	etcdserverpb.Maintenance_Defragment_FullMethodName: rootOnly,
	etcdserverpb.Maintenance_Hash_FullMethodName:       rootOnly,
	etcdserverpb.Maintenance_HashKV_FullMethodName:     rootOnly,
	etcdserverpb.Maintenance_Snapshot_FullMethodName:   rootOnly,
	etcdserverpb.Maintenance_MoveLeader_FullMethodName: rootOnly,
	etcdserverpb.Maintenance_Downgrade_FullMethodName:  rootOnly,

	etcdserverpb.Auth_Authenticate_FullMethodName:         anybody,
	etcdserverpb.Auth_AuthStatus_FullMethodName:           anybody,
	etcdserverpb.Auth_AuthEnable_FullMethodName:           rootOnly,
	etcdserverpb.Auth_AuthDisable_FullMethodName:          rootOnly,
	etcdserverpb.Auth_UserAdd_FullMethodName:              rootOnly,
	etcdserverpb.Auth_UserGet_FullMethodName:              byRequest,
	etcdserverpb.Auth_UserList_FullMethodName:             rootOnly,
	etcdserverpb.Auth_UserDelete_FullMethodName:           rootOnly,
	etcdserverpb.Auth_UserChangePassword_FullMethodName:   rootOnly,
	etcdserverpb.Auth_UserGrantRole_FullMethodName:        rootOnly,
	etcdserverpb.Auth_UserRevokeRole_FullMethodName:       rootOnly,
	etcdserverpb.Auth_RoleAdd_FullMethodName:              rootOnly,
	etcdserverpb.Auth_RoleGet_FullMethodName:              byRequest,
	etcdserverpb.Auth_RoleList_FullMethodName:             rootOnly,
	etcdserverpb.Auth_RoleDelete_FullMethodName:           rootOnly,
	etcdserverpb.Auth_RoleGrantPermission_FullMethodName:  rootOnly,
	etcdserverpb.Auth_RoleRevokePermission_FullMethodName: rootOnly,

	// What these ask of the store they ask as their caller.
	v3lockpb.Lock_Lock_FullMethodName:             anybody,
	v3lockpb.Lock_Unlock_FullMethodName:           anybody,
	v3electionpb.Election_Campaign_FullMethodName: anybody,
	v3electionpb.Election_Proclaim_FullMethodName: anybody,
	v3electionpb.Election_Leader_FullMethodName:   anybody,
	v3electionpb.Election_Observe_FullMethodName:  anybody,
	v3electionpb.Election_Resign_FullMethodName:   anybody,

	// Whether the node serves, and what its services are called: nothing of what is stored.
	healthpb.Health_Check_FullMethodName:                                 anybody,
	healthpb.Health_List_FullMethodName:                                  anybody,
	healthpb.Health_Watch_FullMethodName:                                 anybody,
	reflection.ServerReflection_ServerReflectionInfo_FullMethodName:      anybody,
	reflectionalpha.ServerReflection_ServerReflectionInfo_FullMethodName: anybody,

	// Each of its calls is judged where it comes in.
	pb.Routing_Discover_FullMethodName: identified,
	pb.Routing_Calls_FullMethodName:    byRequest,
}

// Judges reports whether the table says what a method asks of who calls it.
func Judges(method string) bool { return rules[method] != ruleNone }

// Identity says who makes a request; *token.Tokens does. The error is one of package shard.
type Identity interface {
	Who(ctx context.Context, v *auth.View) (shard.Who, error)
}

// Guard holds requests against users, roles and alarms. Any number of goroutines may use it. The zero Guard lets everything pass: of requests of this
// process.
type Guard struct {
	access   Access
	identity Identity
	settings func() *placement.Settings
	current  func(ctx context.Context) (int64, error)
}

// NewGuard returns the guard of a node. settings are the newest that it knows, nil: there are none; current asks the oracle. access nil: nobody has to be
// anybody.
func NewGuard(access Access, identity Identity, settings func() *placement.Settings, current func(ctx context.Context) (int64, error)) Guard {
	return Guard{access, identity, settings, current}
}

// on is the newest view, nil where nothing is asked for.
func (g *Guard) on() *auth.View {
	if g.access == nil {
		return nil
	}
	if v := g.access.View(); v.Enabled() {
		return v
	}
	return nil
}

// lent reports whether what takes no revision may be judged by the newest view.
func (g *Guard) lent() bool { return g.access == nil || g.access.Lent() }

// settled is a view that every change is in which anybody has been told of; nil where nothing is asked for.
func (g *Guard) settled(ctx context.Context) (*auth.View, error) {
	if g.access == nil {
		return nil, nil
	}
	if !g.access.Lent() {
		if err := g.access.Borrow(ctx); err != nil {
			return nil, err
		}
	}
	return g.on(), nil
}

// check judges who makes a request by the newest view: rightly, if what follows goes by the oracle, which knows of newer ones. Where it
// refuses, and there may be a newer view, it judges again by that. It returns the view, nil where nothing is asked for.
func (g *Guard) check(ctx context.Context, judge func(v *auth.View, w shard.Who) error) (*auth.View, shard.Who, error) {
	if g.on() == nil {
		return nil, shard.Who{}, nil
	}
	lent := g.access.Lent()
	v := g.access.View()
	w, err := g.by(ctx, v, judge)
	if err == nil || lent {
		return v, w, err
	}
	if v, err = g.settled(ctx); err != nil || v == nil {
		return v, shard.Who{}, err
	}
	w, err = g.by(ctx, v, judge)
	return v, w, err
}

// checkSettled judges who makes a request by a view that every acknowledged change is in.
func (g *Guard) checkSettled(ctx context.Context, judge func(v *auth.View, w shard.Who) error) (*auth.View, shard.Who, error) {
	v, err := g.settled(ctx)
	if err != nil || v == nil {
		return v, shard.Who{}, err
	}
	w, err := g.by(ctx, v, judge)
	return v, w, err
}

func (g *Guard) by(ctx context.Context, v *auth.View, judge func(v *auth.View, w shard.Who) error) (shard.Who, error) {
	w, err := g.identity.Who(ctx, v)
	if err != nil {
		return w, err
	}
	return w, judge(v, w)
}

// call judges a call by its name.
func (g *Guard) call(ctx context.Context, method string) error {
	if g.access == nil {
		return nil
	}
	var err error
	switch rules[method] {
	case anybody, byRequest:
	case identified:
		_, _, err = g.checkSettled(ctx, (*auth.View).Identified)
	case rootOnly:
		_, _, err = g.checkSettled(ctx, (*auth.View).Admin)
	default:
		if g.on() != nil {
			err = shard.ErrPermissionDenied
		}
	}
	return toRPC(err)
}

// Reading is a read that has been judged, and is judged again where users and roles have changed since.
type Reading struct {
	g    *Guard
	seen *auth.View
	key  []byte
	end  []byte
}

// Read judges a read. One that is serializable asks nobody later, so that it must be right now.
func (g *Guard) Read(ctx context.Context, key, end []byte, serializable bool) (Reading, error) {
	if g.access == nil {
		return Reading{}, nil
	}
	r := Reading{g: g, key: key, end: end}
	if (!serializable || g.access.Lent()) && g.on() == nil { // nearly all clusters: it costs nothing more
		return r, nil
	}
	check := g.check
	if serializable {
		check = g.checkSettled
	}
	var err error
	r.seen, _, err = check(ctx, r.judge)
	return r, err
}

func (r *Reading) judge(v *auth.View, w shard.Who) error { return v.MayRead(w, r.key, r.end) }

// Again judges it by the newest view, when the oracle's answer has come and before the client's is given.
func (r *Reading) Again(ctx context.Context) error {
	if r.g == nil {
		return nil
	}
	v := r.g.on()
	if v == nil || v == r.seen || mutate.On(mutate.AuthReadOnce) {
		return nil
	}
	r.seen = v
	_, err := r.g.by(ctx, v, r.judge)
	return err
}

// againSettled is the same for a part of an answer that takes long.
func (r *Reading) againSettled(ctx context.Context) error {
	if r.g == nil {
		return nil
	}
	if _, err := r.g.settled(ctx); err != nil {
		return err
	}
	return r.Again(ctx)
}

// LeaseKeys lists the keys of a lease; none of one that does not exist.
type LeaseKeys func(ctx context.Context, id int64) ([][]byte, error)

// write judges an operation, with the keys of the leases that it names. It returns for whom.
func (g *Guard) write(ctx context.Context, op *pb.Op, keys LeaseKeys) (shard.Who, error) {
	if g.access == nil || g.on() == nil {
		return shard.Who{}, nil
	}
	leases := auth.Leases(op)
	check := g.check
	if len(leases) > 0 { // nobody judges the keys of leases later
		check = g.checkSettled
	}
	v, w, err := check(ctx, func(v *auth.View, w shard.Who) error { return v.May(w, op) })
	if err != nil || v == nil || v.IsRoot(w) {
		return w, err
	}
	for _, id := range leases {
		if err := mayLease(ctx, v, w, id, keys); err != nil {
			return w, err
		}
	}
	return w, nil
}

// mayLease refuses who may not write every key that a lease has.
func mayLease(ctx context.Context, v *auth.View, w shard.Who, id int64, keys LeaseKeys) error {
	if v.IsRoot(w) {
		return nil
	}
	of, err := keys(ctx, id)
	if err != nil {
		return err
	}
	return v.MayLease(w, of)
}

// lease judges what is done with a whole lease.
func (g *Guard) lease(ctx context.Context, id int64, keys LeaseKeys) error {
	v, w, err := g.checkSettled(ctx, (*auth.View).Identified)
	if err != nil || v == nil {
		return err
	}
	return mayLease(ctx, v, w, id, keys)
}

// seesLeases refuses who may not read every key of some leases.
func (g *Guard) seesLeases(ctx context.Context, ids []int64, keys LeaseKeys) error {
	v, w, err := g.checkSettled(ctx, (*auth.View).Identified)
	if err != nil || v == nil || v.IsRoot(w) {
		return err
	}
	for _, id := range ids {
		of, err := keys(ctx, id)
		if err != nil {
			return err
		}
		if err := v.MaySeeLease(w, of); err != nil {
			return err
		}
	}
	return nil
}

// keysOf lists the keys of a lease.
func (a *API) keysOf(ctx context.Context, id int64) ([][]byte, error) {
	l, err := a.cfg.Leases.TimeToLive(ctx, id, true)
	if errors.Is(err, shard.ErrLeaseNotFound) {
		return nil, nil
	}
	return slices.Clip(l.Keys), err
}
