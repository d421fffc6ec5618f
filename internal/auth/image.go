package auth

import (
	"fmt"
	"slices"
	"sync/atomic"

	"pontoon/internal/mutate"
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
	out := s.head()
	for _, name := range s.Users() {
		out.Users = append(out.Users, s.User(name).toPB())
	}
	for _, name := range s.Roles() {
		out.Roles = append(out.Roles, s.Role(name).toPB())
	}
	return out
}

// head is the image without users and roles.
func (s *State) head() *pb.AuthState {
	return &pb.AuthState{Enabled: s.enabled, Revision: s.revision, Serial: s.serial, TokensFrom: s.tokensFrom, TokenKey: s.tokenKey}
}

func (u *User) toPB() *pb.AuthUser {
	return &pb.AuthUser{Name: u.Name, Hash: u.Hash, Roles: u.Roles, NoPassword: u.NoPassword, Credential: u.Credential}
}

func (r *Role) toPB() *pb.AuthRole {
	out := &pb.AuthRole{Name: r.Name}
	for _, p := range r.Permissions {
		out.Permissions = append(out.Permissions, p.ToPB())
	}
	return out
}

// Restore reads what Image wrote; nil is the first state. It keeps the bytes, and refuses what no state can be.
func Restore(m *pb.AuthState) (*State, error) {
	s := New()
	if m == nil {
		return s, nil
	}
	if err := s.take(m, nil, nil); err != nil {
		return nil, err
	}
	return s, nil
}

// Difference renders what a state before had otherwise, of which changes have touched these names since. It is for members alone, as the image is.
func (s *State) Difference(touched Touched) *pb.AuthDifference {
	d := &pb.AuthDifference{Now: s.head(), Sum: s.Sum()}
	for _, name := range ascending(touched.Users) {
		if u := s.User(name); u != nil {
			d.Now.Users = append(d.Now.Users, u.toPB())
		} else {
			d.UsersGone = append(d.UsersGone, name)
		}
	}
	for _, name := range ascending(touched.Roles) {
		if r := s.Role(name); r != nil {
			d.Now.Roles = append(d.Now.Roles, r.toPB())
		} else {
			d.RolesGone = append(d.RolesGone, name)
		}
	}
	return d
}

// ascending is names in order, each once.
func ascending(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// Update returns the state that s has become by a difference to it, or to one before it that the difference covers as well. It keeps the bytes, shares what has
// stayed, and refuses what does not lead to the state that the difference is of: s is another one then than whoever has made it took it for.
func (s *State) Update(d *pb.AuthDifference) (*State, error) {
	next := *s
	next.touched = Touched{}
	if err := next.take(d.GetNow(), d.GetUsersGone(), d.GetRolesGone()); err != nil {
		return nil, err
	}
	if next.Sum() != d.GetSum() && !mutate.On(mutate.AuthUnsummed) {
		return nil, fmt.Errorf("%w: a difference to another state of users and roles", shard.ErrCorrupt)
	}
	return &next, nil
}

// take takes in users and roles, the end of some, and all else.
func (s *State) take(m *pb.AuthState, usersGone, rolesGone []string) error {
	users, err := usersOf(m.GetUsers(), usersGone)
	if err != nil {
		return err
	}
	roles, err := rolesOf(m.GetRoles(), rolesGone)
	if err != nil {
		return err
	}
	s.enabled, s.revision, s.serial = m.GetEnabled(), max(m.GetRevision(), firstRevision), m.GetSerial()
	s.tokensFrom, s.tokenKey = m.GetTokensFrom(), m.GetTokenKey()
	s.setRoles(roles)
	s.setUsers(users)
	s.touched = Touched{}
	if root := s.User(Root); s.enabled && (root == nil || !root.has(Root)) {
		return fmt.Errorf("%w: authentication is on, and nobody may turn it off", shard.ErrCorrupt)
	}
	return nil
}

// usersOf reads users; those that are gone are nil.
func usersOf(list []*pb.AuthUser, gone []string) (map[string]*User, error) {
	users := make(map[string]*User, len(list)+len(gone))
	for _, name := range gone {
		users[name] = nil
	}
	for _, u := range list {
		if _, twice := users[u.Name]; twice || u.Name == "" || !slices.IsSorted(u.Roles) {
			return nil, fmt.Errorf("%w: user %q stands twice, has no name, or roles out of order", shard.ErrCorrupt, u.Name)
		}
		users[u.Name] = &User{Name: u.Name, Hash: u.Hash, NoPassword: u.NoPassword, Roles: u.Roles, Credential: u.Credential, allows: new(atomic.Pointer[allowance])}
	}
	return users, nil
}

// rolesOf does that with roles.
func rolesOf(list []*pb.AuthRole, gone []string) (map[string]*Role, error) {
	roles := make(map[string]*Role, len(list)+len(gone))
	for _, name := range gone {
		roles[name] = nil
	}
	for _, r := range list {
		if _, twice := roles[r.Name]; twice || r.Name == "" {
			return nil, fmt.Errorf("%w: role %q stands twice or has no name", shard.ErrCorrupt, r.Name)
		}
		role := &Role{Name: r.Name}
		for _, p := range r.Permissions {
			role.Permissions = append(role.Permissions, toPermission(p))
		}
		if !slices.IsSortedFunc(role.Permissions, byKey) {
			return nil, fmt.Errorf("%w: the permissions of role %q are not in order", shard.ErrCorrupt, r.Name)
		}
		roles[r.Name] = role
	}
	return roles, nil
}
