package auth

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	genuine "go.etcd.io/etcd/server/v3/auth"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// memory is what etcd's auth store keeps its state in.
type memory struct {
	enabled  bool
	revision uint64
	users    map[string]*authpb.User
	roles    map[string]*authpb.Role
}

func (m *memory) CreateAuthBuckets()             {}
func (m *memory) ForceCommit()                   {}
func (m *memory) ReadTx() genuine.AuthReadTx     { return m }
func (m *memory) BatchTx() genuine.AuthBatchTx   { return m }
func (m *memory) Lock()                          {}
func (m *memory) Unlock()                        {}
func (m *memory) RLock()                         {}
func (m *memory) RUnlock()                       {}
func (m *memory) UnsafeReadAuthEnabled() bool    { return m.enabled }
func (m *memory) UnsafeReadAuthRevision() uint64 { return m.revision }
func (m *memory) UnsafeSaveAuthEnabled(on bool)  { m.enabled = on }
func (m *memory) UnsafeSaveAuthRevision(r uint64) {
	m.revision = r
}

// What is handed out is a copy, as a database's is: etcd's store writes in it.
func (m *memory) GetUser(name string) *authpb.User {
	u := m.users[name]
	if u == nil {
		return nil
	}
	return &authpb.User{Name: u.Name, Password: u.Password, Roles: slices.Clone(u.Roles), Options: u.Options}
}

func (m *memory) GetRole(name string) *authpb.Role {
	r := m.roles[name]
	if r == nil {
		return nil
	}
	out := &authpb.Role{Name: r.Name}
	for _, p := range r.KeyPermission {
		out.KeyPermission = append(out.KeyPermission, &authpb.Permission{PermType: p.PermType, Key: p.Key, RangeEnd: p.RangeEnd})
	}
	return out
}

func (m *memory) GetAllUsers() (out []*authpb.User) {
	for _, name := range sortedKeys(m.users) {
		out = append(out, m.GetUser(name))
	}
	return out
}

func (m *memory) GetAllRoles() (out []*authpb.Role) {
	for _, name := range sortedKeys(m.roles) {
		out = append(out, m.GetRole(name))
	}
	return out
}

func (m *memory) UnsafeGetUser(name string) *authpb.User { return m.GetUser(name) }
func (m *memory) UnsafeGetRole(name string) *authpb.Role { return m.GetRole(name) }
func (m *memory) UnsafeGetAllUsers() []*authpb.User      { return m.GetAllUsers() }
func (m *memory) UnsafeGetAllRoles() []*authpb.Role      { return m.GetAllRoles() }
func (m *memory) UnsafePutUser(u *authpb.User)           { m.users[string(u.Name)] = u }
func (m *memory) UnsafeDeleteUser(name string)           { delete(m.users, name) }
func (m *memory) UnsafePutRole(r *authpb.Role)           { m.roles[string(r.Name)] = r }
func (m *memory) UnsafeDeleteRole(name string)           { delete(m.roles, name) }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// twins are etcd's store and ours.
type twins struct {
	t    *rapid.T
	etcd genuine.AuthStore
	ours *State
	view *View
}

