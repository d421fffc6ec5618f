package auth

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// imageOf is what a state is written as.
func imageOf(t testing.TB, s *State) []byte {
	t.Helper()
	raw, err := s.Image().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sent is a difference as it comes to another node.
func sent(t testing.TB, d *pb.AuthDifference) (*pb.AuthDifference, int) {
	t.Helper()
	raw, err := d.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	out := &pb.AuthDifference{}
	if err := out.UnmarshalVT(raw); err != nil {
		t.Fatal(err)
	}
	return out, len(raw)
}

// TestAChangeAmongManyUsers: what is told of it, and what a node makes anew for it, is what it changes, and not what ten thousand users are.
func TestAChangeAmongManyUsers(t *testing.T) {
	const users = 10_000
	s := many(t, users)
	for _, e := range []*pb.MetaAuth{
		grant("role-7", Read, "k", "l"),
		{Change: uint32(UserAdd), User: "new", Hash: make([]byte, 60)},
		{Change: uint32(UserChangePassword), User: "user-77", Hash: make([]byte, 60)},
		{Change: uint32(UserGrantRole), User: "user-77", Role: "role-7"},
		{Change: uint32(UserDelete), User: "user-78"},
		{Change: uint32(RoleDelete), Role: "role-8"}, // of a hundred users
	} {
		e.Actor = Root
		next, err := s.Apply(e)
		if err != nil {
			t.Fatal(err)
		}
		d, size := sent(t, next.Difference(next.Touched()))
		got, err := s.Update(d)
		if err != nil {
			t.Fatal(err)
		}
		touched, most := 1, 300
		if Kind(e.Change) == RoleDelete {
			touched, most = 101, 100*100+300
		}
		if size > most {
			t.Errorf("%v: %d bytes are told of it", e, size)
		}
		for what, to := range map[string]*State{"applies": next, "takes the difference": got} {
			anew := 0
			for name, u := range s.users.all {
				if to.User(name) != u {
					anew++
				}
			}
			for name, r := range s.roles.all {
				if to.Role(name) != r {
					anew++
				}
			}
			if anew > touched {
				t.Errorf("%v: who %s makes %d users and roles anew", e, what, anew)
			}
			copied := 0
			for i, bucket := range to.users.in {
				if !same(bucket, s.users.in[i]) {
					copied += len(bucket)
				}
			}
			if Kind(e.Change) != RoleDelete && copied > 4*users/buckets {
				t.Errorf("%v: who %s copies a map of %d users", e, what, copied)
			}
		}
		if !bytes.Equal(imageOf(t, got), imageOf(t, next)) {
			t.Errorf("%v: the difference leads to another state", e)
		}
		s = next
	}
}

// same reports whether two maps are one: what is put in one is in the other.
func same(a, b map[string]*User) bool {
	const probe = "\x00probe"
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	a[probe] = nil
	_, found := b[probe]
	delete(a, probe)
	return found
}

// randomChange is one that may be refused, or change nothing.
func randomChange(r *rand.Rand) *pb.MetaAuth {
	user, role := fmt.Sprintf("u%d", r.IntN(8)), fmt.Sprintf("r%d", r.IntN(5))
	e := &pb.MetaAuth{Change: 1 + uint32(r.IntN(int(kinds)-1)), Actor: Root, User: user, Role: role, Hash: []byte{byte(r.IntN(256))}, NoPassword: r.IntN(3) == 0}
	switch r.IntN(10) {
	case 0:
		e.User = Root
	case 1:
		e.Role = Root
	case 2:
		e.User, e.Role = Root, Root
	}
	key := []byte{'a' + byte(r.IntN(4))}
	e.Permission = &pb.AuthPermission{Type: uint32(r.IntN(3)), Key: key, RangeEnd: [][]byte{nil, {0}, append(key, 'z')}[r.IntN(3)]}
	if Kind(e.Change) == Enable {
		e.TokenKey = []byte{byte(r.IntN(256))}
	}
	return e
}

// TestDifferencesLeadToTheState: whatever changes are made, who has followed by differences has what was changed; from whatever state before they are, and also
// where he goes by one in between. What he had before stays as it was.
func TestDifferencesLeadToTheState(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 69))
		states, touched := []*State{New()}, []Touched{{}}
		follower, at := New(), 0
		for range 300 {
			last := states[len(states)-1]
			next, err := last.Apply(randomChange(r))
			if err != nil || next == last {
				continue
			}
			states, touched = append(states, next), append(touched, next.Touched())
			if r.IntN(3) > 0 {
				continue
			}
			base := r.IntN(at + 1) // he says by what he goes, and may go by a later one when the answer comes
			var all Touched
			for _, more := range touched[base+1:] {
				all.Users, all.Roles = append(all.Users, more.Users...), append(all.Roles, more.Roles...)
			}
			d, _ := sent(t, next.Difference(all))
			before := imageOf(t, follower)
			got, err := follower.Update(d)
			if err != nil {
				t.Fatalf("seed %d: from %d, as of %d, to %d: %v", seed, at, base, len(states)-1, err)
			}
			if !bytes.Equal(imageOf(t, got), imageOf(t, next)) || got.Sum() != next.Sum() {
				t.Fatalf("seed %d: from %d, as of %d, to %d: another state:\n%v\ninstead of\n%v", seed, at, base, len(states)-1, got.Image(), next.Image())
			}
			if !bytes.Equal(before, imageOf(t, follower)) {
				t.Fatalf("seed %d: the state before is written", seed)
			}
			again, err := Restore(next.Image())
			if err != nil || again.Sum() != got.Sum() {
				t.Fatalf("seed %d: the sum of the whole is %x, %v, and by differences %x", seed, again.Sum(), err, got.Sum())
			}
			follower, at = got, len(states)-1
		}
		if at < 20 {
			t.Fatalf("seed %d: %d changes", seed, at)
		}
	}
}

