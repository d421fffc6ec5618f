package raftgroup

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
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
	running sync.Mutex // held during a turn of the lane; contended only by RemoveGroup

	// Owned by the apply worker.
	leads   uint64 // the term that this replica leads, as the observer was told
	ownTold uint64
	broken  bool // the state machine has failed: nothing is applied any more
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
// in one call. A group that has stopped applies nothing, but its observer hears of it.
func (l *applyLane) turn(g *group) {
	l.running.Lock()
	defer l.running.Unlock()
	var run applyTask
	for _, t := range l.take() {
		if len(t.ents) > 0 {
			run.ents = append(run.ents, t.ents...)
			run.resps = append(run.resps, t.resps...)
			continue
		}
		l.run(g, run)
		run = applyTask{}
		l.other(g, t)
	}
	l.run(g, run)
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

// run applies committed entries and tells Raft.
func (l *applyLane) run(g *group, t applyTask) {
	if len(t.ents) == 0 || g.box.stoppedBy() != nil || g.cfg.Lost || l.broken {
		return
	}
	ents := make([]Entry, len(t.ents))
	item := appliedItem{resps: t.resps}
	own := false
	size := uint64(0)
	for i, e := range t.ents {
		size += uint64(len(e.GetData()))
		ents[i] = Entry{Index: e.GetIndex(), Term: e.GetTerm()}
		if e.GetType() == raftpb.EntryNormal {
			ents[i].Data = e.GetData()
		} else if err := item.change(g, e, &ents[i]); err != nil {
			l.broken = true
			g.box.call(func() { g.handover.begin(g, err) })
			return
		}
		own = own || e.GetTerm() == l.leads
	}
	if err := g.cfg.SM.Apply(ents); err != nil {
		l.broken = true
		err = fmt.Errorf("apply entries %d to %d: %w", ents[0].Index, ents[len(ents)-1].Index, err)
		g.box.call(func() { g.handover.begin(g, err) })
		return
	}
	if len(item.confs) > 0 {
		item.places = g.cfg.places()
	}
	end := ents[len(ents)-1]
	item.last = Position{end.Index, end.Term}
	g.pub.applied.Store(end.Index)
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
