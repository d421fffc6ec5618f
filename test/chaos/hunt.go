package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/shard/router/etcdshim"
	"pontoon/test/history"
)

const (
	// huntedClients is the number of the first client of the user whose right comes and goes.
	huntedClients = 6000
	// huntPause is between two uses of one client, and huntTurn how long a right stays, or stays away, at most.
	huntPause = 25 * time.Millisecond
	huntTurn  = 400 * time.Millisecond
	// settingTry bounds one change of users or alarms: one that is waited for longer may come yet.
	settingTry = 10 * time.Second
	// hunted spans several ranges of the load.
	huntedFrom, huntedTo = "c/", "g0"
)

// span is a time of the history's clock in which something must not happen.
type span struct{ from, to int64 }

// spans are such times. The last one may go on.
type spans struct {
	mu  sync.Mutex
	all []span
}

// begin: from now on.
func (s *spans) begin(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, span{now, history.Never})
}

// end ends the last one, before whatever ends it is asked for.
func (s *spans) end(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n > 0 && s.all[n-1].to == history.Never {
		s.all[n-1].to = now
	}
}

// within reports whether something that began and ended when it did lies within one of them.
func (s *spans) within(call, ret int64) bool {
	i, _ := slices.BinarySearchFunc(s.all, call, func(x span, at int64) int {
		if x.to < at {
			return -1
		}
		return 1
	})
	return i < len(s.all) && s.all[i].from <= call && ret <= s.all[i].to
}

