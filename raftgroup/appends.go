package raftgroup

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// appends is what a group has handed to the log writer. It belongs to the step worker.
type appends struct {
	last    uint64       // the last index appended
	saved   HardState    // the newest handed over
	writing int          // tasks under way
	held    []appendTask // while a snapshot is being installed
}

// handle takes what must be written. A new commit index alone is not worth a write: Raft
// finds it again.
func (a *appends) handle(g *group, m *raftpb.Message) {
	task := appendTask{g: g, resps: m.GetResponses()}
	up := Update{Group: g.cfg.ID, Entries: m.GetEntries()}
	if m.Term != nil {
		hs := HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
		if hs.Term != a.saved.Term || hs.Vote != a.saved.Vote || len(up.Entries) > 0 {
			up.HardState = &hs
		}
		a.saved = hs
		task.term = hs.Term
	}
	if snap := m.GetSnapshot(); !raft.IsEmptySnap(snap) {
		g.snapshots.install(g, snap, up, task)
		return
	}
	if up.HardState != nil || len(up.Entries) > 0 {
		task.update = &up
	} else if a.writing == 0 && !g.snapshots.installing {
		a.deliver(g, task.resps)
		return
	}
	a.push(g, task)
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
