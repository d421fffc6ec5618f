package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/shard"
)

// authServer is etcd's Auth service. Passwords are hashed here: neither they nor requests that hold them go any further, or into a log.
type authServer struct {
	etcdserverpb.UnsafeAuthServer // a method that is missing shall not compile
	api                           *API
}

// fresh is a view that every change is in which was acknowledged before the call.
func (s *authServer) fresh(ctx context.Context) (*auth.View, error) {
	if s.api.guard.access == nil {
		return nil, shard.ErrUnavailable
	}
	if _, err := s.api.cfg.KV.Current(ctx); err != nil { // it comes after every newer view
		return nil, err
	}
	return s.api.guard.access.View(), nil
}

// change has a change decided for who asks.
func (s *authServer) change(ctx context.Context, kind auth.Kind, e *pb.MetaAuth) (*etcdserverpb.ResponseHeader, error) {
	if s.api.guard.access == nil {
		return nil, toRPC(shard.ErrUnavailable)
	}
	_, w, err := s.api.guard.checkSettled(ctx, (*auth.View).Admin)
	if err != nil {
		return nil, toRPC(err)
	}
	e.Change, e.Actor = uint32(kind), w.Name
	if err := s.api.guard.access.Change(ctx, e); err != nil {
		return nil, toRPC(err)
	}
	return s.api.header(0), nil
}

// AuthStatus says whether authentication is on.
func (s *authServer) AuthStatus(ctx context.Context, _ *etcdserverpb.AuthStatusRequest) (*etcdserverpb.AuthStatusResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.AuthStatusResponse{Header: s.api.header(0), Enabled: v.Enabled(), AuthRevision: v.Revision()}, nil
}

// AuthEnable turns authentication on.
func (s *authServer) AuthEnable(ctx context.Context, _ *etcdserverpb.AuthEnableRequest) (*etcdserverpb.AuthEnableResponse, error) {
	h, err := s.change(ctx, auth.Enable, &pb.MetaAuth{TokenKey: token.NewKey()})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthEnableResponse{Header: h}, nil
}

// AuthDisable turns it off.
func (s *authServer) AuthDisable(ctx context.Context, _ *etcdserverpb.AuthDisableRequest) (*etcdserverpb.AuthDisableResponse, error) {
	h, err := s.change(ctx, auth.Disable, &pb.MetaAuth{})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthDisableResponse{Header: h}, nil
}

// Authenticate makes a token for who knows a password.
func (s *authServer) Authenticate(ctx context.Context, r *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	password := r.Password
	r.Password = ""
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	text, err := s.login(ctx, v, r.Name, password)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.AuthenticateResponse{Header: s.api.header(0), Token: text}, nil
}

// login makes a token by one view: where the password is changed meanwhile, it is one that is not valid any more.
func (s *authServer) login(ctx context.Context, v *auth.View, name, password string) (string, error) {
	u := v.User(name)
	switch {
	case !v.Enabled():
		return "", shard.ErrAuthNotEnabled
	case u == nil:
		return "", shard.ErrAuthFailed
	case u.NoPassword:
		return "", shard.ErrNoPasswordUser
	}
	if err := s.api.cfg.Passwords.Check(ctx, u.Hash, password); err != nil {
		return "", err
	}
	return s.api.cfg.Tokens.Issue(v, name)
}

// UserAdd adds a user.
func (s *authServer) UserAdd(ctx context.Context, r *etcdserverpb.AuthUserAddRequest) (*etcdserverpb.AuthUserAddResponse, error) {
	e := &pb.MetaAuth{User: r.Name, NoPassword: r.GetOptions().GetNoPassword()}
	password := r.Password
	r.Password = ""
	if !e.NoPassword {
		var err error
		if e.Hash, err = s.hash(ctx, password); err != nil {
			return nil, toRPC(err)
		}
	}
	h, err := s.change(ctx, auth.UserAdd, e)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthUserAddResponse{Header: h}, nil
}

func (s *authServer) hash(ctx context.Context, password string) ([]byte, error) {
	if s.api.cfg.Passwords == nil {
		return nil, shard.ErrUnavailable
	}
	return s.api.cfg.Passwords.Hash(ctx, password)
}

// UserGet lists the roles of a user.
func (s *authServer) UserGet(ctx context.Context, r *etcdserverpb.AuthUserGetRequest) (*etcdserverpb.AuthUserGetResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	if _, err := s.api.guard.by(ctx, v, func(v *auth.View, w shard.Who) error { return v.SeesUser(w, r.Name) }); err != nil {
		return nil, toRPC(err)
	}
	u := v.User(r.Name)
	if u == nil {
		return nil, toRPC(shard.ErrUserNotFound)
	}
	return &etcdserverpb.AuthUserGetResponse{Header: s.api.header(0), Roles: u.Roles}, nil
}

// UserList lists the users.
func (s *authServer) UserList(ctx context.Context, _ *etcdserverpb.AuthUserListRequest) (*etcdserverpb.AuthUserListResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.AuthUserListResponse{Header: s.api.header(0), Users: v.Users()}, nil
}

