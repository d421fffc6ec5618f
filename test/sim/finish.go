package sim

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// final is what the end of a run waits for.
type final struct {
	knocks int    // writes that have no success yet
	leases int    // as the meta group says; -1: not known yet
	end    int64  // the last revision; -1: not known yet
	last   string // why it is not over
}

// knock writes to every range through every node.
func (w *world) knock() {
	for _, n := range w.nodes {
		for i, d := range w.layout.all.All() {
			w.final.knocks++
			key := w.layout.keys[i*keysPerRange]
			w.knockAt(n, d.ID, key)
		}
	}
}

func (w *world) knockAt(n *node, id shard.RangeID, key []byte) {
	again := func(why error) {
		w.final.last = fmt.Sprintf("node %d, %v: %v", n.id, id, why)
		w.after(100*time.Millisecond, "knock", func() { w.knockAt(n, id, key) })
	}
	if n.life == nil || n.paused {
		again(fmt.Errorf("the node is down"))
		return
	}
	o := &op{client: -1, life: n.life}
	w.hist.begin(o)
	o.write = &pb.Op{Put: &pb.PutOp{Key: key, Value: fmt.Appendf(nil, "v%d/0", o.id)}}
	life := n.life
	go func() {
		a := o.perform(life.ctx)
		w.post(fmt.Sprintf("knocked %d/%d", n.id, id), 0, func() {
			w.note("op %d: %v %v", o.id, a.rev, a.err)
			w.hist.end(o, a)
			if a.err != nil {
				again(a.err)
				return
			}
			w.final.knocks--
		})
	}()
}

func (w *world) served() bool { return w.final.knocks == 0 }

func (w *world) answered() bool {
	for _, c := range w.clients {
		if c.op != nil {
			w.final.last = c.op.String()
			return false
		}
	}
	return true
}

func (w *world) askLeases() {
	w.final.leases = -1
	w.leasesAgain()
}

func (w *world) leasesAgain() {
	l := w.someLife()
	if l == nil {
		w.after(time.Second, "leases", w.leasesAgain)
		return
	}
	go func() {
		ids, _, err := l.client.Leases(l.ctx)
		w.post("leases", 0, func() {
			if err == nil {
				w.final.leases = len(ids)
			}
			w.final.last = fmt.Sprintf("leases %v: %v", ids, err)
			if err != nil || len(ids) > 0 {
				w.after(time.Second, "leases", w.leasesAgain)
			}
		})
	}()
}

func (w *world) leaseless() bool { return w.final.leases == 0 }

// equal: every replica has applied what every other has, and nothing is locked.
func (w *world) equal() bool {
	for _, d := range w.layout.all.All() {
		var index uint64
		for i, r := range d.Replicas {
			n := w.node(r.Node)
			if n.life == nil {
				return false
			}
			rep := n.life.reps[d.ID]
			if locks := rep.Locks(); locks > 0 {
				w.final.last = fmt.Sprintf("node %d, %v: %d locks", n.id, d.ID, locks)
				return false
			}
			if at := rep.AppliedIndex(); i > 0 && at != index {
				w.final.last = fmt.Sprintf("%v: node %d is at %d, not %d", d.ID, n.id, at, index)
				return false
			} else if i == 0 {
				index = at
			}
		}
	}
	return true
}

// lastWords: the watchers must hear of everything up to the current revision.
func (w *world) lastWords() {
	w.final.end = -1
	w.lastRevision()
}

func (w *world) lastRevision() {
	l := w.someLife()
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		now, err := l.client.Current(ctx)
		w.post("last revision", 0, func() {
			if err != nil {
				w.after(time.Second, "last revision", w.lastRevision)
				return
			}
			w.final.end = now.Revision
			for _, x := range w.watches {
				x.wantEnd(now.Revision)
			}
		})
	}()
}

func (w *world) watched() bool {
	if w.final.end < 0 {
		return false
	}
	for _, x := range w.watches {
		if x.pos < w.final.end {
			w.final.last = fmt.Sprintf("watcher %d on node %d is at %d, not %d", x.id, x.at(), x.pos, w.final.end)
			return false
		}
	}
	return true
}

func (w *world) why() string { return w.final.last }
