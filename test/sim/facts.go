package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/shard/router"
)

// fact is what is certain about the settings from one moment on, the acknowledgement of a change, to another, at which the next was asked for.
// The nil fact is over.
type fact struct {
	from, to time.Time
	rev      int64 // that was current after it began; 0: not known
	over     bool
	unheard  map[shard.NodeID]bool // nodes out of reach when it began: they are not waited for longer than a loan lasts
}

func (f *fact) open() bool { return f != nil && !f.over }

func (f *fact) end() {
	if f.open() {
		f.over, f.to = true, time.Now()
	}
}

// holds reports whether it held when something was seen of a write that got its revision after the fact began.
func (f *fact) holds(seen time.Time) bool { return f.open() || f != nil && seen.Before(f.to) }

func allOpen(all []*fact) bool {
	return !slices.ContainsFunc(all, func(f *fact) bool { return !f.open() })
}

// facts are what may be demanded of requests.
type facts struct {
	w       *world
	on, off *fact           // authentication is
	full    map[int32]*fact // an alarm of a kind is raised
	room    *fact           // none is
	slots   []*userSlot
	raised  []*fact // all that full has had
	ons     []*fact // all that on has been
}

func newFacts(w *world) *facts {
	f := &facts{w: w, full: map[int32]*fact{}}
	f.off, f.room = f.begin(0), f.begin(0)
	middle := []byte{byte('a' + w.cfg.Ranges/2)}
	for i, s := range []shard.Span{shard.All, {Start: []byte("a"), End: middle}, {Start: middle, End: nil}} {
		f.slots = append(f.slots, &userSlot{no: i, span: s, user: fmt.Sprintf("nobody%d", i), sure: true})
	}
	// Nobody has had a right yet.
	for _, s := range f.slots {
		s.gone = f.begin(0)
	}
	return f
}

func (f *facts) begin(rev int64) *fact {
	n := &fact{from: time.Now(), rev: rev, unheard: map[shard.NodeID]bool{}}
	for _, node := range f.w.nodes {
		if node.outOfReach() {
			n.unheard[node.id] = true
		}
	}
	return n
}

// unknown reports whether nobody knows if authentication is on.
func (f *facts) unknown() bool { return !f.on.open() && !f.off.open() }

// demand is what the facts say of a request, from when it began.
type demand struct {
	who     *userSlot // nil: root, or anybody
	anybody bool
	foreign bool      // no user has a right to its keys but root
	forbids [][]*fact // the request must not succeed where all of one list hold
	full    []*fact   // it must not be carried out while one of them holds
	allows  [][]*fact // it must not be refused for who makes it where all of one list have held all the time
	room    *fact     // nor for an alarm
	unheard bool      // its node did not know, when it began, that authentication was on: it does not look who asks
}

// name is who the request says that it comes from.
func (d *demand) name() shard.Who {
	switch {
	case d.anybody:
		return shard.Who{}
	case d.who == nil:
		return shard.Who{Name: auth.Root, Known: true}
	}
	return shard.Who{Name: d.who.user, Known: true}
}

// draw invents who makes the next request.
func (f *facts) draw() *userSlot {
	if f.w.admin.rights && f.w.roll(0.6) {
		return f.slots[f.w.rng.IntN(len(f.slots))]
	}
	return nil
}

// keys are those that a request names.
func (o *op) keys() []shard.Span {
	if o.write != nil {
		return router.OpSpans(o.write)
	}
	return []shard.Span{shard.FromEtcd(o.read.Key, o.read.RangeEnd)}
}

// covers reports whether all keys of a request are in the span that the user has a right to, or not.
func (s *userSlot) covers(o *op) bool {
	for _, x := range o.keys() {
		if !s.span.ContainsSpan(x) {
			return false
		}
	}
	return true
}

// demand says what may be demanded of a request that begins now.
func (f *facts) demand(who *userSlot, o *op) demand {
	d := demand{who: who, unheard: !access{o.life.client}.View().Enabled()}
	cutOff := o.serial && d.unheard && f.on != nil && f.on.unheard[o.life.n.id] // it answers, as etcd's does
	if who == nil && f.w.admin.rights && (f.off.open() && f.w.roll(0.5) || f.w.roll(0.1)) {
		d.anybody = true
	}
	switch {
	case len(o.keys()) == 0: // a transaction of nothing is anybody's
		d.allows = append(d.allows, nil)
	case cutOff:
	case d.anybody:
		d.forbids = append(d.forbids, []*fact{f.on})
		d.allows = append(d.allows, []*fact{f.off})
	case who == nil:
		d.allows = append(d.allows, []*fact{f.off}, []*fact{f.on})
	case !who.covers(o):
		d.foreign = true
		d.forbids = append(d.forbids, []*fact{f.on})
		d.allows = append(d.allows, []*fact{f.off})
	default:
		d.forbids = append(d.forbids, []*fact{f.on, who.gone})
		d.allows = append(d.allows, []*fact{f.off}, []*fact{f.on, who.has})
	}
	if o.write != nil {
		d.room = f.room
		if placement.Writes(o.write) {
			d.full = append(d.full, f.full[placement.AlarmCorrupt])
		}
		if placement.Grows(o.write) {
			d.full = append(d.full, f.full[placement.AlarmNoSpace])
		}
	}
	return d
}

