package raftgroup

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/mutate"
)

// appendTask is one group's write and what may happen only after it. Without an update it only
// waits for those before it.
type appendTask struct {
	g      *group // nil: of a group that is not here
	update *Update
	bytes  int64  // of its entries, as intake counts them
	term   uint64 // of the hard state, 0: unchanged
	resps  []*raftpb.Message
	then   func() // runs after the write, on the writer
}

// logWriter makes the appends of all groups durable, as many with one write as have come in
// during the write before.
type logWriter struct {
	h  *Host
	mu struct {
		sync.Mutex
		tasks  []appendTask
		closed bool
	}
	more sync.Cond // waits on mu
}

func newLogWriter(h *Host) *logWriter {
	w := &logWriter{h: h}
	w.more.L = &w.mu
	return w
}

func (w *logWriter) push(t appendTask) {
	w.mu.Lock()
	w.mu.tasks = append(w.mu.tasks, t)
	w.mu.Unlock()
	w.more.Signal()
}

func (w *logWriter) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mu.tasks)
}

func (w *logWriter) close() {
	w.mu.Lock()
	w.mu.closed = true
	w.mu.Unlock()
	w.more.Broadcast()
}

func (w *logWriter) take(wait bool) []appendTask {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wait && len(w.mu.tasks) == 0 && !w.mu.closed {
		w.more.Wait()
	}
	if w.mu.closed {
		return nil
	}
	tasks := w.mu.tasks
	w.mu.tasks = nil
	return tasks
}

func (w *logWriter) loop() {
	for w.writeOnce(true) {
	}
}

// writeOnce writes what has gathered, and then lets out what waited for it. It reports whether
// there was anything.
func (w *logWriter) writeOnce(wait bool) bool {
	tasks := w.take(wait)
	if len(tasks) == 0 {
		return false
	}
	batch := make([]Update, 0, len(tasks))
	for i := range tasks {
		if tasks[i].update != nil {
			batch = append(batch, *tasks[i].update)
			if mutate.On(mutate.UnsyncedLog) {
				batch[len(batch)-1].Lazy = true
			}
		}
	}
	if len(batch) > 0 {
		if err := w.h.cfg.Log.Save(batch); err != nil {
			w.h.fatal(fmt.Errorf("raftgroup: save the logs of %d groups: %w", len(batch), err))
			return false
		}
	}
	for i := range tasks {
		tasks[i].written()
	}
	w.h.nodes.flush()
	return true
}

// written lets out the messages that waited for the write. Those to the own replica keep their
// order: Raft wants its own acknowledgement before the news that the entries are stable.
func (t *appendTask) written() {
	g := t.g
	if g == nil {
		t.finish()
		return
	}
	if t.bytes != 0 {
		g.h.intake.bytes.Add(-t.bytes)
	}
	if t.term > g.pub.savedTerm.Load() {
		g.pub.savedTerm.Store(t.term) // only the writer stores it
	}
	var own []*raftpb.Message
	for _, m := range t.resps {
		if m.GetTo() == uint64(g.cfg.Replica) {
			own = append(own, m)
		} else if g.box.stoppedBy() == nil {
			g.postMessage(m)
		}
	}
	g.box.putIf(func(in *inbox) bool {
		in.msgs = append(in.msgs, own...)
		in.saved++
		return !t.followers(own)
	})
	if t.followers(own) && g.pub.commit.Load() >= t.update.Entries[0].GetIndex() {
		g.h.steps.wake(&g.box.slot) // there is something to apply; see appends.catchUp
	}
	t.finish()
}

func (t *appendTask) finish() {
	if t.then != nil {
		t.then()
	}
}

// followers reports whether the write is one that nothing waits for here: of entries of a follower,
// which has acknowledged them to the leader. Raft hears of it when they are committed, or with
// whatever comes next.
func (t *appendTask) followers(own []*raftpb.Message) bool {
	return t.g.pub.leadTerm.Load() == 0 && t.update != nil && len(t.update.Entries) > 0 && t.then == nil &&
		len(own) == 1 && own[0].GetType() == raftpb.MsgStorageAppendResp && own[0].Snapshot == nil
}
