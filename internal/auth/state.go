package auth

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Root is the name of the user, and of the role, that may do everything.
const Root = "root"

// Type is what a permission allows, as etcd numbers it.
type Type uint32

// The types.
const (
	Read Type = iota
	Write
	ReadWrite
)

// Permission allows something on keys. End is etcd's: empty for one key, "\0" for all from Key on. The bytes are never written.
type Permission struct {
	Type     Type
	Key, End []byte
}

// User is somebody who may log in.
type User struct {
	Name       string
	Hash       []byte // of the password, by bcrypt
	NoPassword bool   // nobody logs in with one
	Roles      []string
	// Credential is what a login states: another one is not valid any more. It rises with each password.
	Credential uint64
	// allows is what the roles allowed when it was last asked for. Those who were this user before share it.
	allows *atomic.Pointer[allowance]
	sum    uint64
}

// has reports whether the user has a role.
func (u *User) has(role string) bool {
	_, found := slices.BinarySearch(u.Roles, role)
	return found
}

// Role is a list of permissions, by key.
type Role struct {
	Name        string
	Permissions []Permission
	sum         uint64
}

// State is what the meta group's log says of users and roles. It never changes. Use New or Restore.
type State struct {
	enabled    bool
	revision   uint64
	serial     uint64
	tokensFrom uint64
	tokenKey   []byte
	people
}

// firstRevision is etcd's number while nothing was ever changed.
const firstRevision = 1

// New returns the state before the first change: nobody, and nothing is asked for.
func New() *State {
	return &State{revision: firstRevision}
}

// Enabled reports whether requests are held against it.
func (s *State) Enabled() bool { return s.enabled }

// Revision is etcd's number: it begins at 1, and rises with every change that changes something, but not when authentication is turned on.
func (s *State) Revision() uint64 { return s.revision }

// Serial rises with every change of any kind.
func (s *State) Serial() uint64 { return s.serial }

// TokenKey is what tokens are sealed with; nil before authentication was ever turned on. It is for members alone.
func (s *State) TokenKey() []byte { return s.tokenKey }

// Kind is a kind of change.
type Kind uint32

// The kinds. None is of no entry.
const (
	None Kind = iota
	Enable
	Disable
	UserAdd
	UserDelete
	UserChangePassword
	UserGrantRole
	UserRevokeRole
	RoleAdd
	RoleDelete
	RoleGrantPermission
	RoleRevokePermission
	kinds
)

// rules carry out the changes, on a copy of the state. They report whether anything changed.
var rules = [kinds]func(s *State, e *pb.MetaAuth) (changed bool, err error){
	Enable:               (*State).enable,
	Disable:              (*State).disable,
	UserAdd:              (*State).userAdd,
	UserDelete:           (*State).userDelete,
	UserChangePassword:   (*State).userChangePassword,
	UserGrantRole:        (*State).userGrantRole,
	UserRevokeRole:       (*State).userRevokeRole,
	RoleAdd:              (*State).roleAdd,
	RoleDelete:           (*State).roleDelete,
	RoleGrantPermission:  (*State).roleGrantPermission,
	RoleRevokePermission: (*State).roleRevokePermission,
}

// Apply returns the state after a change; s itself where it changes nothing. The error is one of package shard, and s is returned then. It keeps
// the bytes of e.
func (s *State) Apply(e *pb.MetaAuth) (*State, error) {
	kind := Kind(e.Change)
	if kind == None || kind >= kinds {
		return s, fmt.Errorf("%w: a change of users and roles of no kind that is known here", shard.ErrInvalid)
	}
	if err := s.admin(e.Actor); err != nil {
		return s, err
	}
	next := *s
	next.serial++
	next.touched = Touched{}
	changed, err := rules[kind](&next, e)
	if err != nil || !changed {
		return s, err
	}
	if kind != Enable {
		next.revision++
	}
	return &next, nil
}

// admin refuses whoever may not change anything.
func (s *State) admin(name string) error {
	if !s.enabled {
		return nil
	}
	if name == "" {
		return shard.ErrUserEmpty
	}
	u := s.User(name)
	if u == nil {
		return shard.ErrUserNotFound
	}
	if !u.has(Root) {
		return shard.ErrPermissionDenied
	}
	return nil
}

func (s *State) enable(e *pb.MetaAuth) (bool, error) {
	if s.enabled {
		return false, nil
	}
	root := s.User(Root)
	if root == nil {
		return false, shard.ErrRootUserNotExist
	}
	if !root.has(Root) {
		return false, shard.ErrRootRoleNotExist
	}
	s.enabled, s.tokenKey = true, e.TokenKey
	return true, nil
}

// disable ends every login: whoever logged in before is not known when authentication is turned on again.
func (s *State) disable(*pb.MetaAuth) (bool, error) {
	if !s.enabled {
		return false, nil
	}
	s.enabled, s.tokensFrom = false, s.serial
	return true, nil
}

func (s *State) userAdd(e *pb.MetaAuth) (bool, error) {
	if e.User == "" {
		return false, shard.ErrUserEmpty
	}
	if s.User(e.User) != nil {
		return false, shard.ErrUserExists
	}
	s.setUser(&User{Name: e.User, Hash: e.Hash, NoPassword: e.NoPassword, Credential: s.serial, allows: new(atomic.Pointer[allowance])})
	return true, nil
}

