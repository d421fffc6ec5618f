package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// firstAlarm is above every member's id: an alarm is raised for a member that it has never been raised for, so that nothing that comes late clears it.
const firstAlarm shard.NodeID = 1000

// admin changes the settings of the cluster, one after the other, and notes what may be demanded from then on.
type admin struct {
	w      *world
	facts  *facts
	alarms bool // raises alarms
	rights bool // turns authentication on, and gives and takes rights
	ready  bool // root is there, and has its role
	wants  bool // authentication is to be on
	fixed  bool // an answer of turning it on or off was lost: it stays as it was wanted, since what was lost may come late
	names  int  // users, roles and alarms that have had a name
	over   bool
	alarm  placement.Alarm // raised, or perhaps; Member 0: none
}

// userSlot is somebody who has the right to one span, or not. Each right is a role of its own, so that what comes late has no effect on a later one.
type userSlot struct {
	no    int
	span  shard.Span
	user  string
	roles []string // that may be there
	known bool     // the user is there
	sure  bool     // whether the right is there is known: has or gone stands
	has   *fact    // it certainly has the right
	gone  *fact    // it certainly has not
	// losses are all that gone has been.
	losses []*fact
}

func newAdmin(w *world) *admin {
	a := &admin{w: w, alarms: w.roll(0.6), rights: w.roll(0.6)}
	a.facts = newFacts(w)
	return a
}

func (a *admin) begin() {
	if a.alarms || a.rights {
		a.soon()
	}
}

// soon has the next change made.
func (a *admin) soon() {
	a.w.after(a.w.scaled(5*time.Millisecond, 2*time.Second), "settings", a.next)
}

// next makes a change.
func (a *admin) next() {
	l := a.w.someLife()
	switch {
	case a.over:
		return
	case l == nil:
		a.soon()
	case a.alarms && (!a.rights || a.w.roll(0.4)):
		a.changeAlarm(l)
	case !a.ready:
		a.makeRoot(l)
	case a.facts.unknown() || !a.fixed && a.w.roll(0.08) || !a.wants && !a.fixed && a.w.roll(0.5):
		a.turn(l)
	default:
		a.changeRight(l, a.facts.slots[a.w.rng.IntN(len(a.facts.slots))])
	}
}

// perform makes calls beside the loop, and goes on with the next change after what it returns has run.
func (a *admin) perform(l *life, what func(ctx context.Context) func()) {
	a.names++
	no := a.names
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 8*time.Second)
		defer cancel()
		then := what(ctx)
		a.w.post(fmt.Sprintf("settings %d", no), 0, func() {
			then()
			a.w.hurry()
			a.soon()
		})
	}()
}

// newest is a revision that was current after something was acknowledged; 0: nobody could tell.
func newest(ctx context.Context, l *life) int64 {
	now, err := l.client.Current(ctx)
	if err != nil {
		return 0
	}
	return now.Revision
}

// changeAlarm raises one, or clears the one that is raised.
func (a *admin) changeAlarm(l *life) {
	f := a.facts
	if a.alarm.Member != 0 {
		alarm := a.alarm
		f.full[alarm.Kind].end()
		a.perform(l, func(ctx context.Context) func() {
			err := l.client.SetAlarm(ctx, alarm.Member, alarm.Kind, false)
			return func() {
				a.w.note("alarm %v is cleared: %v", alarm, err)
				if err == nil {
					a.alarm = placement.Alarm{}
					if a.w.cfg.Calm { // else a question that was repeated may come late
						f.room = f.begin(0)
					}
				}
			}
		})
		return
	}
	a.names++
	alarm := placement.Alarm{Member: firstAlarm + shard.NodeID(a.names), Kind: placement.AlarmNoSpace}
	if a.w.roll(0.3) {
		alarm.Kind = placement.AlarmCorrupt
	}
	a.alarm = alarm
	f.room.end()
	a.perform(l, func(ctx context.Context) func() {
		err := l.client.SetAlarm(ctx, alarm.Member, alarm.Kind, true)
		rev := int64(0)
		if err == nil {
			rev = newest(ctx, l)
		}
		return func() {
			a.w.note("alarm %v is raised: %v", alarm, err)
			if err == nil && !a.over { // else it may have been cleared already
				f.full[alarm.Kind] = f.begin(rev)
				f.raised = append(f.raised, f.full[alarm.Kind])
				a.w.stats.Alarms++
			}
		}
	})
}

// changeUsers has one change of users and roles made.
func changeUsers(ctx context.Context, l *life, kind auth.Kind, e *pb.MetaAuth) error {
	e.Change, e.Actor = uint32(kind), auth.Root
	return l.client.ChangeAuth(ctx, e)
}

// makeRoot makes the user without whom authentication is not turned on.
func (a *admin) makeRoot(l *life) {
	a.perform(l, func(ctx context.Context) func() {
		err := changeUsers(ctx, l, auth.UserAdd, &pb.MetaAuth{User: auth.Root, NoPassword: true})
		if err == nil || errors.Is(err, shard.ErrUserExists) {
			err = changeUsers(ctx, l, auth.RoleAdd, &pb.MetaAuth{Role: auth.Root})
		}
		if err == nil || errors.Is(err, shard.ErrRoleExists) {
			err = changeUsers(ctx, l, auth.UserGrantRole, &pb.MetaAuth{User: auth.Root, Role: auth.Root})
		}
		return func() {
			a.w.note("root is made: %v", err)
			a.ready = err == nil
		}
	})
}

