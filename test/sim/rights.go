package sim

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/auth"
	"pontoon/internal/etcdapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
	"pontoon/watchfanout"
)

// access is the meta client as etcdapi.Access, as internal/front has it.
type access struct{ client *metaclient.Client }

var _ etcdapi.Access = access{}

var closed = auth.Closed()

// View implements etcdapi.Access.
func (a access) View() *auth.View {
	if v := a.client.Settings().Auth; v != nil {
		return v
	}
	return closed
}

// Lent implements etcdapi.Access.
func (a access) Lent() bool { return a.client.Lent() }

// Borrow implements etcdapi.Access.
func (a access) Borrow(ctx context.Context) error {
	s, err := a.client.Borrow(ctx)
	return known(s, err)
}

// BorrowFunc implements etcdapi.Access.
func (a access) BorrowFunc(cb func(error)) {
	a.client.BorrowFunc(func(s *placement.Settings, err error) { cb(known(s, err)) })
}

func known(s *placement.Settings, err error) error {
	if err == nil && s.Auth == nil {
		return shard.ErrUnavailable
	}
	return err
}

// Change implements etcdapi.Access.
func (a access) Change(ctx context.Context, e *pb.MetaAuth) error { return a.client.ChangeAuth(ctx, e) }

// whoKey has in a context who makes a request.
type whoKey struct{}

// identity believes it.
type identity struct{}

// Who implements etcdapi.Identity.
func (identity) Who(ctx context.Context, _ *auth.View) (shard.Who, error) {
	w, _ := ctx.Value(whoKey{}).(shard.Who)
	return w, nil
}

func (l *life) current(ctx context.Context) (int64, error) {
	now, err := l.client.Current(ctx)
	return now.Revision, err
}

// rights are those of a watcher, who is a user until the end begins: what was taken from the hub is delivered only after the oracle was asked, or under a
// loan, as in internal/etcdapi.
type rights struct {
	who  *userSlot // nil: root
	held []watchfanout.Delivery
}

// drawRights makes a watcher one of a user, where it watches what that may have a right to.
func (x *watcher) drawRights() {
	s := x.w.admin.facts.draw()
	if s != nil && s.span.ContainsSpan(x.span) {
		x.rights.who = s
	}
}

// sure reports whether what was polled may be judged by what is known here. Else it is held until the oracle has been asked.
func (x *watcher) sure(polled []watchfanout.Delivery) bool {
	a := access{x.life.client}
	if x.rights.who == nil || !a.View().Enabled() || a.Lent() {
		return true
	}
	x.rights.held = polled
	opened := x.opened
	a.BorrowFunc(func(err error) {
		x.w.post(fmt.Sprintf("borrowed %d", x.id), 0, func() { x.borrowed(opened, err) })
	})
	return false
}

// borrowed goes on where the oracle has been asked.
func (x *watcher) borrowed(opened int, err error) {
	if x.opened != opened || !x.lives() {
		return
	}
	held := x.rights.held
	x.rights.held = nil
	if err != nil { // the client goes on at another node
		x.w.note("watcher %d: %v", x.id, err)
		x.again()
		return
	}
	if x.deliver(held) {
		x.poll()
	}
}

// mayWatch judges the watcher by what is known here, and ends its stream where it has lost its right.
func (x *watcher) mayWatch() bool {
	s := x.rights.who
	if s == nil {
		return true
	}
	p := s.permission()
	err := access{x.life.client}.View().MayRead(shard.Who{Name: s.user, Known: true}, p.Key, p.RangeEnd)
	if err == nil {
		return true
	}
	f := x.w.admin.facts
	if denied(err) && (f.off.open() || s.has.open()) {
		x.w.failf("rights: watcher %d was told %v, and it has the right (slot %d)", x.id, err, s.no)
	}
	x.w.stats.WatchesEnded++
	x.w.note("watcher %d: %v", x.id, err)
	x.again()
	return false
}

// again opens the watch anew some time later, from where it was.
func (x *watcher) again() {
	x.stream.Close()
	x.opened++
	x.life = nil
	x.rights.held = nil
	x.w.after(x.w.scaled(20*time.Millisecond, time.Second), fmt.Sprintf("watch %d", x.id), x.open)
}
