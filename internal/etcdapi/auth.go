package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// authServer is etcd's Auth service. There are no users yet, so it says that authentication
// is off, and answers everything else with Unimplemented.
type authServer struct {
	etcdserverpb.UnimplementedAuthServer
	api *API
}

// AuthStatus says that authentication is off.
func (s *authServer) AuthStatus(context.Context, *etcdserverpb.AuthStatusRequest) (*etcdserverpb.AuthStatusResponse, error) {
	return &etcdserverpb.AuthStatusResponse{Header: s.api.header(0), Enabled: false, AuthRevision: 1}, nil
}