func (s *State) userDelete(e *pb.MetaAuth) (bool, error) {
	if s.enabled && e.User == Root {
		return false, shard.ErrInvalidAuthMgmt
	}
	if s.User(e.User) == nil {
		return false, shard.ErrUserNotFound
	}
	s.setUsers(map[string]*User{e.User: nil})
	return true, nil
}

func (s *State) userChangePassword(e *pb.MetaAuth) (bool, error) {
	old := s.User(e.User)
	if old == nil {
		return false, shard.ErrUserNotFound
	}
	u := *old
	u.Credential, u.Hash = s.serial, nil
	if !u.NoPassword {
		u.Hash = e.Hash
	}
	s.setUser(&u)
	return true, nil
}

func (s *State) userGrantRole(e *pb.MetaAuth) (bool, error) {
	old := s.User(e.User)
	if old == nil {
		return false, shard.ErrUserNotFound
	}
	if e.Role != Root && s.Role(e.Role) == nil { // root is there without having been added
		return false, shard.ErrRoleNotFound
	}
	at, found := slices.BinarySearch(old.Roles, e.Role)
	if found {
		return false, nil
	}
	u := *old
	u.Roles = slices.Insert(slices.Clone(old.Roles), at, e.Role)
	s.setUser(&u)
	return true, nil
}

func (s *State) userRevokeRole(e *pb.MetaAuth) (bool, error) {
	if s.enabled && e.User == Root && e.Role == Root {
		return false, shard.ErrInvalidAuthMgmt
	}
	u := s.User(e.User)
	if u == nil {
		return false, shard.ErrUserNotFound
	}
	if !u.has(e.Role) {
		return false, shard.ErrRoleNotGranted
	}
	s.setUser(u.without(e.Role))
	return true, nil
}

// without is the user after a role is gone.
func (u *User) without(role string) *User {
	left := *u
	left.Roles = slices.DeleteFunc(slices.Clone(u.Roles), func(r string) bool { return r == role })
	return &left
}

func (s *State) roleAdd(e *pb.MetaAuth) (bool, error) {
	if e.Role == "" {
		return false, shard.ErrRoleEmpty
	}
	if s.Role(e.Role) != nil {
		return false, shard.ErrRoleExists
	}
	s.setRole(&Role{Name: e.Role})
	return true, nil
}

func (s *State) roleDelete(e *pb.MetaAuth) (bool, error) {
	if s.enabled && e.Role == Root {
		return false, shard.ErrInvalidAuthMgmt
	}
	if s.Role(e.Role) == nil {
		return false, shard.ErrRoleNotFound
	}
	had := map[string]*User{}
	for name, u := range s.users.all {
		if u.has(e.Role) {
			had[name] = u.without(e.Role)
		}
	}
	s.setUsers(had)
	s.setRoles(map[string]*Role{e.Role: nil})
	return true, nil
}

// roleGrantPermission looks for the permission where etcd does: at the first of its key. One of the same keys that lies behind another of that
// key is not found, and the new one is added beside it.
func (s *State) roleGrantPermission(e *pb.MetaAuth) (bool, error) {
	p := toPermission(e.Permission)
	switch {
	case e.Permission == nil:
		return false, shard.ErrPermissionNotGiven
	case !p.valid():
		return false, shard.ErrInvalidAuthMgmt
	case s.Role(e.Role) == nil:
		return false, shard.ErrRoleNotFound
	}
	r := *s.Role(e.Role)
	r.Permissions = slices.Clone(r.Permissions)
	at, found := slices.BinarySearchFunc(r.Permissions, p, byKey)
	if found && bytes.Equal(r.Permissions[at].End, p.End) {
		r.Permissions[at].Type = p.Type
	} else {
		for at < len(r.Permissions) && byKey(r.Permissions[at], p) == 0 { // behind those of the same key
			at++
		}
		r.Permissions = slices.Insert(r.Permissions, at, p)
	}
	s.setRole(&r)
	return true, nil
}

func (s *State) roleRevokePermission(e *pb.MetaAuth) (bool, error) {
	if s.Role(e.Role) == nil {
		return false, shard.ErrRoleNotFound
	}
	r := *s.Role(e.Role)
	p := toPermission(e.Permission)
	had := len(r.Permissions)
	r.Permissions = slices.DeleteFunc(slices.Clone(r.Permissions), func(q Permission) bool {
		return bytes.Equal(q.Key, p.Key) && bytes.Equal(q.End, p.End)
	})
	if len(r.Permissions) == had {
		return false, shard.ErrPermissionNotGranted
	}
	s.setRole(&r)
	return true, nil
}

func byKey(a, b Permission) int { return bytes.Compare(a.Key, b.Key) }

// valid reports whether a permission names keys.
func (p Permission) valid() bool {
	return len(p.Key) > 0 && (len(p.End) == 0 || unbounded(p.End) || bytes.Compare(p.Key, p.End) < 0)
}

// unbounded reports whether an end stands for none.
func unbounded(end []byte) bool { return len(end) == 1 && end[0] == 0 }
