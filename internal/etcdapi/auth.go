package etcdapi

import (
	"bytes"
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// authServer is etcd's Auth service over a store without users. Everything that can be said of such a
// store is answered as etcd answers it: authentication is off, there are no users and no roles.
// Only what would make the first one is not supported.
type authServer struct {
	etcdserverpb.UnsafeAuthServer // a method that is missing shall not compile
	api                           *API
}

// AuthStatus says that authentication is off.
func (s *authServer) AuthStatus(context.Context, *etcdserverpb.AuthStatusRequest) (*etcdserverpb.AuthStatusResponse, error) {
	return &etcdserverpb.AuthStatusResponse{Header: s.api.header(0), Enabled: false, AuthRevision: 1}, nil
}

// AuthEnable needs a user named root.
func (s *authServer) AuthEnable(context.Context, *etcdserverpb.AuthEnableRequest) (*etcdserverpb.AuthEnableResponse, error) {
	return nil, rpctypes.ErrGRPCRootUserNotExist
}

// AuthDisable changes nothing: authentication is off.
func (s *authServer) AuthDisable(context.Context, *etcdserverpb.AuthDisableRequest) (*etcdserverpb.AuthDisableResponse, error) {
	return &etcdserverpb.AuthDisableResponse{Header: s.api.header(0)}, nil
}

// Authenticate tells clients that were given a user to go on without a token.
func (s *authServer) Authenticate(context.Context, *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}

// UserAdd is not there yet.
func (s *authServer) UserAdd(_ context.Context, r *etcdserverpb.AuthUserAddRequest) (*etcdserverpb.AuthUserAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	return nil, errUnimplemented("adding a user")
}

// UserGet finds nobody.
func (s *authServer) UserGet(context.Context, *etcdserverpb.AuthUserGetRequest) (*etcdserverpb.AuthUserGetResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserList lists nobody.
func (s *authServer) UserList(context.Context, *etcdserverpb.AuthUserListRequest) (*etcdserverpb.AuthUserListResponse, error) {
	return &etcdserverpb.AuthUserListResponse{Header: s.api.header(0)}, nil
}

// UserDelete finds nobody.
func (s *authServer) UserDelete(context.Context, *etcdserverpb.AuthUserDeleteRequest) (*etcdserverpb.AuthUserDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserChangePassword finds nobody.
func (s *authServer) UserChangePassword(context.Context, *etcdserverpb.AuthUserChangePasswordRequest) (*etcdserverpb.AuthUserChangePasswordResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserGrantRole finds nobody.
func (s *authServer) UserGrantRole(context.Context, *etcdserverpb.AuthUserGrantRoleRequest) (*etcdserverpb.AuthUserGrantRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserRevokeRole finds nobody.
func (s *authServer) UserRevokeRole(context.Context, *etcdserverpb.AuthUserRevokeRoleRequest) (*etcdserverpb.AuthUserRevokeRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// RoleAdd is not there yet.
func (s *authServer) RoleAdd(_ context.Context, r *etcdserverpb.AuthRoleAddRequest) (*etcdserverpb.AuthRoleAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCRoleEmpty
	}
	return nil, errUnimplemented("adding a role")
}

// RoleGet finds none.
func (s *authServer) RoleGet(context.Context, *etcdserverpb.AuthRoleGetRequest) (*etcdserverpb.AuthRoleGetResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// RoleList lists none.
func (s *authServer) RoleList(context.Context, *etcdserverpb.AuthRoleListRequest) (*etcdserverpb.AuthRoleListResponse, error) {
	return &etcdserverpb.AuthRoleListResponse{Header: s.api.header(0)}, nil
}

// RoleDelete finds none.
func (s *authServer) RoleDelete(context.Context, *etcdserverpb.AuthRoleDeleteRequest) (*etcdserverpb.AuthRoleDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// RoleGrantPermission checks the permission, as etcd does, before it finds no role.
func (s *authServer) RoleGrantPermission(_ context.Context, r *etcdserverpb.AuthRoleGrantPermissionRequest) (*etcdserverpb.AuthRoleGrantPermissionResponse, error) {
	switch p := r.Perm; {
	case p == nil:
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	case !permissible(p.Key, p.RangeEnd):
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// permissible reports whether a permission names keys.
func permissible(key, end []byte) bool {
	toTheLast := len(end) == 1 && end[0] == 0
	return len(key) > 0 && (len(end) == 0 || toTheLast || bytes.Compare(key, end) < 0)
}

// RoleRevokePermission finds none.
func (s *authServer) RoleRevokePermission(context.Context, *etcdserverpb.AuthRoleRevokePermissionRequest) (*etcdserverpb.AuthRoleRevokePermissionResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