// TestDifferenceToAnotherState: what is no difference to the state is refused, whatever is otherwise there.
func TestDifferenceToAnotherState(t *testing.T) {
	s := alice(t, grant("r", Read, "a", "b")).State
	next, err := s.Apply(grant("r", Write, "c", "d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*pb.MetaAuth{
		{Change: uint32(UserAdd), User: "bob"}, {Change: uint32(RoleAdd), Role: "s"}, {Change: uint32(UserGrantRole), User: "alice", Role: Root},
		{Change: uint32(UserChangePassword), User: "alice"}, {Change: uint32(UserDelete), User: "alice"},
	} {
		e.Actor = Root
		other, err := s.Apply(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Update(next.Difference(next.Touched())); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("to a state after %v: %v", e, err)
		}
	}
	for what, spoil := range map[string]func(*pb.AuthDifference){
		"nothing changed": func(d *pb.AuthDifference) { d.Now.Roles = nil },
		"nothing at all":  func(d *pb.AuthDifference) { d.Now = nil },
		"off":             func(d *pb.AuthDifference) { d.Now.Enabled = false },
		"an older key":    func(d *pb.AuthDifference) { d.Now.TokenKey = []byte("j") },
		"a user too many": func(d *pb.AuthDifference) { d.Now.Users = []*pb.AuthUser{{Name: "eve", Roles: []string{Root}}} },
		"a user too few":  func(d *pb.AuthDifference) { d.UsersGone = []string{"alice"} },
		"a role too few":  func(d *pb.AuthDifference) { d.Now.Roles, d.RolesGone = nil, []string{"r"} },
		"no root":         func(d *pb.AuthDifference) { d.UsersGone = []string{Root} },
		"twice":           func(d *pb.AuthDifference) { d.RolesGone = []string{"r"} },
	} {
		d, _ := sent(t, next.Difference(next.Touched()))
		spoil(d)
		if _, err := s.Update(d); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Update(nil); !errors.Is(err, shard.ErrCorrupt) {
		t.Error("no difference is taken for one")
	}
}

// TestSum: states that differ in anything have different sums.
func TestSum(t *testing.T) {
	whole := alice(t, grant("r", Read, "a", "b"), grant("r", Write, "x", "")).Image()
	sums := map[uint64]string{}
	for what, edit := range map[string]func(m *pb.AuthState){
		"as it was":    func(*pb.AuthState) {},
		"off":          func(m *pb.AuthState) { m.Enabled = false },
		"revision":     func(m *pb.AuthState) { m.Revision++ },
		"serial":       func(m *pb.AuthState) { m.Serial++ },
		"tokens":       func(m *pb.AuthState) { m.TokensFrom++ },
		"token key":    func(m *pb.AuthState) { m.TokenKey = []byte("l") },
		"user":         func(m *pb.AuthState) { m.Users = append(m.Users, &pb.AuthUser{Name: "s"}) },
		"role":         func(m *pb.AuthState) { m.Roles = append(m.Roles, &pb.AuthRole{Name: "s"}) },
		"hash":         func(m *pb.AuthState) { m.Users[0].Hash = []byte("h") },
		"no password":  func(m *pb.AuthState) { m.Users[0].NoPassword = !m.Users[0].NoPassword },
		"credential":   func(m *pb.AuthState) { m.Users[0].Credential++ },
		"a role more":  func(m *pb.AuthState) { m.Users[0].Roles = append(slices.Clone(m.Users[0].Roles), "s") },
		"type":         func(m *pb.AuthState) { m.Roles[0].Permissions[0].Type = uint32(Write) },
		"key":          func(m *pb.AuthState) { m.Roles[0].Permissions[0].Key = []byte("A") },
		"end":          func(m *pb.AuthState) { m.Roles[0].Permissions[0].RangeEnd = []byte("c") },
		"no end":       func(m *pb.AuthState) { m.Roles[0].Permissions[0].RangeEnd = nil },
		"a permission": func(m *pb.AuthState) { m.Roles[0].Permissions = m.Roles[0].Permissions[:1] },
		"key in the end": func(m *pb.AuthState) {
			m.Roles[0].Permissions[1].Key, m.Roles[0].Permissions[1].RangeEnd = nil, []byte("x")
		},
	} {
		m := &pb.AuthState{}
		raw, _ := whole.MarshalVT()
		if err := m.UnmarshalVT(raw); err != nil {
			t.Fatal(err)
		}
		edit(m)
		slices.SortFunc(m.Roles[0].Permissions, func(a, b *pb.AuthPermission) int { return bytes.Compare(a.Key, b.Key) })
		s, err := Restore(m)
		if err != nil {
			t.Fatal(err)
		}
		if other, found := sums[s.Sum()]; found {
			t.Errorf("%q has the sum of %q", what, other)
		}
		sums[s.Sum()] = what
	}
}

// TestNames: a map after some changes has what it should, and the one before is as it was.
func TestNames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 69))
	var now names[int]
	want := map[string]*int{}
	for range 300 {
		before, old := maps.Clone(want), now
		changes := map[string]*int{}
		for range r.IntN(20) {
			v := new(int)
			if r.IntN(3) == 0 {
				v = nil
			}
			changes[fmt.Sprint(r.IntN(500))] = v
		}
		now = now.with(changes)
		for name, v := range changes {
			if want[name] = v; v == nil {
				delete(want, name)
			}
		}
		for what, m := range map[string]struct {
			names names[int]
			want  map[string]*int
		}{"after": {now, want}, "before": {old, before}} {
			if got := maps.Collect(m.names.all); m.names.n != len(m.want) || !maps.Equal(got, m.want) {
				t.Fatalf("%s: %d names, %d in all, instead of %d", what, m.names.n, len(got), len(m.want))
			}
		}
		for name, v := range want {
			if now.get(name) != v {
				t.Fatalf("%q is %v", name, now.get(name))
			}
		}
	}
	if now.get("none") != nil {
		t.Error("what is not there is found")
	}
}