// turn turns authentication on or off, or asks again where an answer was lost.
func (a *admin) turn(l *life) {
	f := a.facts
	if !f.unknown() {
		a.wants = !a.wants
	}
	on := a.wants
	f.off.end()
	f.on.end()
	kind := auth.Disable
	if on {
		kind = auth.Enable
	}
	a.perform(l, func(ctx context.Context) func() {
		err := changeUsers(ctx, l, kind, &pb.MetaAuth{TokenKey: []byte("sim")})
		rev := int64(0)
		if err == nil {
			rev = newest(ctx, l)
		}
		return func() {
			a.w.note("authentication on: %v: %v", on, err)
			switch {
			case err != nil:
				a.fixed = true
			case on:
				f.on = f.begin(rev)
				f.ons = append(f.ons, f.on)
				a.w.stats.Enabled++
			default:
				f.off = f.begin(rev)
			}
		}
	})
}

// name makes one that nothing has had yet.
func (a *admin) name(what string) string {
	a.names++
	return fmt.Sprintf("%s%d", what, a.names)
}

// changeRight gives a user the right that it has not, takes the one that it has, or makes sure where nobody knows.
func (a *admin) changeRight(l *life, s *userSlot) {
	switch {
	case !s.sure:
		a.clean(l, s)
	case s.has.open():
		a.revoke(l, s)
	default:
		a.grant(l, s)
	}
}

func (a *admin) grant(l *life, s *userSlot) {
	s.gone.end()
	role := a.name("role")
	add := !s.known
	if add {
		s.user = a.name("user")
	}
	s.roles = append(s.roles, role)
	user := s.user
	s.sure = false
	a.perform(l, func(ctx context.Context) func() {
		var err error
		if add {
			err = changeUsers(ctx, l, auth.UserAdd, &pb.MetaAuth{User: user, NoPassword: true})
		}
		if err == nil {
			err = changeUsers(ctx, l, auth.RoleAdd, &pb.MetaAuth{Role: role})
		}
		if err == nil {
			err = changeUsers(ctx, l, auth.RoleGrantPermission, &pb.MetaAuth{Role: role, Permission: s.permission()})
		}
		if err == nil {
			err = changeUsers(ctx, l, auth.UserGrantRole, &pb.MetaAuth{User: user, Role: role})
		}
		return func() {
			a.w.note("%s gets role %s: %v", user, role, err)
			if err == nil {
				s.known, s.sure = true, true
				s.has = a.facts.begin(0)
				a.w.stats.Grants++
			}
		}
	})
}

func (s *userSlot) permission() *pb.AuthPermission {
	end := s.span.End
	if s.span.Unbounded() {
		end = []byte{0}
	}
	return &pb.AuthPermission{Type: uint32(auth.ReadWrite), Key: s.span.Start, RangeEnd: end}
}

// revoke ends the right in one of the ways that there are.
func (a *admin) revoke(l *life, s *userSlot) {
	s.has.end()
	s.sure = false
	role, user := s.roles[len(s.roles)-1], s.user
	kind := []auth.Kind{auth.UserRevokeRole, auth.RoleRevokePermission, auth.RoleDelete, auth.UserDelete}[a.w.rng.IntN(4)]
	a.perform(l, func(ctx context.Context) func() {
		e := &pb.MetaAuth{User: user, Role: role}
		if kind == auth.RoleRevokePermission {
			e.Permission = s.permission()
		}
		err := changeUsers(ctx, l, kind, e)
		rev := int64(0)
		if err == nil {
			rev = newest(ctx, l)
		}
		return func() {
			a.w.note("%s loses role %s by change %d: %v", user, role, kind, err)
			if err == nil {
				if kind == auth.UserDelete {
					s.known = false
				}
				a.lost(s, rev)
			}
		}
	})
}

// lost notes that a right is gone, which was acknowledged before rev was current.
func (a *admin) lost(s *userSlot, rev int64) {
	s.sure = true
	s.gone = a.facts.begin(rev)
	s.losses = append(s.losses, s.gone)
	a.w.stats.Revoked++
}

// clean makes sure that a user has no right, after answers were lost: no role of it is left, and whatever else comes late is of names that are used no
// more. That a role is not there is no acknowledgement; that of a change which comes later is one for all before it.
func (a *admin) clean(l *life, s *userSlot) {
	roles := s.roles
	junk := a.name("role")
	a.perform(l, func(ctx context.Context) func() {
		var err error
		for _, r := range roles {
			if err = changeUsers(ctx, l, auth.RoleDelete, &pb.MetaAuth{Role: r}); err != nil && !errors.Is(err, shard.ErrRoleNotFound) {
				break
			}
			err = nil
		}
		if err == nil {
			err = changeUsers(ctx, l, auth.RoleAdd, &pb.MetaAuth{Role: junk})
		}
		rev := int64(0)
		if err == nil {
			rev = newest(ctx, l)
		}
		return func() {
			a.w.note("%s has no roles: %v", s.user, err)
			if err == nil {
				s.roles, s.known = nil, false
				a.lost(s, rev)
			}
		}
	})
}

// end makes no further change, and clears what alarms there are, again and again: one may be raised late.
func (a *admin) end() {
	a.over = true
	for kind := range a.facts.full {
		a.facts.full[kind].end()
	}
	a.clear()
}

func (a *admin) clear() {
	w := a.w
	again := func() { w.after(time.Second, "alarms", a.clear) }
	l := w.someLife()
	if l == nil || !a.alarms {
		again()
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		st, err := l.client.Alarm(ctx, pb.AlarmList, 0, 0)
		for _, x := range st.GetAlarms() {
			err = errors.Join(err, l.client.SetAlarm(ctx, shard.NodeID(x.MemberId), x.Alarm, false))
		}
		w.post("alarms", 0, func() {
			w.note("%d alarms are cleared: %v", len(st.GetAlarms()), err)
			again()
		})
	}()
}
