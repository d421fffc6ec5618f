package export

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/auth"
	"pontoon/internal/etcdfile"
)

// usersOf is who may do what, as etcd's file has it. Passwords are there as they are kept, by bcrypt; what tokens are made with is not.
func usersOf(s *auth.State) (out etcdfile.Auth, err error) {
	out = etcdfile.Auth{Enabled: s.Enabled(), Revision: s.Revision()}
	for _, name := range s.Users() {
		u := s.User(name)
		m := &authpb.User{Name: []byte(u.Name), Password: u.Hash, Roles: u.Roles, Options: &authpb.UserAddOptions{NoPassword: u.NoPassword}}
		b, err := proto.Marshal(m)
		if err != nil {
			return out, fmt.Errorf("export: user %q: %w", name, err)
		}
		out.Users = append(out.Users, etcdfile.Named{Name: name, Data: b})
	}
	for _, name := range s.Roles() {
		m := &authpb.Role{Name: []byte(name)}
		for _, p := range s.Role(name).Permissions {
			m.KeyPermission = append(m.KeyPermission, &authpb.Permission{PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.End})
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return out, fmt.Errorf("export: role %q: %w", name, err)
		}
		out.Roles = append(out.Roles, etcdfile.Named{Name: name, Data: b})
	}
	return out, nil
}
