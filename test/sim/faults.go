package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pontoon/shard"
)

// faults breaks things for a while: for windows short and long, of kinds that the seed has chosen.
type faults struct {
	w     *world
	kinds []func(d time.Duration)
	gap   time.Duration // about so long between two
	over  bool
}

var errDisk = errors.New("sim: no space left on device")

func newFaults(w *world) *faults {
	f, c := &faults{w: w}, changes{w}
	all := []func(time.Duration){
		f.crash, f.crashAll, f.pause, f.isolate, f.cutPair, f.cutOneWay, f.slowLinks, f.lossy, f.slowDisk, f.slowApply,
		f.failDisk, f.transfer, f.transfer, f.crashLeader, f.jump,
		c.split, c.split, c.split, c.move, c.move, c.move, c.gather, c.merge, c.merge, c.merge, c.metaMove, c.metaMove, c.join, c.join, c.drain, c.leave, c.leave,
	}
	for _, k := range all {
		if w.roll(0.6) {
			f.kinds = append(f.kinds, k)
		}
	}
	if len(f.kinds) == 0 {
		f.kinds = all
	}
	f.gap = w.scaled(100*time.Millisecond, 8*time.Second)
	return f
}

func (f *faults) begin() {
	if f.w.cfg.Calm {
		return
	}
	f.w.after(f.w.between(0, 3*time.Second), "faults", f.next)
}

func (f *faults) next() {
	if f.over {
		return
	}
	w := f.w
	w.stats.Faults++
	f.kinds[w.rng.IntN(len(f.kinds))](w.scaled(5*time.Millisecond, 15*time.Second))
	w.after(w.between(f.gap/10, 2*f.gap), "faults", f.next)
}

// end repairs everything.
func (f *faults) end() {
	f.over = true
	for _, l := range f.w.net.links {
		l.cut, l.slow, l.drop, l.dup, l.mixed = false, 0, 0, 0, 0
	}
	for _, n := range f.w.processes() {
		n.fsync, n.apply = 0, 0
		n.pause(false)
		n.restart(0)
	}
}

// until undoes a fault, unless all have been repaired.
func (f *faults) until(d time.Duration, undo func()) {
	f.w.after(d, "repair", func() {
		if !f.over {
			undo()
			f.w.hurry() // before whoever was out of reach hears of anything
		}
	})
}

func (f *faults) someNode() *node {
	all := f.w.processes()
	return all[f.w.rng.IntN(len(all))]
}

func (f *faults) crash(d time.Duration) { f.crashNode(f.someNode(), d) }

func (f *faults) crashNode(n *node, d time.Duration) {
	f.w.note("crash %d for %v", n.id, d)
	n.crash()
	n.restart(d)
}

func (f *faults) crashAll(d time.Duration) {
	for _, n := range f.w.nodes {
		f.crashNode(n, f.w.between(0, d))
	}
}

func (f *faults) crashLeader(d time.Duration) {
	if n, _ := f.leader(); n != nil {
		f.crashNode(n, d)
	}
}

func (f *faults) pause(d time.Duration) {
	n := f.someNode()
	if n.life == nil || n.paused {
		return
	}
	f.w.note("pause %d for %v", n.id, d)
	l := n.life
	n.pause(true)
	f.until(d, func() {
		if n.life == l {
			n.pause(false)
		}
	})
}

// set changes some links until d has passed.
func (f *faults) set(d time.Duration, which func(a, b shard.NodeID) bool, change, undo func(*way)) {
	for _, a := range f.w.net.ids {
		for _, b := range f.w.net.ids {
			if a != b && which(a, b) {
				l := f.w.net.link(a, b)
				change(l)
				f.until(d, func() { undo(l) })
			}
		}
	}
}

func cut(l *way)    { l.cut = true }
func mended(l *way) { l.cut = false }

func (f *faults) isolate(d time.Duration) {
	n := f.someNode().id
	if lead, _ := f.leader(); lead != nil && f.w.roll(0.5) {
		n = lead.id
	}
	f.w.note("isolate %d for %v", n, d)
	f.set(d, func(a, b shard.NodeID) bool { return a == n || b == n }, cut, mended)
}

func (f *faults) cutPair(d time.Duration) {
	x, y := f.someNode().id, f.someNode().id
	f.w.note("cut %d and %d for %v", x, y, d)
	f.set(d, func(a, b shard.NodeID) bool { return a == x && b == y || a == y && b == x }, cut, mended)
}