// succeeded is told of a request that had success now.
func (d *demand) succeeded(o *op) error {
	for _, all := range d.forbids {
		if allOpen(all) {
			return fmt.Errorf("rights: %v had success, and its right was gone before it began (%s)", o, d.text())
		}
	}
	for _, f := range d.full {
		if o.wrote && f.open() {
			return fmt.Errorf("alarms: %v was carried out, and an alarm was raised before it began", o)
		}
	}
	return nil
}

func (d *demand) text() string {
	if d.who == nil {
		return "nobody"
	}
	return fmt.Sprintf("slot %d, %v", d.who.no, d.who.span)
}

// refused is told of a request that was refused now.
func (d *demand) refused(o *op, err error) error {
	switch {
	case noRoom(err):
		if d.room.open() {
			return fmt.Errorf("alarms: %v was told %v, and none was raised", o, err)
		}
	case errors.Is(err, shard.ErrUserEmpty) && d.unheard: // as in etcd; clients log in again and ask again
	case denied(err):
		for _, all := range d.allows {
			if allOpen(all) {
				return fmt.Errorf("rights: %v was told %v, and it had the right all the time (%s)", o, err, d.text())
			}
		}
	}
	return nil
}

// noRoom reports whether a request was refused for an alarm.
func noRoom(err error) bool {
	return errors.Is(err, shard.ErrNoSpace) || errors.Is(err, shard.ErrClusterCorrupt)
}

// denied reports whether a request was refused for who makes it.
func denied(err error) bool {
	return errors.Is(err, shard.ErrPermissionDenied) || errors.Is(err, shard.ErrUserEmpty) || errors.Is(err, shard.ErrInvalidAuthToken)
}

// effect judges a revision that a request was given, which was first seen at a moment.
func (d *demand) effect(o *op, seen time.Time) error {
	for _, all := range d.forbids {
		held := true
		for _, f := range all {
			held = held && f.holds(seen)
		}
		if held {
			return fmt.Errorf("rights: %v was carried out, and its right was gone before it began (%s)", o, d.text())
		}
	}
	for _, f := range d.full {
		if f.holds(seen) {
			return fmt.Errorf("alarms: %v was carried out, and an alarm was raised before it began", o)
		}
	}
	return nil
}

// after reports whether a revision was allocated after a fact began, and seen before it ended.
func (f *fact) after(r *revision) bool { return f.rev > 0 && r.rev > f.rev && f.holds(r.seen) }

// revision judges one of the history, and whose it is, whenever that was begun; o is nil where nobody asked for it.
func (f *facts) revision(r *revision, o *op) error {
	grows := slices.ContainsFunc(r.changes, func(c change) bool { return !c.del })
	for _, p := range f.raised {
		if grows && p.after(r) {
			return fmt.Errorf("alarms: revision %d is %v; an alarm was raised before %d was current, and nobody had asked for its end", r.rev, r.changes, p.rev)
		}
	}
	if o == nil {
		return nil
	}
	if err := o.demand.effect(o, r.seen); err != nil || o.demand.who == nil {
		return err
	}
	for _, on := range f.ons {
		if o.demand.foreign && on.after(r) {
			return fmt.Errorf("rights: %v was given revision %d, and has no right to its keys", o, r.rev)
		}
		for _, gone := range o.demand.who.losses {
			if on.after(r) && gone.after(r) {
				return fmt.Errorf("rights: %v was given revision %d; its right was gone before %d was current", o, r.rev, max(on.rev, gone.rev))
			}
		}
	}
	return nil
}

// event judges a revision that the watcher of a user is given now: nothing that was written after the right was gone.
func (f *facts) event(s *userSlot, rev int64) error {
	if s == nil || !f.on.open() || !s.gone.open() {
		return nil
	}
	known := f.on.rev > 0 && s.gone.rev > 0
	if since := max(f.on.rev, s.gone.rev); known && rev > since {
		return fmt.Errorf("rights: a watch of slot %d was given revision %d; its right was gone before %d was current", s.no, rev, since)
	}
	return nil
}

// stripLeases takes the leases out of an op: who attaches a key to one must have a right to all keys of it.
func stripLeases(o *pb.Op) {
	if o.Put != nil {
		o.Put.Lease = 0
	}
	for _, branch := range [][]*pb.Op{o.GetTxn().GetSuccess(), o.GetTxn().GetFailure()} {
		for _, in := range branch {
			stripLeases(in)
		}
	}
}