// UserDelete deletes a user, and ends its logins.
func (s *authServer) UserDelete(ctx context.Context, r *etcdserverpb.AuthUserDeleteRequest) (*etcdserverpb.AuthUserDeleteResponse, error) {
	h, err := s.change(ctx, auth.UserDelete, &pb.MetaAuth{User: r.Name})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthUserDeleteResponse{Header: h}, nil
}

// UserChangePassword changes a password, and ends the logins with the one before. With an empty one nobody logs in, as in etcd.
func (s *authServer) UserChangePassword(ctx context.Context, r *etcdserverpb.AuthUserChangePasswordRequest) (*etcdserverpb.AuthUserChangePasswordResponse, error) {
	e := &pb.MetaAuth{User: r.Name}
	password := r.Password
	r.Password = ""
	if password != "" {
		var err error
		if e.Hash, err = s.hash(ctx, password); err != nil {
			return nil, toRPC(err)
		}
	}
	h, err := s.change(ctx, auth.UserChangePassword, e)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthUserChangePasswordResponse{Header: h}, nil
}

// UserGrantRole gives a user a role.
func (s *authServer) UserGrantRole(ctx context.Context, r *etcdserverpb.AuthUserGrantRoleRequest) (*etcdserverpb.AuthUserGrantRoleResponse, error) {
	h, err := s.change(ctx, auth.UserGrantRole, &pb.MetaAuth{User: r.User, Role: r.Role})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthUserGrantRoleResponse{Header: h}, nil
}

// UserRevokeRole takes a role from a user.
func (s *authServer) UserRevokeRole(ctx context.Context, r *etcdserverpb.AuthUserRevokeRoleRequest) (*etcdserverpb.AuthUserRevokeRoleResponse, error) {
	h, err := s.change(ctx, auth.UserRevokeRole, &pb.MetaAuth{User: r.Name, Role: r.Role})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthUserRevokeRoleResponse{Header: h}, nil
}

// RoleAdd adds a role.
func (s *authServer) RoleAdd(ctx context.Context, r *etcdserverpb.AuthRoleAddRequest) (*etcdserverpb.AuthRoleAddResponse, error) {
	h, err := s.change(ctx, auth.RoleAdd, &pb.MetaAuth{Role: r.Name})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthRoleAddResponse{Header: h}, nil
}

// RoleGet lists what a role allows. That of root is shown to allow everything.
func (s *authServer) RoleGet(ctx context.Context, r *etcdserverpb.AuthRoleGetRequest) (*etcdserverpb.AuthRoleGetResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	if _, err := s.api.guard.by(ctx, v, func(v *auth.View, w shard.Who) error { return v.SeesRole(w, r.Role) }); err != nil {
		return nil, toRPC(err)
	}
	role := v.Role(r.Role)
	if role == nil {
		return nil, toRPC(shard.ErrRoleNotFound)
	}
	resp := &etcdserverpb.AuthRoleGetResponse{Header: s.api.header(0)}
	if r.Role == auth.Root {
		resp.Perm = []*authpb.Permission{{PermType: authpb.Permission_READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}
		return resp, nil
	}
	for _, p := range role.Permissions {
		resp.Perm = append(resp.Perm, &authpb.Permission{PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.End})
	}
	return resp, nil
}

// RoleList lists the roles.
func (s *authServer) RoleList(ctx context.Context, _ *etcdserverpb.AuthRoleListRequest) (*etcdserverpb.AuthRoleListResponse, error) {
	v, err := s.fresh(ctx)
	if err != nil {
		return nil, toRPC(err)
	}
	return &etcdserverpb.AuthRoleListResponse{Header: s.api.header(0), Roles: v.Roles()}, nil
}

// RoleDelete deletes a role, and takes it from all who have it.
func (s *authServer) RoleDelete(ctx context.Context, r *etcdserverpb.AuthRoleDeleteRequest) (*etcdserverpb.AuthRoleDeleteResponse, error) {
	h, err := s.change(ctx, auth.RoleDelete, &pb.MetaAuth{Role: r.Role})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthRoleDeleteResponse{Header: h}, nil
}

// RoleGrantPermission lets a role do something with some keys.
func (s *authServer) RoleGrantPermission(ctx context.Context, r *etcdserverpb.AuthRoleGrantPermissionRequest) (*etcdserverpb.AuthRoleGrantPermissionResponse, error) {
	e := &pb.MetaAuth{Role: r.Name}
	if p := r.Perm; p != nil {
		e.Permission = auth.Permission{Type: auth.Type(p.PermType), Key: p.Key, End: p.RangeEnd}.ToPB()
	}
	h, err := s.change(ctx, auth.RoleGrantPermission, e)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthRoleGrantPermissionResponse{Header: h}, nil
}

// RoleRevokePermission takes from a role what it may do with some keys.
func (s *authServer) RoleRevokePermission(ctx context.Context, r *etcdserverpb.AuthRoleRevokePermissionRequest) (*etcdserverpb.AuthRoleRevokePermissionResponse, error) {
	h, err := s.change(ctx, auth.RoleRevokePermission, &pb.MetaAuth{Role: r.Role, Permission: auth.Permission{Key: r.Key, End: r.RangeEnd}.ToPB()})
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.AuthRoleRevokePermissionResponse{Header: h}, nil
}
