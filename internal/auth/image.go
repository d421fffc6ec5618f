package auth

import (
	"fmt"
	"slices"
	"sync/atomic"

	"pontoon/internal/pb"
	"pontoon/shard"
)

func toPermission(p *pb.AuthPermission) Permission {
	return Permission{Type: Type(p.GetType()), Key: p.GetKey(), End: p.GetRangeEnd()}
}

// ToPB renders a permission. The bytes are shared.
func (p Permission) ToPB() *pb.AuthPermission {
	return &pb.AuthPermission{Type: uint32(p.Type), Key: p.Key, RangeEnd: p.End}
}

// Image renders the state: the same bytes wherever it is the same. It has the hashes of passwords and the token key, and is for members alone.
func (s *State) Image() *pb.AuthState {
	out := &pb.AuthState{Enabled: s.enabled, Revision: s.revision, Serial: s.serial, TokensFrom: s.tokensFrom, TokenKey: s.tokenKey}
	for _, name := range s.Users() {
		u := s.users[name]
		out.Users = append(out.Users, &pb.AuthUser{Name: u.Name, Hash: u.Hash, Roles: u.Roles, NoPassword: u.NoPassword, Credential: u.Credential})
	}
	for _, name := range s.Roles() {
		r := &pb.AuthRole{Name: name}
		for _, p := range s.roles[name].Permissions {
			r.Permissions = append(r.Permissions, p.ToPB())
		}
		out.Roles = append(out.Roles, r)
	}
	return out
}

// Restore reads what Image wrote; nil is the first state. It keeps the bytes, and refuses what no state can be.
func Restore(m *pb.AuthState) (*State, error) {
	s := New()
	if m == nil {
		return s, nil
	}
	s.enabled, s.revision, s.serial = m.Enabled, max(m.Revision, firstRevision), m.Serial
	s.tokensFrom, s.tokenKey = m.TokensFrom, m.TokenKey
	for _, r := range m.Roles {
		if r.Name == "" || s.roles[r.Name] != nil {
			return nil, fmt.Errorf("%w: role %q stands twice or has no name", shard.ErrCorrupt, r.Name)
		}
		role := &Role{Name: r.Name}
		for _, p := range r.Permissions {
			role.Permissions = append(role.Permissions, toPermission(p))
		}
		if !slices.IsSortedFunc(role.Permissions, byKey) {
			return nil, fmt.Errorf("%w: the permissions of role %q are not in order", shard.ErrCorrupt, r.Name)
		}
		s.roles[r.Name] = role
	}
	for _, u := range m.Users {
		if u.Name == "" || s.users[u.Name] != nil || !slices.IsSorted(u.Roles) {
			return nil, fmt.Errorf("%w: user %q stands twice, has no name, or roles out of order", shard.ErrCorrupt, u.Name)
		}
		s.users[u.Name] = &User{Name: u.Name, Hash: u.Hash, NoPassword: u.NoPassword, Roles: u.Roles, Credential: u.Credential, allows: new(atomic.Pointer[allowance])}
	}
	if root := s.users[Root]; s.enabled && (root == nil || !root.has(Root)) {
		return nil, fmt.Errorf("%w: authentication is on, and nobody may turn it off", shard.ErrCorrupt)
	}
	return s, nil
}
