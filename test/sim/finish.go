package sim

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// The cluster must be well again within these times, once everything works.
const (
	liveWithin    = 40 * time.Second
	leaveWithin   = 90 * time.Second
	leasesWithin  = 90 * time.Second
	watchesWithin = 30 * time.Second
)

// finish waits until the cluster is well again, and judges the whole run.
func (w *world) finish() error {
	f := &final{w: w}
	steps := []struct {
		what  string
		limit time.Duration
		begin func()
		done  func() bool
	}{
		{"who was removed is gone", leaveWithin, func() {}, f.gone},
		{"all ops are over", liveWithin, f.askOps, func() bool { return f.ops == 0 }},
		{"every node serves every range", liveWithin, f.knock, f.served},
		{"all clients have their answers", liveWithin, func() {}, f.answered},
		{"all leases have ended", leasesWithin, f.askLeases, f.leaseless},
		{"all replicas are equal and hold no locks", liveWithin, func() {}, f.equal},
		{"what was given up is deleted", liveWithin, f.refresh, f.clean},
		{"all watchers have heard everything", watchesWithin, f.lastWords, f.watched},
	}
	for _, s := range steps {
		s.begin()
		if !w.loop(s.limit, s.done) {
			if w.err == nil {
				w.failf("liveness: within %v of the end of all faults: %s: %s", s.limit, s.what, f.last)
			}
			return w.err
		}
	}
	for d := range w.newest().All() {
		w.inspector.compareRange(d.ID)
	}
	if w.err != nil {
		return w.err
	}
	if err := w.checkWatchers(); err != nil {
		return err
	}
	return w.replay()
}

// final is what the end of a run waits for.
type final struct {
	w      *world
	ops    int    // under way, as the meta group says; -1: not known yet
	knocks int    // writes that have no success yet
	leases int    // as the meta group says; -1: not known yet
	end    int64  // the last revision; -1: not known yet
	last   string // why it is not over
}

// gone: a member that was removed has nothing any more, and has ended.
func (f *final) gone() bool {
	g := &f.w.guest
	if !g.leaves || g.node.gone {
		return true
	}
	f.last = "a member was removed, and still there"
	if g.node.life != nil {
		f.last += ": " + g.node.life.holdings()
	}
	return false
}

// present are the nodes that are not gone for good.
func (w *world) present() []*node {
	return slices.DeleteFunc(w.processes(), func(n *node) bool { return n.gone })
}

// knock writes to every range through every node.
func (f *final) knock() {
	for _, n := range f.w.present() {
		for d := range f.w.newest().All() {
			i := slices.IndexFunc(f.w.layout.keys, d.Span.Contains)
			if i >= 0 { // else it is of no use to anybody
				f.knocks++
				// Each in a moment of its own: goroutines that begin together may come in any order where the machine is busy.
				f.w.after(time.Duration(f.knocks)*time.Microsecond, "knock", func() { f.knockAt(n, d.ID, f.w.layout.keys[i]) })
			}
		}
	}
}

func (f *final) knockAt(n *node, id shard.RangeID, key []byte) {
	again := func(why error) {
		f.last = fmt.Sprintf("node %d, %v: %v", n.id, id, why)
		f.w.after(100*time.Millisecond, "knock", func() { f.knockAt(n, id, key) })
	}
	if n.life == nil || n.paused {
		again(fmt.Errorf("the node is down"))
		return
	}
	o := &op{client: -1, life: n.life}
	f.w.hist.begin(o)
	o.write = &pb.Op{Put: &pb.PutOp{Key: key, Value: fmt.Appendf(nil, "v%d/0", o.id)}}
	life := n.life
	go func() {
		a := o.perform(life.ctx)
		f.w.post(fmt.Sprintf("knocked %d/%d", n.id, id), 0, func() {
			f.w.note("op %d: %v %v", o.id, a.rev, a.err)
			f.w.hist.end(o, a)
			if a.err != nil {
				again(a.err)
				return
			}
			f.knocks--
		})
	}()
}

// askOps waits until the meta group drives nothing any more.
func (f *final) askOps() {
	f.ops = -1
	l := f.w.someLife()
	if l == nil {
		f.w.after(time.Second, "ops", f.askOps)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		ops, err := l.client.Ops(ctx)
		f.w.post("ops", 0, func() {
			n := 0
			for _, op := range ops {
				if op.Ended == 0 {
					n++
					f.last = fmt.Sprintf("op %d: %s; %s", op.ID, op.Waiting, f.w.groups(op.Range))
				}
			}
			if err == nil && n == 0 {
				f.ops = 0
				return
			}
			if err != nil {
				f.last = err.Error()
			}
			f.w.after(time.Second, "ops", f.askOps)
		})
	}()
}

