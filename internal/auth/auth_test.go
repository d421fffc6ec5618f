package auth

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// made is the state after some changes, all of which change something.
func made(t testing.TB, changes ...*pb.MetaAuth) *State {
	t.Helper()
	s := New()
	for _, e := range changes {
		next, err := s.Apply(e)
		if err != nil || next == s {
			t.Fatalf("%v: %v", e, err)
		}
		s = next
	}
	return s
}

func grant(role string, kind Type, key, end string) *pb.MetaAuth {
	return &pb.MetaAuth{Change: uint32(RoleGrantPermission), Actor: Root, Role: role,
		Permission: &pb.AuthPermission{Type: uint32(kind), Key: []byte(key), RangeEnd: []byte(end)}}
}

// alice is a cluster where alice has a role with these permissions, and authentication is on.
func alice(t testing.TB, permissions ...*pb.MetaAuth) *View {
	changes := append([]*pb.MetaAuth{
		{Change: uint32(UserAdd), User: Root}, {Change: uint32(UserGrantRole), User: Root, Role: Root},
		{Change: uint32(UserAdd), User: "alice"}, {Change: uint32(RoleAdd), Role: "r"}, {Change: uint32(UserGrantRole), User: "alice", Role: "r"},
	}, permissions...)
	return NewView(made(t, append(changes, &pb.MetaAuth{Change: uint32(Enable), TokenKey: []byte("k")})...))
}

var byAlice = Who{Name: "alice", Known: true}

func put(key string, lease int64) *pb.Op {
	return &pb.Op{Put: &pb.PutOp{Key: []byte(key), Lease: lease}}
}

func putPrev(key string) *pb.Op { return &pb.Op{Put: &pb.PutOp{Key: []byte(key), PrevKv: true}} }

func get(key, end string) *pb.Op {
	return &pb.Op{Range: &pb.RangeOp{Key: []byte(key), RangeEnd: []byte(end)}}
}

func del(key, end string, prev bool) *pb.Op {
	return &pb.Op{Delete: &pb.DeleteOp{Key: []byte(key), RangeEnd: []byte(end), PrevKv: prev}}
}

func txn(then, otherwise []*pb.Op, compares ...*pb.Compare) *pb.Op {
	return &pb.Op{Txn: &pb.TxnOp{Compare: compares, Success: then, Failure: otherwise}}
}

func ops(ops ...*pb.Op) []*pb.Op { return ops }

// TestOperations is what alice may do, who may read [a, c) and from x on, write [b, d) and f, by four permissions of which two touch.
func TestOperations(t *testing.T) {
	v := alice(t, grant("r", Read, "a", "b"), grant("r", ReadWrite, "b", "c"), grant("r", Write, "c", "d"), grant("r", Write, "f", ""), grant("r", Read, "x", "\x00"))
	for _, c := range []struct {
		name string
		op   *pb.Op
		may  bool
	}{
		{"a key", get("a", ""), true},
		{"the last key of two that touch", get("bzz", ""), true},
		{"a span over two that touch", get("a", "c"), true},
		{"a span that goes on", get("a", "c\x00"), false},
		{"all from a key on", get("x", "\x00"), true},
		{"all from a key on, of which a part is allowed", get("b", "\x00"), false},
		{"everything", get("\x00", "\x00"), false},
		{"a span within", get("y", "z"), true},
		{"a put", put("b", 0), true},
		{"a put of what can be read alone", put("a", 0), false},
		{"a put at the end", put("d", 0), false},
		{"a put of one key", put("f", 0), true},
		{"a put of its successor", put("f\x00", 0), false},
		{"a put that reads", putPrev("b"), true},
		{"a put that reads what can be written alone", putPrev("c"), false},
		{"a delete over two that touch", del("b", "d", false), true},
		{"a delete that reads", del("b", "d", true), false},
		{"a compare", txn(nil, nil, &pb.Compare{Key: []byte("a")}), true},
		{"a compare of what can be written alone", txn(nil, nil, &pb.Compare{Key: []byte("c")}), false},
		{"a compare of a span", txn(nil, nil, &pb.Compare{Key: []byte("a"), RangeEnd: []byte("d")}), false},
		{"then", txn(ops(put("a", 0)), nil), false},
		{"else", txn(nil, ops(put("a", 0))), false},
		{"deep in else", txn(nil, ops(txn(nil, ops(txn(ops(get("c", "")), nil))))), false},
		{"a compare deep in then", txn(ops(txn(nil, nil, &pb.Compare{Key: []byte("q")})), nil), false},
		{"a put that reads, deep", txn(ops(txn(nil, ops(putPrev("c")))), nil), false},
		{"a transaction", txn(ops(put("b", 0), get("a", "c")), ops(del("b", "d", false)), &pb.Compare{Key: []byte("b")}), true},
		{"an expiry", &pb.Op{ExpireLease: 7}, false},
		{"nothing", &pb.Op{}, false},
	} {
		if err := v.May(byAlice, c.op); (err == nil) != c.may || err != nil && !errors.Is(err, shard.ErrPermissionDenied) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := v.May(Who{}, c.op); !errors.Is(err, shard.ErrUserEmpty) && c.op.Txn == nil && c.op.ExpireLease == 0 && c.name != "nothing" {
			t.Errorf("%s, by nobody: %v", c.name, err)
		}
	}
}