func newTwins(t *rapid.T) *twins {
	tokens, err := genuine.NewTokenProvider(zap.NewNop(), "", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	be := &memory{users: map[string]*authpb.User{}, roles: map[string]*authpb.Role{}}
	w := &twins{t: t, etcd: genuine.NewAuthStore(zap.NewNop(), be, tokens, 4), ours: New()}
	w.view = NewView(w.ours)
	return w
}

// change makes the same change in both, as etcd's applier does: whoever may not is refused first.
func (w *twins) change(e *pb.MetaAuth) (etcd, ours error) {
	if etcd = w.etcd.IsAdminPermitted(&genuine.AuthInfo{Username: e.Actor, Revision: w.etcd.Revision()}); etcd == nil {
		etcd = w.changeEtcd(e)
	}
	var next *State
	if next, ours = w.ours.Apply(e); next != w.ours { // requests are judged by what follows by differences
		followed, err := w.view.Update(next.Difference(next.Touched()))
		if err != nil {
			w.t.Fatal(err)
		}
		w.ours, w.view = next, NewView(followed)
	}
	return etcd, ours
}

func (w *twins) changeEtcd(e *pb.MetaAuth) (err error) {
	hash := base64.StdEncoding.EncodeToString(e.Hash)
	switch Kind(e.Change) {
	case Enable:
		err = w.etcd.AuthEnable()
	case Disable:
		w.etcd.AuthDisable()
	case UserAdd:
		_, err = w.etcd.UserAdd(&etcdserverpb.AuthUserAddRequest{Name: e.User, HashedPassword: hash, Options: &authpb.UserAddOptions{NoPassword: e.NoPassword}})
	case UserDelete:
		_, err = w.etcd.UserDelete(&etcdserverpb.AuthUserDeleteRequest{Name: e.User})
	case UserChangePassword:
		_, err = w.etcd.UserChangePassword(&etcdserverpb.AuthUserChangePasswordRequest{Name: e.User, HashedPassword: hash})
	case UserGrantRole:
		_, err = w.etcd.UserGrantRole(&etcdserverpb.AuthUserGrantRoleRequest{User: e.User, Role: e.Role})
	case UserRevokeRole:
		_, err = w.etcd.UserRevokeRole(&etcdserverpb.AuthUserRevokeRoleRequest{Name: e.User, Role: e.Role})
	case RoleAdd:
		_, err = w.etcd.RoleAdd(&etcdserverpb.AuthRoleAddRequest{Name: e.Role})
	case RoleDelete:
		_, err = w.etcd.RoleDelete(&etcdserverpb.AuthRoleDeleteRequest{Role: e.Role})
	case RoleGrantPermission:
		req := &etcdserverpb.AuthRoleGrantPermissionRequest{Name: e.Role}
		if p := e.Permission; p != nil {
			req.Perm = &authpb.Permission{PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.RangeEnd}
		}
		_, err = w.etcd.RoleGrantPermission(req)
	case RoleRevokePermission:
		_, err = w.etcd.RoleRevokePermission(&etcdserverpb.AuthRoleRevokePermissionRequest{Role: e.Role, Key: e.Permission.GetKey(), RangeEnd: e.Permission.GetRangeEnd()})
	}
	return err
}

// who is the same person to both. Dated is what etcd's are all the time.
func (w *twins) who(name string, revision uint64) (*genuine.AuthInfo, Who) {
	if revision == 0 {
		return &genuine.AuthInfo{}, Who{}
	}
	return &genuine.AuthInfo{Username: name, Revision: revision}, Who{Name: name, Known: true, Dated: true, Revision: revision}
}

var (
	someUsers = rapid.SampledFrom([]string{Root, Root, "alice", "bob", ""})
	someRoles = rapid.SampledFrom([]string{Root, "r1", "r2", "r3", ""})
	someKeys  = rapid.SampledFrom([]string{"a", "b", "b\x00", "c", "d", "e", "f"})
	someEnds  = rapid.SampledFrom([]string{"", "", "\x00", "b", "b\x00", "c", "c\x00", "d", "e", "f", "g"})
)

func someChange(t *rapid.T) *pb.MetaAuth {
	e := &pb.MetaAuth{
		Change: rapid.Uint32Range(1, uint32(kinds)-1).Draw(t, "change"), Actor: rapid.SampledFrom([]string{Root, Root, Root, Root, "alice", ""}).Draw(t, "actor"),
		User: someUsers.Draw(t, "user"), Role: someRoles.Draw(t, "role"), Hash: []byte("hash"), NoPassword: rapid.IntRange(0, 4).Draw(t, "without") == 0,
	}
	if rapid.IntRange(0, 9).Draw(t, "given") > 0 {
		key := []byte(someKeys.Draw(t, "key"))
		if rapid.IntRange(0, 9).Draw(t, "keyless") == 0 {
			key = nil
		}
		e.Permission = &pb.AuthPermission{Type: rapid.Uint32Range(0, 2).Draw(t, "type"), Key: key, RangeEnd: []byte(someEnds.Draw(t, "end"))}
	}
	return e
}

// first makes a cluster that has users, so that not every sequence begins by failing.
func (w *twins) first(t *rapid.T) {
	for _, e := range []*pb.MetaAuth{
		{Change: uint32(UserAdd), User: Root}, {Change: uint32(UserGrantRole), User: Root, Role: Root}, {Change: uint32(UserAdd), User: "alice"},
		{Change: uint32(RoleAdd), Role: "r1"}, {Change: uint32(RoleAdd), Role: "r2"}, {Change: uint32(UserGrantRole), User: "alice", Role: "r1"},
		{Change: uint32(UserGrantRole), User: "alice", Role: "r2"}, {Change: uint32(Enable)},
	} {
		if etcd, ours := w.change(e); etcd != nil || ours != nil {
			t.Fatalf("%v: etcd says %v, ours %v", e, etcd, ours)
		}
	}
}

// TestLikeGenuine makes random changes, and asks random things, of etcd's own auth store and of this one: they answer the same.
func TestLikeGenuine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTwins(t)
		if rapid.IntRange(0, 3).Draw(t, "empty") > 0 {
			w.first(t)
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			e := someChange(t)
			if etcd, ours := w.change(e); text(etcd) != text(ours) {
				t.Fatalf("%v: etcd says %v, ours %v", e, etcd, ours)
			}
			w.compare(t)
			w.ask(t)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// compare holds what both say of themselves side by side.
func (w *twins) compare(t *rapid.T) {
	if w.etcd.IsAuthEnabled() != w.view.Enabled() || w.etcd.Revision() != w.view.Revision() {
		t.Fatalf("etcd: on %v at %d, ours: %v at %d", w.etcd.IsAuthEnabled(), w.etcd.Revision(), w.view.Enabled(), w.view.Revision())
	}
	users, _ := w.etcd.UserList(nil)
	roles, _ := w.etcd.RoleList(nil)
	if !slices.Equal(users.Users, w.view.Users()) || !slices.Equal(roles.Roles, w.view.Roles()) {
		t.Fatalf("etcd has %v and %v, ours %v and %v", users.Users, roles.Roles, w.view.Users(), w.view.Roles())
	}
	for _, name := range users.Users {
		got, _ := w.etcd.UserGet(&etcdserverpb.AuthUserGetRequest{Name: name})
		if !slices.Equal(got.Roles, w.view.User(name).Roles) {
			t.Fatalf("%s has %v in etcd, and %v in ours", name, got.Roles, w.view.User(name).Roles)
		}
	}
	for _, name := range roles.Roles {
		if name == Root {
			continue // etcd shows what it may, not what it has
		}
		got, _ := w.etcd.RoleGet(&etcdserverpb.AuthRoleGetRequest{Role: name})
		var etcd, ours []string
		for _, p := range got.Perm {
			etcd = append(etcd, fmt.Sprintf("%d %q %q", p.PermType, p.Key, p.RangeEnd))
		}
		for _, p := range w.view.Role(name).Permissions {
			ours = append(ours, fmt.Sprintf("%d %q %q", p.Type, p.Key, p.End))
		}
		if len(etcd) > 12 { // beyond, etcd's order of those of one key is its sort's
			slices.Sort(etcd)
			slices.Sort(ours)
		}
		if !slices.Equal(etcd, ours) {
			t.Fatalf("%s may %v in etcd, and %v in ours", name, etcd, ours)
		}
	}
}

// ask asks both what somebody may do.
func (w *twins) ask(t *rapid.T) {
	for range 8 {
		name := rapid.SampledFrom([]string{Root, "alice", "alice", "bob", "nobody", ""}).Draw(t, "who")
		revision := w.etcd.Revision()
		switch rapid.IntRange(0, 9).Draw(t, "when") {
		case 0:
			revision = 0
		case 1:
			revision--
		}
		etcd, ours := w.who(name, revision)
		key, end := []byte(someKeys.Draw(t, "from")), []byte(someEnds.Draw(t, "to"))
		if len(end) > 0 && !unbounded(end) && string(end) <= string(key) {
			end = nil // of a span without keys etcd says what its tree happens to meet: see TestNoKeys
		}
		for what, errs := range map[string][2]error{
			"read":   {w.etcd.IsRangePermitted(etcd, key, end), w.view.MayRead(ours, key, end)},
			"put":    {w.etcd.IsPutPermitted(etcd, key), w.view.MayWrite(ours, key, nil)},
			"delete": {w.etcd.IsDeleteRangePermitted(etcd, key, end), w.view.MayWrite(ours, key, end)},
			"admin":  {w.etcd.IsAdminPermitted(etcd), w.view.Admin(ours)},
		} {
			if text(errs[0]) != text(errs[1]) {
				t.Fatalf("%s of [%q, %q) by %+v: etcd says %v, ours %v\n%s", what, key, end, ours, errs[0], errs[1], w.describe())
			}
		}
	}
}

func (w *twins) describe() string {
	var b strings.Builder
	for _, name := range w.view.Roles() {
		fmt.Fprintf(&b, "%s: %+v\n", name, w.view.Role(name).Permissions)
	}
	return b.String()
}

// TestErrorsAreEtcds: the texts are etcd's, whose clients show them where they know no other.
func TestErrorsAreEtcds(t *testing.T) {
	for ours, etcd := range map[error]error{
		shard.ErrRootUserNotExist: genuine.ErrRootUserNotExist, shard.ErrRootRoleNotExist: genuine.ErrRootRoleNotExist,
		shard.ErrUserExists: genuine.ErrUserAlreadyExist, shard.ErrUserEmpty: genuine.ErrUserEmpty, shard.ErrUserNotFound: genuine.ErrUserNotFound,
		shard.ErrRoleExists: genuine.ErrRoleAlreadyExist, shard.ErrRoleNotFound: genuine.ErrRoleNotFound, shard.ErrRoleEmpty: genuine.ErrRoleEmpty,
		shard.ErrPermissionNotGiven: genuine.ErrPermissionNotGiven, shard.ErrAuthFailed: genuine.ErrAuthFailed, shard.ErrNoPasswordUser: genuine.ErrNoPasswordUser,
		shard.ErrPermissionDenied: genuine.ErrPermissionDenied, shard.ErrRoleNotGranted: genuine.ErrRoleNotGranted,
		shard.ErrPermissionNotGranted: genuine.ErrPermissionNotGranted, shard.ErrAuthNotEnabled: genuine.ErrAuthNotEnabled,
		shard.ErrAuthOldRevision: genuine.ErrAuthOldRevision, shard.ErrInvalidAuthToken: genuine.ErrInvalidAuthToken, shard.ErrInvalidAuthMgmt: genuine.ErrInvalidAuthMgmt,
	} {
		if text(ours) != text(etcd) {
			t.Errorf("%q, and etcd's is %q", ours, etcd)
		}
	}
}
