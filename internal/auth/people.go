package auth

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// people are users and roles, and never change: a state gets others.
type people struct {
	users   names[User]
	roles   names[Role]
	sum     uint64 // of all of them, whatever order they came in
	touched Touched
}

// Touched names the users and the roles that a change has made, changed or removed, in no order.
type Touched struct{ Users, Roles []string }

// Touched is what the change that has led to the state has touched; after Restore it is nothing. It is shared and never written.
func (p *people) Touched() Touched { return p.touched }

// User returns one, nil if there is none of that name. It is shared and never written.
func (p *people) User(name string) *User { return p.users.get(name) }

// Role returns one, nil if there is none of that name. It is shared and never written.
func (p *people) Role(name string) *Role { return p.roles.get(name) }

// Users lists the names, ascending.
func (p *people) Users() []string { return slices.Sorted(p.users.keys) }

// Roles lists the names, ascending.
func (p *people) Roles() []string { return slices.Sorted(p.roles.keys) }

// Len is how many users and roles there are.
func (p *people) Len() int { return p.users.n + p.roles.n }

// setUser puts a user in the place of the one of that name.
func (p *people) setUser(u *User) { p.setUsers(map[string]*User{u.Name: u}) }

// setUsers puts users in the place of those of their names; nil removes one.
func (p *people) setUsers(changes map[string]*User) {
	p.users = replaced(p.users, changes, &p.sum, &p.touched.Users)
}

// setRole puts a role in the place of the one of that name.
func (p *people) setRole(r *Role) { p.setRoles(map[string]*Role{r.Name: r}) }

// setRoles puts roles in the place of those of their names; nil removes one.
func (p *people) setRoles(changes map[string]*Role) {
	p.roles = replaced(p.roles, changes, &p.sum, &p.touched.Roles)
}

// summed is a user or a role, which knows the hash of what it is.
type summed[T any] interface {
	*T
	appendSummed(b []byte) []byte
	hash() *uint64
}

// replaced returns names after changes, and follows them in the sum of all and in what was touched.
func replaced[T any, P summed[T]](in names[T], changes map[string]*T, sum *uint64, touched *[]string) names[T] {
	var buf []byte
	for name, v := range changes {
		if old := in.get(name); old != nil {
			*sum -= *P(old).hash()
		}
		if v != nil {
			buf = P(v).appendSummed(buf[:0])
			*P(v).hash() = xxhash.Sum64(buf)
			*sum += *P(v).hash()
		}
	}
	*touched = slices.AppendSeq(slices.Clip(*touched), maps.Keys(changes))
	return in.with(changes)
}

func (u *User) hash() *uint64 { return &u.sum }
func (r *Role) hash() *uint64 { return &r.sum }

// Sum is a hash of the state: the same wherever it is the same. It costs nothing per user, and tells states apart that a mistake has led to.
func (s *State) Sum() uint64 {
	b := []byte{'s', boolByte(s.enabled)}
	for _, n := range []uint64{s.revision, s.serial, s.tokensFrom} {
		b = binary.AppendUvarint(b, n)
	}
	return s.sum + xxhash.Sum64(append(b, s.tokenKey...))
}

// appendSummed appends what a user's hash covers.
func (u *User) appendSummed(b []byte) []byte {
	b = appendSized(append(b, 'u', boolByte(u.NoPassword)), u.Name)
	b = appendSized(b, u.Hash)
	b = binary.AppendUvarint(b, u.Credential)
	for _, r := range u.Roles {
		b = appendSized(b, r)
	}
	return b
}

// appendSummed appends what a role's hash covers.
func (r *Role) appendSummed(b []byte) []byte {
	b = appendSized(append(b, 'r'), r.Name)
	for _, p := range r.Permissions {
		b = binary.AppendUvarint(b, uint64(p.Type))
		b = appendSized(appendSized(b, p.Key), p.End)
	}
	return b
}

func appendSized[S string | []byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