// groups says how the replicas of a range are.
func (w *world) groups(id shard.RangeID) string {
	var s strings.Builder
	for _, n := range w.nodes {
		if n.life == nil {
			continue
		}
		if st, runs := n.life.host.Status(id); runs {
			fmt.Fprintf(&s, "%v on node %d: %+v", id, n.id, st)
			if rep, open := n.life.reps.Get(id); open {
				fmt.Fprintf(&s, " %v", rep.Desc())
			}
			s.WriteString("; ")
		}
	}
	return s.String()
}

func (f *final) served() bool { return f.knocks == 0 }

func (f *final) answered() bool {
	for _, c := range f.w.clients {
		if c.op != nil {
			f.last = c.op.String()
			return false
		}
	}
	return true
}

func (f *final) askLeases() {
	f.leases = -1
	f.leasesAgain()
}

func (f *final) leasesAgain() {
	l := f.w.someLife()
	if l == nil {
		f.w.after(time.Second, "leases", f.leasesAgain)
		return
	}
	go func() {
		ids, _, err := l.client.Leases(l.ctx)
		f.w.post("leases", 0, func() {
			if err == nil {
				f.leases = len(ids)
			}
			f.last = fmt.Sprintf("leases %v: %v", ids, err)
			if err != nil || len(ids) > 0 {
				f.w.after(time.Second, "leases", f.leasesAgain)
			}
		})
	}()
}

func (f *final) leaseless() bool { return f.leases == 0 }

// equal: every replica is what the map says, has applied what every other has, and nothing is locked.
func (f *final) equal() bool {
	for d := range f.w.newest().All() {
		var index uint64
		for i, r := range d.Replicas {
			n := f.w.node(r.Node)
			if n.life == nil {
				return false
			}
			rep, here := n.life.reps.Get(d.ID)
			if !here {
				f.last = fmt.Sprintf("node %d has no replica of %v %v at generation %d, but %s", n.id, d.ID, d.Span, d.Generation, n.life.holdings())
				return false
			}
			if own := rep.Desc(); !own.Equal(&d) {
				f.last = fmt.Sprintf("node %d: %v is %+v, and %+v in the map", n.id, d.ID, own, d)
				return false
			}
			if locks := rep.Locks(); locks > 0 {
				f.last = fmt.Sprintf("node %d, %v: %d locks", n.id, d.ID, locks)
				return false
			}
			if at := rep.AppliedIndex(); i > 0 && at != index {
				f.last = fmt.Sprintf("%v: node %d is at %d, not %d", d.ID, n.id, at, index)
				return false
			} else if i == 0 {
				index = at
			}
		}
	}
	return true
}

// refresh lets every node hear of the newest map.
func (f *final) refresh() {
	for _, n := range f.w.nodes {
		if n.life != nil {
			n.life.client.RefreshFunc(func(error) {})
		}
	}
	f.w.after(time.Second, "refresh", f.refresh)
}

// clean: a node has the files of its replicas, and of no other.
func (f *final) clean() bool {
	m := f.w.newest()
	for _, n := range f.w.present() {
		if n.life == nil {
			return false
		}
		_, err := os.Stat(n.life.meta.dir())
		meta := f.w.meta()
		if _, mine := meta.ReplicaOn(n.id); mine != (err == nil) {
			f.last = fmt.Sprintf("node %d has the files of the meta group: %v; it is %v", n.id, err == nil, meta)
			return false
		}
		ids, err := replica.ListDirs(n.life.rangesDir())
		if err != nil {
			f.last = err.Error()
			return false
		}
		for _, id := range ids {
			d, _ := m.Get(id)
			if _, mine := d.ReplicaOn(n.id); !mine {
				f.last = fmt.Sprintf("node %d has files of %v: it has %s", n.id, id, n.life.holdings())
				return false
			}
		}
	}
	return true
}

// lastWords: the watchers must hear of everything up to the current revision.
func (f *final) lastWords() {
	f.end = -1
	f.lastRevision()
}

func (f *final) lastRevision() {
	l := f.w.someLife()
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		now, err := l.client.Current(ctx)
		f.w.post("last revision", 0, func() {
			if err != nil {
				f.w.after(time.Second, "last revision", f.lastRevision)
				return
			}
			f.end = now.Revision
			for _, x := range f.w.watches {
				x.wantEnd(now.Revision)
			}
		})
	}()
}

func (f *final) watched() bool {
	if f.end < 0 {
		return false
	}
	for _, x := range f.w.watches {
		if x.pos < f.end {
			f.last = fmt.Sprintf("watcher %d on node %d is at %d, not %d", x.id, x.at(), x.pos, f.end)
			return false
		}
	}
	return true
}
