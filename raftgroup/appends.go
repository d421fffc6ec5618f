package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
)

// appends is what a group has handed to the log writer. It belongs to the step worker.
type appends struct {
	last    uint64       // the last index appended
	state   HardState    // the newest that is known
	saved   HardState    // the newest handed over
	writing int          // tasks under way
	held    []appendTask // while a snapshot is being installed
}

// stateUpdate is an update with room for its hard state: one allocation for both.
type stateUpdate struct {
	Update
	hs HardState
}

// handle takes what must be written. A new commit index alone is not worth a write, but entries take
// along what is known of it by then, whenever it came. A leader changes the configuration again only when
// the change before is committed: who has the later entry then knows that of the earlier one after a
// crash, too, and does not campaign by a configuration that is no more.
func (a *appends) handle(g *group, m *raftpb.Message) {
	task := appendTask{g: g, resps: m.GetResponses()}
	up := &stateUpdate{Update: Update{Group: g.cfg.ID, Entries: m.GetEntries()}}
	if m.Term != nil {
		a.state = HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
		task.term = a.state.Term
	}
	due := a.state != a.saved && !(m.Term == nil && mutate.On(mutate.CommitNotSaved))
	if a.state.Term != a.saved.Term || a.state.Vote != a.saved.Vote || due && len(up.Entries) > 0 {
		a.take(up)
	}
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		a.take(up)
		g.snapshots.install(g, snap, &up.Update, task)
		return
	}
	if up.HardState != nil || len(up.Entries) > 0 {
		task.update = &up.Update
	} else if a.writing == 0 && !g.snapshots.installing {
		a.deliver(g, task.resps)
		return
	}
	a.push(g, task)
}

// take puts the newest hard state into an update.
func (a *appends) take(up *stateUpdate) {
	up.hs, a.saved = a.state, a.state
	up.HardState = &up.hs
}

// push hands a task to the writer, or keeps it back while a snapshot is being installed.
func (a *appends) push(g *group, t appendTask) {
	if t.update != nil && len(t.update.Entries) > 0 {
		t.bytes = bytesOf(t.update.Entries)
		g.h.intake.bytes.Add(t.bytes)
	}
	if g.snapshots.installing {
		a.held = append(a.held, t)
		return
	}
	a.pushNow(g, t)
}

func (a *appends) pushNow(g *group, t appendTask) {
	a.writing++
	g.h.writer.push(t)
}

// release hands over what was kept back.
func (a *appends) release(g *group) {
	held := a.held
	a.held = nil
	for _, t := range held {
		a.pushNow(g, t)
	}
}

// forget is for a group that has stopped: what was kept back is not written any more.
func (a *appends) forget(g *group) {
	for i := range a.held {
		g.h.intake.bytes.Add(-a.held[i].bytes)
	}
	a.held = nil
}

// deliver hands out messages that waited for a write: on the worker.
func (a *appends) deliver(g *group, resps []*raftpb.Message) {
	for _, m := range resps {
		if m.GetTo() == uint64(g.cfg.Replica) {
			g.stepMessage(m)
		} else {
			g.send(m)
		}
	}
}

// catchUp makes a group come back at once if entries are committed, and written, that Raft does
// not know to be written: their writer looked at the commit index before this turn raised it.
func (a *appends) catchUp(g *group) {
	if g.pub.commit.Load() > g.store.state.Last && g.box.saved() {
		g.h.steps.wake(&g.box.slot)
	}
}
