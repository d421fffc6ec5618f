package auth

import (
	"slices"
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Who is who makes a request.
type Who = shard.Who

// View is a state that requests are held against. It never changes, and any number of goroutines may use it.
type View struct {
	*State
	image atomic.Pointer[pb.AuthState]
}

// allowance is what a user may read and write by the state of a serial.
type allowance struct {
	serial      uint64
	read, write intervals
}

// NewView returns the view of a state.
func NewView(s *State) *View { return &View{State: s} }

// Image is the state's, made when it is first asked for. It is shared and never written.
func (v *View) Image() *pb.AuthState {
	if m := v.image.Load(); m != nil {
		return m
	}
	m := v.State.Image()
	v.image.Store(m) // who is at it at the same time makes the same
	return m
}

// Closed returns the view of who knows nothing: nobody may do anything.
func Closed() *View {
	s := New()
	s.enabled = true
	return NewView(s)
}

// Credential is what a login of the user states from now on; false if there is no such user.
func (v *View) Credential(name string) (uint64, bool) {
	u := v.User(name)
	if u == nil {
		return 0, false
	}
	return max(u.Credential, v.tokensFrom), true
}

// Current refuses who logged in before the user's password was changed, before the user was deleted, or before authentication was turned off.
func (v *View) Current(w Who) error {
	if w.Credential == 0 || mutate.On(mutate.AuthTokensStay) {
		return nil
	}
	if c, ok := v.Credential(w.Name); !ok || c != w.Credential {
		return shard.ErrInvalidAuthToken
	}
	return nil
}

// Identified refuses nobody, where authentication is on.
func (v *View) Identified(w Who) error {
	if !v.enabled {
		return nil
	}
	if !w.Known {
		return shard.ErrUserEmpty
	}
	return v.Current(w)
}

// Admin refuses whoever does not have the role root, where authentication is on.
func (v *View) Admin(w Who) error {
	if !v.enabled {
		return nil
	}
	if err := v.Current(w); err != nil {
		return err
	}
	return v.admin(w.Name)
}

// IsRoot reports whether nothing is refused: of who has the role root, and of everybody where authentication is off.
func (v *View) IsRoot(w Who) bool { return v.Admin(w) == nil }

// SeesUser refuses who may not see a user: others than root see themselves.
func (v *View) SeesUser(w Who, name string) error {
	if err := v.Admin(w); err != nil && w.Name != name {
		return err
	}
	return v.currentIfOn(w)
}

// SeesRole refuses who may not see a role: others than root see what they have.
func (v *View) SeesRole(w Who, role string) error {
	err := v.Admin(w)
	if err == nil {
		return nil
	}
	if u := v.User(w.Name); u == nil || !u.has(role) {
		return err
	}
	return v.currentIfOn(w)
}

func (v *View) currentIfOn(w Who) error {
	if !v.enabled {
		return nil
	}
	return v.Current(w)
}

// MayRead refuses a read of keys, by etcd's convention for the end.
func (v *View) MayRead(w Who, key, end []byte) error { return v.may(w, key, end, false) }

// MayWrite refuses a write of keys.
func (v *View) MayWrite(w Who, key, end []byte) error { return v.may(w, key, end, true) }

func (v *View) may(w Who, key, end []byte, write bool) error {
	if !v.enabled {
		return nil
	}
	if !w.Known || w.Dated && w.Revision == 0 {
		return shard.ErrUserEmpty
	}
	if err := v.Current(w); err != nil {
		return err
	}
	if w.Dated && w.Revision < v.revision {
		return shard.ErrAuthOldRevision
	}
	u := v.User(w.Name)
	switch {
	case u == nil:
		return shard.ErrPermissionDenied
	case u.has(Root):
		return nil
	}
	a := v.allowed(u)
	in := a.read
	if write {
		in = a.write
	}
	if !in.cover(key, end) {
		return shard.ErrPermissionDenied
	}
	return nil
}

func (v *View) allowed(u *User) *allowance {
	if a := u.allows.Load(); a != nil && a.serial == v.serial {
		return a
	}
	var read, write []interval
	for _, name := range u.Roles {
		r := v.Role(name)
		if r == nil { // root, which may be had without being there
			continue
		}
		for _, p := range r.Permissions {
			i := spanned(p.Key, p.End)
			if p.Type == Read || p.Type == ReadWrite {
				read = append(read, i)
			}
			if p.Type == Write || p.Type == ReadWrite {
				write = append(write, i)
			}
		}
	}
	a := &allowance{v.serial, merged(read), merged(write)}
	u.allows.Store(a) // who is at it at the same time makes the same
	return a
}

// May refuses an operation for what it names: a transaction for all of its compares and both of its branches, at any depth. The keys of leases
// are another matter: see Leases.
func (v *View) May(w Who, op *pb.Op) error {
	if !v.enabled {
		return nil
	}
	switch {
	case op.Range != nil:
		return v.MayRead(w, op.Range.Key, op.Range.RangeEnd)
	case op.Put != nil:
		return v.mayBoth(w, op.Put.Key, nil, op.Put.PrevKv)
	case op.Delete != nil:
		return v.mayBoth(w, op.Delete.Key, op.Delete.RangeEnd, op.Delete.PrevKv)
	case op.Txn != nil:
		return v.mayTxn(w, op.Txn)
	}
	return shard.ErrPermissionDenied // nothing that a client may ask for
}

// mayBoth is a write which, where the values before it are wanted, reads as well.
func (v *View) mayBoth(w Who, key, end []byte, reads bool) error {
	if err := v.MayWrite(w, key, end); err != nil || !reads || mutate.On(mutate.AuthPrevUnread) {
		return err
	}
	return v.MayRead(w, key, end)
}

func (v *View) mayTxn(w Who, t *pb.TxnOp) error {
	for _, c := range t.Compare {
		if err := v.MayRead(w, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, branch := range branches(t) {
		for _, op := range branch {
			if err := v.May(w, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func branches(t *pb.TxnOp) [][]*pb.Op {
	if mutate.On(mutate.AuthOneBranch) {
		return [][]*pb.Op{t.Success}
	}
	return [][]*pb.Op{t.Success, t.Failure}
}

// Leases lists the leases that puts of an operation attach keys to, at any depth, each once, in ascending order. Whoever may write needs to
// write all keys of them.
func Leases(op *pb.Op) []int64 {
	var out []int64
	collectLeases(op, &out)
	slices.Sort(out)
	return slices.Compact(out)
}

func collectLeases(op *pb.Op, out *[]int64) {
	switch {
	case op.Put != nil && op.Put.Lease != 0:
		*out = append(*out, op.Put.Lease)
	case op.Txn != nil:
		for _, branch := range [][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
			for _, o := range branch {
				collectLeases(o, out)
			}
		}
	}
}

// MayLease refuses who may not write every key of a lease.
func (v *View) MayLease(w Who, keys [][]byte) error { return v.mayAll(w, keys, true) }

// MaySeeLease refuses who may not read every key of a lease.
func (v *View) MaySeeLease(w Who, keys [][]byte) error { return v.mayAll(w, keys, false) }

func (v *View) mayAll(w Who, keys [][]byte, write bool) error {
	if v.IsRoot(w) {
		return nil
	}
	for _, key := range keys {
		if err := v.may(w, key, nil, write); err != nil {
			return err
		}
	}
	return nil
}