func (f *faults) cutOneWay(d time.Duration) {
	n, in := f.someNode().id, f.w.roll(0.5)
	f.w.note("cut one way %d (in: %v) for %v", n, in, d)
	f.set(d, func(a, b shard.NodeID) bool { return in && b == n || !in && a == n }, cut, mended)
}

func (f *faults) slowLinks(d time.Duration) {
	n, slow := f.someNode().id, f.w.scaled(2*time.Millisecond, 2*time.Second)
	f.w.note("slow %d by %v for %v", n, slow, d)
	f.set(d, func(a, b shard.NodeID) bool { return a == n || b == n }, func(l *way) { l.slow = slow }, func(l *way) { l.slow = 0 })
}

func (f *faults) lossy(d time.Duration) {
	p, q, r := f.w.rng.Float64()*0.4, f.w.rng.Float64()*0.4, f.w.rng.Float64()*0.4
	f.w.note("lossy for %v", d)
	f.set(d, func(a, b shard.NodeID) bool { return true },
		func(l *way) { l.drop, l.dup, l.mixed = p, q, r }, func(l *way) { l.drop, l.dup, l.mixed = 0, 0, 0 })
}

func (f *faults) slowDisk(d time.Duration) {
	n := f.someNode()
	n.fsync = f.w.scaled(5*time.Millisecond, 3*time.Second)
	f.w.note("slow disk %d by %v for %v", n.id, n.fsync, d)
	f.until(d, func() { n.fsync = 0 })
}

func (f *faults) slowApply(d time.Duration) {
	n := f.someNode()
	n.apply = f.w.scaled(5*time.Millisecond, time.Second)
	f.until(d, func() { n.apply = 0 })
}

// jump moves a node's clock, where nothing rests on clocks.
func (f *faults) jump(d time.Duration) {
	if !f.w.quorum {
		return
	}
	n := f.someNode()
	if f.w.roll(0.5) {
		d = -d
	}
	f.w.note("the clock of %d jumps by %v", n.id, d)
	f.w.jumped = true
	f.w.stats.Jumps++
	n.skew += d
}

// failDisk makes the next write of the log fail, with some of it on the disk or without: the
// process must stop.
func (f *faults) failDisk(time.Duration) {
	n := f.someNode()
	f.w.note("disk of %d fails", n.id)
	if f.w.roll(0.5) {
		n.log.TearNext(f.w.rng.IntN(6))
		return
	}
	n.log.Fail = errDisk
}

// leader picks a group and the node that leads it.
func (f *faults) leader() (*node, shard.RangeID) {
	id := shard.MetaID
	if f.w.roll(0.7) {
		all := slices.Collect(f.w.newest().All())
		id = all[f.w.rng.IntN(len(all))].ID
	}
	for _, n := range f.w.nodes {
		if n.life != nil {
			if st, ok := n.life.host.Status(id); ok && st.IsLeader {
				return n, id
			}
		}
	}
	return nil, id
}

func (f *faults) transfer(time.Duration) {
	n, id := f.leader()
	if n == nil {
		return
	}
	d, ok := f.w.newest().Get(id)
	if !ok {
		d = f.w.meta()
	}
	to := d.Replicas[f.w.rng.IntN(len(d.Replicas))]
	f.w.note("transfer %v from %d to %d", id, n.id, to.Node)
	if id == shard.MetaID && f.w.roll(0.7) { // as an operator does it: the oracle is silenced first
		l, r := n.life, n.life.meta.now.Load()
		if r == nil {
			return
		}
		go func() {
			err := r.MoveLeader(l.ctx, to.Node)
			f.w.post(fmt.Sprintf("moved %d", n.id), 0, func() { f.w.note("moved: %v", err) })
		}()
		return
	}
	rep, _ := n.life.reps.Get(id)
	if rep == nil || f.w.roll(0.3) { // without a drain, as Raft does it by itself
		n.life.host.TransferLeader(id, to.ID)
		return
	}
	rep.HandOver(n.life.ctx, func(stood time.Duration, err error) {
		f.w.post(fmt.Sprintf("handed over %v", id), 0, func() { f.w.note("handed over %v by %d after %v: %v", id, n.id, stood, err) })
	})
}