// hunt uses a right through every node and gateway, by watches and by a routing client, while it comes and goes, and raises the alarm NOSPACE now and then. What is
// judged is the history: nothing of the user that began after a revocation was acknowledged had success before the next grant was asked for, no watch
// of it was given what was written in that time, and nobody made the store larger between the alarm and the request to clear it.
type hunt struct {
	o     *ordeal
	rng   *rand.Rand // under mu
	mu    sync.Mutex // held through a turn
	gone  spans
	full  spans
	roles []string // that the user has, or may have
	no    int
	ends  int // revocations that were acknowledged
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// begin lets the user work, who has no right yet.
func (h *hunt) begin(ctx context.Context) error {
	ctx, h.stop = context.WithCancel(ctx)
	h.gone.begin(h.o.rec.Now())
	var clients []*clientv3.Client
	for _, n := range h.o.doors() {
		cl, err := h.o.connectAs(huntedUser, n)
		if err != nil {
			return err
		}
		clients = append(clients, cl)
	}
	cfg := h.o.clientConfig(h.o.c.Nodes...)
	cfg.TLS = h.o.security.hunted // its calls go to the leaders: who logs in takes the ordinary way
	direct, err := etcdshim.New(cfg)
	if err != nil {
		return err
	}
	for i, cl := range append(clients, direct) {
		h.o.clients = append(h.o.clients, cl)
		c, rng := h.o.rec.Client(huntedClients+i, cl), rand.New(rand.NewPCG(h.o.cfg.seed, uint64(huntedClients+i)))
		h.wg.Go(func() { h.use(ctx, c, rng, fmt.Sprintf("hunt%d", i)) })
		if i == 0 || i == len(clients)-1 {
			w := h.o.rec.Client(huntedClients+100+i, cl)
			h.wg.Go(func() { h.watch(ctx, w) })
		}
	}
	return nil
}

// use makes requests of all kinds that need the right.
func (h *hunt) use(ctx context.Context, c *history.Client, rng *rand.Rand, name string) {
	low, high := "c/"+name, "f/"+name
	for i := 0; pause(ctx, huntPause); i++ {
		value := fmt.Sprintf("%s.%d", name, i)
		cmd := []history.Cmd{
			{Kind: history.Put, Key: low, Value: value},
			{Kind: history.Range, Key: "d/", End: "f0", Limit: 3},
			{Kind: history.Range, Key: "d/", End: "d0"}, // which the last gateway mirrors
			{Kind: history.Range, Key: high},
			{Kind: history.Range, Key: low, Serializable: true},
			{Kind: history.Delete, Key: high},
			{Kind: history.Txn, Then: []history.Cmd{{Kind: history.Put, Key: low, Value: value + ".a"}, {Kind: history.Put, Key: high, Value: value + ".b"}}},
			{Kind: history.Txn, Cmps: []history.Cmp{{Key: low, Target: "version", Op: "<", Number: 0}}, Then: []history.Cmd{{Kind: history.Put, Key: low, Value: value}}, Else: []history.Cmd{{Kind: history.Range, Key: high}}},
		}[rng.IntN(8)]
		one, cancel := context.WithTimeout(ctx, 3*time.Second)
		c.Do(one, cmd)
		cancel()
	}
}

// watch watches what the user may see, again and again.
func (h *hunt) watch(ctx context.Context, c *history.Client) {
	for pause(ctx, huntPause) {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		w := c.Watch(one, huntedFrom, huntedTo, 0)
		select {
		case <-w.Done():
		case <-one.Done():
		}
		w.Stop()
		cancel()
	}
}

// turn gives the right, waits, and takes it, unless a turn is under way.
func (h *hunt) turn(ctx context.Context) {
	if !h.mu.TryLock() {
		return
	}
	defer h.mu.Unlock()
	cl, err := h.o.connect(h.o.c.Nodes...)
	if err != nil {
		return
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	pause(ctx, time.Duration(h.rng.Int64N(int64(huntTurn))))
	h.gone.end(h.o.rec.Now())
	clean := h.grant(ctx, cl)
	pause(ctx, time.Duration(h.rng.Int64N(int64(huntTurn))))
	if h.revoke(ctx, cl, clean) {
		h.gone.begin(h.o.rec.Now())
		h.ends++
	}
}

// grant gives the right by a role that never was before, so that what comes late has no effect on a later one. false: it may be there or not.
func (h *hunt) grant(ctx context.Context, cl *clientv3.Client) bool {
	h.no++
	role := fmt.Sprintf("hunted%d", h.no)
	h.roles = append(h.roles, role)
	ctx, cancel := context.WithTimeout(ctx, settingTry)
	defer cancel()
	return told(cl.RoleAdd(ctx, role)) == nil &&
		told(cl.RoleGrantPermission(ctx, role, huntedFrom, huntedTo, clientv3.PermissionType(clientv3.PermReadWrite))) == nil &&
		told(cl.UserGrantRole(ctx, huntedUser, role)) == nil && len(h.roles) == 1
}

// revoke takes it in one of three ways, until that is acknowledged; where answers were lost it deletes every role that may be there. Whoever is told that
// a role is not there knows that it is going; that it has gone is known with the acknowledgement of a later change.
func (h *hunt) revoke(ctx context.Context, cl *clientv3.Client, clean bool) bool {
	how := h.rng.IntN(3)
	for try := 0; pause(ctx, time.Duration(min(try, 1))*100*time.Millisecond); try++ {
		one, cancel := context.WithTimeout(ctx, settingTry)
		var err error
		switch {
		case clean && try == 0 && how == 0:
			err = told(cl.UserRevokeRole(one, huntedUser, h.roles[0]))
		case clean && try == 0 && how == 1:
			err = told(cl.RoleRevokePermission(one, h.roles[0], huntedFrom, huntedTo))
		case clean && try == 0:
			err = told(cl.RoleDelete(one, h.roles[0]))
		default:
			for _, role := range h.roles {
				if err = told(cl.RoleDelete(one, role)); err != nil && !errors.Is(err, rpctypes.ErrRoleNotFound) {
					break
				}
				err = nil
			}
			if err == nil {
				err = told(cl.RoleAdd(one, fmt.Sprintf("barrier%d-%d", h.no, try)))
			}
		}
		cancel()
		if err == nil {
			h.roles = nil
			return true
		}
	}
	return false
}

// turns goes on until ctx ends.
func (h *hunt) turns(ctx context.Context) {
	for ctx.Err() == nil {
		h.turn(ctx)
		pause(ctx, 10*time.Millisecond)
	}
}

// along makes one turn without waiting for it.
func (h *hunt) along(ctx context.Context) { h.wg.Go(func() { h.turn(ctx) }) }

// finish ends the work.
func (h *hunt) finish() {
	h.stop()
	h.wg.Wait()
}

// judge holds the history against the times in which something must not happen.
func (h *hunt) judge(hist *history.History, f *findings) {
	uses, refused := 0, 0
	written := map[string]int64{} // when a value was asked for
	for _, op := range hist.Ops {
		eachPut(&op.Cmd, func(c *history.Cmd) { written[c.Value] = op.Call })
		if op.Fate == history.OK && grows(op) && h.full.within(op.Call, op.Return) {
			f.found("NOSPACE was raised, and %s had success: %+v", op.Cmd.Kind, op)
		}
		if op.Client < huntedClients {
			continue
		}
		switch {
		case op.Fate != history.OK:
			refused++
		case h.gone.within(op.Call, op.Return):
			f.found("a right was gone, and %s had success: %+v", op.Cmd.Kind, op)
		default:
			uses++
		}
	}
	events := 0
	for _, w := range hist.Watches {
		for _, r := range w.Responses {
			for _, e := range r.Events {
				if w.Client < huntedClients || e.Del {
					continue
				}
				events++
				if call, known := written[e.KV.Value]; known && h.gone.within(call, r.At) {
					f.found("a right was gone, and a watch of client %d was given %+v, which was written then", w.Client, e)
				}
			}
		}
	}
	f.say("%d revocations and %d alarms acknowledged; %d uses of the right, %d refused or unknown, %d events of it", h.ends, len(h.full.all), uses, refused, events)
	if h.ends > 0 && uses == 0 {
		f.found("the right was never used: the hunt has not hunted")
	}
}

// eachPut calls fn for every put of a command.
func eachPut(c *history.Cmd, fn func(*history.Cmd)) {
	if c.Kind == history.Put {
		fn(c)
	}
	for _, branch := range [][]history.Cmd{c.Then, c.Else} {
		for i := range branch {
			eachPut(&branch[i], fn)
		}
	}
}

// grows reports whether an answered command may have made the store larger.
func grows(op *history.Op) (yes bool) {
	if op.Cmd.Kind == history.Grant {
		return true
	}
	eachPut(&op.Cmd, func(*history.Cmd) { yes = true })
	return yes
}

// revoking lets the right come and go as fast as it can.
func revoking(ctx context.Context, o *ordeal) (*injury, error) {
	return o.during(ctx, "a right comes and goes", o.hunt.turns), nil
}

// noSpace raises the alarm, and half of the time kills or stops some nodes meanwhile. Nobody can write until it is cleared.
func noSpace(ctx context.Context, o *ordeal) (*injury, error) {
	cl, err := o.connect(o.c.Nodes...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	one, cancel := context.WithTimeout(ctx, settingTry)
	defer cancel()
	members, err := cl.MemberList(one)
	if err != nil {
		return nil, err
	}
	of := members.Members[o.rng.IntN(len(members.Members))].ID
	_, err = etcdserverpb.NewMaintenanceClient(cl.ActiveConnection()).Alarm(one, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_ACTIVATE, MemberID: of, Alarm: etcdserverpb.AlarmType_NOSPACE})
	if err != nil {
		return nil, errors.Join(err, o.hunt.disarm(ctx))
	}
	o.hunt.full.begin(o.rec.Now())
	in := &injury{text: "NOSPACE", heal: func(context.Context) error { return nil }}
	if how := o.rng.IntN(4); how < 2 {
		worse, err := []func(context.Context, *ordeal) (*injury, error){kill, stop}[how](ctx, o)
		if err != nil {
			return nil, errors.Join(err, o.hunt.disarm(ctx))
		}
		in = worse
		in.text, in.healthy = "NOSPACE, "+in.text, nil
	}
	heal := in.heal
	in.heal = func(ctx context.Context) error { return errors.Join(heal(ctx), o.hunt.disarm(ctx)) }
	return in, nil
}

// disarm clears what alarms there are.
func (h *hunt) disarm(ctx context.Context) error {
	h.full.end(h.o.rec.Now())
	cl, err := h.o.connect(h.o.c.Nodes...)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	return eventually(ctx, readyLimit, func(ctx context.Context) error {
		one, cancel := context.WithTimeout(ctx, settingTry)
		defer cancel()
		if _, err := cl.AlarmDisarm(one, &clientv3.AlarmMember{}); err != nil {
			return err
		}
		left, err := cl.AlarmList(one)
		if err == nil && len(left.Alarms) > 0 {
			err = fmt.Errorf("%d alarms are left", len(left.Alarms))
		}
		return err
	})
}