// TestNoKeys: a span that holds no key is nobody's.
func TestNoKeys(t *testing.T) {
	v := alice(t, grant("r", ReadWrite, "a", "z"))
	for _, span := range [][2]string{{"c", "b"}, {"c", "c"}, {"c", "c"}} {
		if v.MayRead(byAlice, []byte(span[0]), []byte(span[1])) == nil {
			t.Errorf("%q was allowed", span)
		}
	}
}

// TestLogins: a login is over when its password is changed, its user is deleted, or authentication was off, and does not begin again.
func TestLogins(t *testing.T) {
	v := alice(t, grant("r", ReadWrite, "a", "z"))
	credential, ok := v.Credential("alice")
	who := Who{Name: "alice", Known: true, Credential: credential}
	if !ok || v.MayRead(who, []byte("b"), nil) != nil || v.Identified(who) != nil {
		t.Fatal("the login is not valid")
	}
	over := func(name string, s *State) {
		t.Helper()
		v := NewView(s)
		for what, err := range map[string]error{"read": v.MayRead(who, []byte("b"), nil), "anything": v.Identified(who), "admin": v.Admin(who), "itself": v.SeesUser(who, "alice")} {
			if !errors.Is(err, shard.ErrInvalidAuthToken) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if c, ok := v.Credential("alice"); ok && c == credential {
			t.Errorf("%s: the next login is the same", name)
		}
	}
	after := func(s *State, changes ...*pb.MetaAuth) *State {
		t.Helper()
		for _, e := range changes {
			var err error
			if s, err = s.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	over("its password was changed", after(v.State, &pb.MetaAuth{Change: uint32(UserChangePassword), Actor: Root, User: "alice"}))
	gone := after(v.State, &pb.MetaAuth{Change: uint32(UserDelete), Actor: Root, User: "alice"})
	over("its user was deleted", gone)
	over("and added again", after(gone, &pb.MetaAuth{Change: uint32(UserAdd), Actor: Root, User: "alice"}, &pb.MetaAuth{Change: uint32(UserGrantRole), Actor: Root, User: "alice", Role: "r"}))
	over("authentication was off", after(v.State, &pb.MetaAuth{Change: uint32(Disable), Actor: Root}, &pb.MetaAuth{Change: uint32(Enable), TokenKey: []byte("l")}))
	if NewView(after(v.State, grant("r", Read, "c", ""))).Identified(who) != nil {
		t.Error("the login is over though another thing was changed")
	}
}

func TestLeases(t *testing.T) {
	v := alice(t, grant("r", ReadWrite, "a", "c"))
	op := txn(ops(put("a", 7), txn(ops(put("a", 9)), nil)), ops(put("b", 7), put("a", 0)))
	if got := Leases(op); len(got) != 2 || got[0] != 7 || got[1] != 9 {
		t.Errorf("leases %v", got)
	}
	mine, mixed := [][]byte{[]byte("a"), []byte("b")}, [][]byte{[]byte("a"), []byte("q")}
	root := Who{Name: Root, Known: true}
	if v.MayLease(byAlice, mine) != nil || !errors.Is(v.MayLease(byAlice, mixed), shard.ErrPermissionDenied) || v.MayLease(root, mixed) != nil ||
		!errors.Is(v.MaySeeLease(byAlice, mixed), shard.ErrPermissionDenied) {
		t.Error("a lease is judged by what of it")
	}
}

// TestImage: a state is what was written of it, and what cannot be is refused.
func TestImage(t *testing.T) {
	v := alice(t, grant("r", ReadWrite, "a", "c"), grant("r", Read, "a", ""), grant("r", Write, "x", "\x00"))
	raw, err := v.Image().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var m pb.AuthState
	if err := m.UnmarshalVT(raw); err != nil {
		t.Fatal(err)
	}
	again, err := Restore(&m)
	if err != nil {
		t.Fatal(err)
	}
	raw2, _ := again.Image().MarshalVT()
	if !bytes.Equal(raw, raw2) || NewView(again).MayRead(byAlice, []byte("b"), nil) != nil {
		t.Error("what was read is another state")
	}
	if s, err := Restore(nil); err != nil || s.Revision() != 1 || s.Enabled() {
		t.Error(err)
	}
	for _, m := range []*pb.AuthState{
		{Enabled: true}, {Users: []*pb.AuthUser{{}}}, {Users: []*pb.AuthUser{{Name: "a"}, {Name: "a"}}}, {Roles: []*pb.AuthRole{{}}},
		{Users: []*pb.AuthUser{{Name: "a", Roles: []string{"b", "a"}}}},
		{Roles: []*pb.AuthRole{{Name: "r", Permissions: []*pb.AuthPermission{{Key: []byte("b")}, {Key: []byte("a")}}}}},
	} {
		if _, err := Restore(m); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%v: %v", m, err)
		}
	}
}

// many is a state of so many users and a hundred roles, one each.
func many(t testing.TB, users int) *State {
	t.Helper()
	m := &pb.AuthState{Serial: uint64(users), Enabled: true, TokenKey: []byte("key"), Users: []*pb.AuthUser{{Name: Root, Roles: []string{Root}}}}
	for i := range 100 {
		role := fmt.Sprintf("role-%d", i)
		m.Roles = append(m.Roles, &pb.AuthRole{Name: role, Permissions: []*pb.AuthPermission{{Key: []byte(role), RangeEnd: []byte(role + "0")}}})
	}
	for i := range users {
		m.Users = append(m.Users, &pb.AuthUser{Name: fmt.Sprintf("user-%d", i), Roles: []string{fmt.Sprintf("role-%d", i%100)}, Hash: make([]byte, 60)})
	}
	s, err := Restore(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzRestore: whatever bytes are a message are a state or refused.
func FuzzRestore(f *testing.F) {
	raw, _ := alice(f, grant("r", ReadWrite, "a", "c")).Image().MarshalVT()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m pb.AuthState
		if m.UnmarshalVT(raw) != nil {
			return
		}
		s, err := Restore(&m)
		if err != nil {
			return
		}
		v := NewView(s)
		for _, name := range v.Users() {
			_ = v.MayRead(Who{Name: name, Known: true}, []byte("b"), []byte("c"))
		}
		if _, err := Restore(s.Image()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	t.Run("rules", func(t *testing.T) {
		t.Run("operations", TestOperations)
		t.Run("logins", TestLogins)
		t.Run("another state", TestDifferenceToAnotherState)
	})
}

// TestMutants: each rule that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.AuthNames(), time.Minute, mutatetest.NoticedBy, "-test.run=^TestMutant$")
}

// What a user may do is remembered with the user, whom states before and after a change of its role share.
func TestViewsDoNotDisturbEachOther(t *testing.T) {
	s := New()
	for _, e := range []*pb.MetaAuth{
		{Change: uint32(UserAdd), User: Root}, {Change: uint32(UserGrantRole), User: Root, Role: Root},
		{Change: uint32(RoleAdd), Role: "r"}, {Change: uint32(UserAdd), User: "alice"}, {Change: uint32(UserGrantRole), User: "alice", Role: "r"},
		{Change: uint32(Enable)},
	} {
		var err error
		if s, err = s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	granted, err := s.Apply(&pb.MetaAuth{Actor: Root, Change: uint32(RoleGrantPermission), Role: "r", Permission: &pb.AuthPermission{Key: []byte("k")}})
	if err != nil {
		t.Fatal(err)
	}
	before, after := NewView(s), NewView(granted)
	alice := Who{Name: "alice", Known: true}
	for range 3 {
		if err := before.MayRead(alice, []byte("k"), nil); err == nil {
			t.Error("she may read by the state before")
		}
		if err := after.MayRead(alice, []byte("k"), nil); err != nil {
			t.Errorf("by the state after: %v", err)
		}
	}
}
