package bench

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// roles is a server's one role, which forgets a change if told so.
type roles struct {
	etcdserverpb.UnimplementedAuthServer
	granted atomic.Bool
	users   atomic.Int64
	forgets bool
}

func (r *roles) RoleAdd(context.Context, *etcdserverpb.AuthRoleAddRequest) (*etcdserverpb.AuthRoleAddResponse, error) {
	return &etcdserverpb.AuthRoleAddResponse{}, nil
}

func (r *roles) UserAdd(context.Context, *etcdserverpb.AuthUserAddRequest) (*etcdserverpb.AuthUserAddResponse, error) {
	r.users.Add(1)
	return &etcdserverpb.AuthUserAddResponse{}, nil
}

func (r *roles) UserGrantRole(context.Context, *etcdserverpb.AuthUserGrantRoleRequest) (*etcdserverpb.AuthUserGrantRoleResponse, error) {
	return &etcdserverpb.AuthUserGrantRoleResponse{}, nil
}

func (r *roles) RoleDelete(context.Context, *etcdserverpb.AuthRoleDeleteRequest) (*etcdserverpb.AuthRoleDeleteResponse, error) {
	return &etcdserverpb.AuthRoleDeleteResponse{}, nil
}

func (r *roles) RoleGrantPermission(context.Context, *etcdserverpb.AuthRoleGrantPermissionRequest) (*etcdserverpb.AuthRoleGrantPermissionResponse, error) {
	r.granted.Store(!r.forgets)
	return &etcdserverpb.AuthRoleGrantPermissionResponse{}, nil
}

func (r *roles) RoleRevokePermission(context.Context, *etcdserverpb.AuthRoleRevokePermissionRequest) (*etcdserverpb.AuthRoleRevokePermissionResponse, error) {
	r.granted.Store(false)
	return &etcdserverpb.AuthRoleRevokePermissionResponse{}, nil
}

func (r *roles) RoleGet(context.Context, *etcdserverpb.AuthRoleGetRequest) (*etcdserverpb.AuthRoleGetResponse, error) {
	resp := &etcdserverpb.AuthRoleGetResponse{}
	if r.granted.Load() {
		resp.Perm = append(resp.Perm, &authpb.Permission{Key: []byte(changedFrom), RangeEnd: []byte(changedTo)})
	}
	return resp, nil
}

func TestAuthChange(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		s := newServer()
		s.roles.forgets = forgets
		e := s.serve(t, small("auth-change", func(s *Spec) { s.Clients, s.Conns, s.Users = 2, 1, 3 }))
		w := authChangeWorkload().open(e)
		if err := w.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := s.roles.users.Load(); n != 3 {
			t.Errorf("%d users", n)
		}
		for i := range 7 { // the last change is a grant
			for worker, kind := range []int{0, 1} {
				if got, err := w.do(t.Context(), worker, int64(i)); got != kind || err != nil {
					t.Fatalf("worker %d: %d, %v", worker, got, err)
				}
			}
		}
		problems, err := w.verify(t.Context())
		if err != nil || (len(problems) > 0) != forgets || forgets && !strings.Contains(problems[0], "the role has") {
			t.Errorf("a server that forgets (%v): %q, %v", forgets, problems, err)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
}
