package restore

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/auth"
	"pontoon/internal/etcdfile"
	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/shard"
)

// usersOf is who may do what in the new cluster; nil: there never was anybody. Tokens of the old one are of no use: they are made with a key that no
// snapshot has.
func usersOf(a *etcdfile.Auth) (*pb.AuthState, error) {
	if !a.Enabled && len(a.Users) == 0 && len(a.Roles) == 0 && a.Revision <= 1 {
		return nil, nil
	}
	out := &pb.AuthState{Enabled: a.Enabled, Revision: a.Revision, Serial: uint64(len(a.Users)) + 1}
	for _, n := range a.Users {
		m := &authpb.User{}
		if err := proto.Unmarshal(n.Data, m); err != nil || string(m.Name) != n.Name {
			return nil, fmt.Errorf("%w: user %q: %w", shard.ErrCorrupt, n.Name, err)
		}
		slices.Sort(m.Roles)
		out.Users = append(out.Users, &pb.AuthUser{Name: n.Name, Hash: m.Password, Roles: m.Roles, NoPassword: m.GetOptions().GetNoPassword(), Credential: out.Serial})
	}
	for _, n := range a.Roles {
		m := &authpb.Role{}
		if err := proto.Unmarshal(n.Data, m); err != nil || string(m.Name) != n.Name {
			return nil, fmt.Errorf("%w: role %q: %w", shard.ErrCorrupt, n.Name, err)
		}
		r := &pb.AuthRole{Name: n.Name}
		slices.SortFunc(m.KeyPermission, func(a, b *authpb.Permission) int { return bytes.Compare(a.Key, b.Key) })
		for _, p := range m.KeyPermission {
			r.Permissions = append(r.Permissions, &pb.AuthPermission{Type: uint32(p.PermType), Key: p.Key, RangeEnd: p.RangeEnd})
		}
		out.Roles = append(out.Roles, r)
	}
	if _, err := auth.Restore(out); err != nil {
		return nil, err
	}
	return out, nil
}

// tokens gives the cluster a key for its tokens. It is in no digest: the first leader's counts.
func tokens(a *pb.AuthState) {
	if a != nil && a.Enabled {
		a.TokenKey = token.NewKey()
	}
}