// FuzzUpdate: whatever bytes are a difference are refused, or lead to a state that can be written and read, and whose sum is that of the whole.
func FuzzUpdate(f *testing.F) {
	s := alice(f, grant("r", ReadWrite, "a", "c")).State
	for _, e := range []*pb.MetaAuth{grant("r", Read, "x", ""), {Change: uint32(UserDelete), Actor: Root, User: "alice"}, {Change: uint32(RoleDelete), Actor: Root, Role: "r"}} {
		next, err := s.Apply(e)
		if err != nil {
			f.Fatal(err)
		}
		raw, _ := next.Difference(next.Touched()).MarshalVT()
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d pb.AuthDifference
		if d.UnmarshalVT(raw) != nil {
			return
		}
		before := imageOf(t, s)
		summed := *s
		if summed.take(d.Now, d.UsersGone, d.RolesGone) == nil {
			d.Sum = summed.Sum() // nobody finds it by chance
		}
		next, err := s.Update(&d)
		if !bytes.Equal(before, imageOf(t, s)) {
			t.Fatal("the state before is written")
		}
		if err != nil {
			return
		}
		again, err := Restore(next.Image())
		if err != nil || again.Sum() != next.Sum() || !bytes.Equal(imageOf(t, again), imageOf(t, next)) {
			t.Fatalf("%v became %v, %v", next.Image(), again, err)
		}
	})
}
