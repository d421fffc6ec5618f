package raftgroup

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// applyTask is one thing for a group's state machine or observer.
type applyTask struct {
	ents    []*raftpb.Entry
	resps   []*raftpb.Message
	event   *Leadership
	install func() error
	poll    bool // only ask how far the state machine is durable
}

// heldApplies bounds the runs of entries that Raft has not been told about.
const heldApplies = 64

// applyLane is a group's queue of applies. Everything in it runs in order, one at a time.
type applyLane struct {
	slot slot
	mu   struct {
		sync.Mutex
		tasks   []applyTask
		polling bool // a poll is among tasks
	}
	running sync.Mutex  // held during a turn of the lane; contended only by RemoveGroup
	waits   atomic.Bool // entries wait until they are tried again

	// Owned by the apply worker.
	leads   uint64 // the term that this replica leads, as the observer was told
	ownTold uint64
	broken  bool // the state machine has failed: nothing is applied any more
	// waiting is what is handed over again at the next turn, behind a *Later. Raft hands out no more than MaxApplyBytes beyond what has been applied.
	waiting applyTask
}

func (l *applyLane) push(g *group, t applyTask) {
	l.mu.Lock()
	if !t.poll || !l.mu.polling { // one asks for all
		l.mu.tasks = append(l.mu.tasks, t)
		l.mu.polling = l.mu.polling || t.poll
	}
	l.mu.Unlock()
	g.h.applies.wake(&l.slot)
}

func (l *applyLane) take() []applyTask {
	l.mu.Lock()
	defer l.mu.Unlock()
	tasks := l.mu.tasks
	l.mu.tasks, l.mu.polling = nil, false
	return tasks
}

// turn is one visit of an apply worker. Runs of committed entries go to the state machine
// in one call. A group that has stopped applies nothing, but its observer hears of it. What is no entry does not wait for one that has to:
// of a leadership one may hear before what was committed earlier is applied in any case.
func (l *applyLane) turn(g *group) {
	l.running.Lock()
	defer l.running.Unlock()
	run := l.waiting
	for _, t := range l.take() {
		if len(t.ents) > 0 {
			run.ents = append(run.ents, t.ents...)
			run.resps = append(run.resps, t.resps...)
			continue
		}
		run = l.run(g, run)
		if t.install != nil && len(run.ents) > 0 {
			if mutate.On(mutate.LaterNoSnapshot) {
				continue
			}
			g.box.put(func(in *inbox) { in.applied = append(in.applied, appliedItem{resps: run.resps}) }) // the snapshot has what they do, and Raft counts them
			run = applyTask{}
		}
		l.other(g, t)
	}
	l.waiting = l.run(g, run)
	l.waits.Store(len(l.waiting.ents) > 0)
}

// Retry has a host hand a group's state machine what that could not apply yet: see Later. It does not block.
func Retry(h *Host, id shard.RangeID) {
	if g := h.group(id); g != nil {
		h.applies.wake(&g.lane.slot)
	}
}

func (l *applyLane) other(g *group, t applyTask) {
	switch {
	case t.event != nil:
		l.leads = 0
		if t.event.IsLeader {
			l.leads = t.event.Term
		}
		if g.cfg.Observer != nil {
			g.cfg.Observer.LeaderChanged(*t.event)
		}
	case g.box.stoppedBy() != nil:
	case t.install != nil && !l.broken:
		if err := t.install(); err != nil {
			g.fail(fmt.Errorf("install a snapshot: %w", err))
		}
	case t.poll:
		g.pub.durable.Store(g.cfg.SM.Durable())
		g.box.put(func(*inbox) {})
	}
}

// run applies committed entries and tells Raft. It returns those that have to wait.
func (l *applyLane) run(g *group, t applyTask) (rest applyTask) {
	if len(t.ents) == 0 || g.box.stoppedBy() != nil || g.cfg.Lost || l.broken {
		return rest
	}
	ents := make([]Entry, len(t.ents))
	var item appliedItem
	for i, e := range t.ents {
		ents[i] = Entry{Index: e.GetIndex(), Term: e.GetTerm()}
		if e.GetType() == raftpb.EntryNormal {
			ents[i].Data = e.GetData()
		} else if err := item.change(g, e, &ents[i]); err != nil {
			l.fail(g, err)
			return rest
		}
	}
	err := g.cfg.SM.Apply(ents)
	if at := l.later(ents, err); at >= 0 {
		if !l.waits.Swap(true) {
			g.log.Warn("entries wait to be applied", "why", err)
		}
		rest = applyTask{ents: t.ents[at:], resps: t.resps}
		t = applyTask{ents: t.ents[:at]}
		if at == 0 {
			return rest
		}
		item.confs = slices.DeleteFunc(item.confs, func(e *raftpb.Entry) bool { return e.GetIndex() >= ents[at].Index })
	} else if err != nil {
		l.fail(g, fmt.Errorf("apply entries %d to %d: %w", ents[0].Index, ents[len(ents)-1].Index, err))
		return rest
	}
	l.tell(g, t, item)
	return rest
}

// later is which of the entries the state machine cannot apply yet; -1: none.
func (l *applyLane) later(ents []Entry, err error) int {
	var later *Later
	if !errors.As(err, &later) {
		return -1
	}
	return slices.IndexFunc(ents, func(e Entry) bool { return e.Index == later.Index })
}

func (l *applyLane) fail(g *group, why error) {
	l.broken = true
	g.box.call(func() { g.handover.begin(g, why) })
}

// tell lets Raft and the observer know what has been applied.
func (l *applyLane) tell(g *group, t applyTask, item appliedItem) {
	own := false
	size := uint64(0)
	for _, e := range t.ents {
		size += uint64(len(e.GetData()))
		own = own || e.GetTerm() == l.leads
	}
	if len(item.confs) > 0 {
		item.places = g.cfg.places()
	}
	end := t.ents[len(t.ents)-1]
	item.resps, item.last = t.resps, Position{end.GetIndex(), end.GetTerm()}
	g.pub.applied.Store(end.GetIndex())
	g.pub.durable.Store(g.cfg.SM.Durable())
	// Raft needs to know for its limits, and for changes of the configuration: else it can wait.
	g.box.putIf(func(in *inbox) bool {
		in.applied = append(in.applied, item)
		in.bytes += size
		return len(item.confs) > 0 || in.bytes >= g.h.cfg.MaxApplyBytes/4 || len(in.applied) >= heldApplies
	})
	if own && l.ownTold != l.leads {
		l.ownTold = l.leads
		if g.cfg.Observer != nil {
			g.cfg.Observer.OwnTermApplied(l.leads)
		}
	}
}

// change takes a change of the configuration: its context goes to the state machine, and a snapshot that is
// written from here on carries what it leads to. Raft hears of it when it has been applied.
func (it *appliedItem) change(g *group, e *raftpb.Entry, to *Entry) error {
	cc, err := confChangeOf(e)
	if err != nil {
		return err
	}
	it.confs, to.Context = append(it.confs, e), cc.GetContext()
	if to.Context == nil {
		to.Context = []byte{}
	}
	ahead := g.members.latest()
	if e.GetIndex() <= ahead.Index {
		return nil // in the configuration that was recovered, or came with a snapshot
	}
	if ahead, err = ahead.after(cc, e.GetIndex()); err == nil {
		g.members.ahead.Store(&ahead)
	}
	return err
}
