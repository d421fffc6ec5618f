package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// tick is Raft's unit of time, and election an election timeout: ten of them.
const (
	tick     = 100 * time.Millisecond
	election = 10 * tick
)

// node is one machine: its disk outlives its process, whose lives follow one another.
type node struct {
	w      *world
	id     shard.NodeID
	no     int // from 1
	log    *simtest.MemLog
	life   *life // nil while the process is down
	lives  int
	paused bool
	skew   time.Duration // by which its clock is ahead
	held   []held        // what has come in while paused
	fsync  time.Duration
	apply  time.Duration
	gates  [3]gate
	// closing counts the lives that are being taken down.
	closing int
	gone    bool             // it was removed, and does not come back
	metaAt  shard.Descriptor // where the meta group is, as has been saved
	front   bool             // a gateway: it holds nothing
	above   *node            // from which a gateway has its feeds; nil: from members
	mirrors bool             // a gateway answers lists from memory
	auto    int              // such a gateway mirrors what is listed often, within so many bytes; 0: everything
	forgets bool             // most feeds of a gateway that break begin anew with a gap: nothing takes the place of what has passed
}

// held is what a process takes in when it goes on. If it does not, gone is called, unless it is nil.
type held struct {
	fn   func(*life)
	gone func()
}

// gate lets the host do one kind of work from time to time.
type gate struct {
	open    bool
	pending bool
}

func newNode(w *world, id shard.NodeID) *node {
	return &node{w: w, id: id, no: len(w.nodes) + 1, log: simtest.NewMemLog(), metaAt: w.layout.meta}
}

// others are those that may know where the meta group is.
func (n *node) others() (ids []shard.NodeID) {
	for _, o := range n.w.nodes {
		if o != n {
			ids = append(ids, o.id)
		}
	}
	return ids
}

func (w *world) node(id shard.NodeID) *node {
	for _, some := range [][]*node{w.nodes, w.gateways} { // for each message: no list of all is made
		for _, n := range some {
			if n.id == id {
				return n
			}
		}
	}
	return nil
}

func (n *node) dir(life int) string {
	return filepath.Join(n.w.cfg.Dir, fmt.Sprintf("n%d-%d", n.id, life))
}

// boot starts the process on what the disk holds.
func (n *node) boot() error {
	n.lives++
	n.gates = [3]gate{}
	dir := n.dir(n.lives)
	if n.lives == 1 {
		if err := os.MkdirAll(filepath.Join(dir, "ranges"), 0o700); err != nil {
			return err
		}
	}
	l, err := newLife(n, dir)
	if err != nil {
		return fmt.Errorf("node %d, life %d: %w", n.id, n.lives, err)
	}
	n.life = l
	n.w.after(n.w.between(0, tick), fmt.Sprintf("tick %d", n.id), func() { n.tick(l) })
	return nil
}

// clock is that of the node.
func (n *node) clock() time.Time { return time.Now().Add(n.skew) }

// hold says whether the host must leave work of a kind alone. Each kind goes on a little later,
// so that steps, writes and applies interleave in every way.
func (n *node) hold(k raftgroup.Work) bool {
	g := &n.gates[k]
	if g.open {
		return false
	}
	if !g.pending {
		g.pending = true
		life := n.life
		n.w.after(n.workDelay(k), fmt.Sprintf("gate %d/%d", n.id, k), func() {
			if n.life == life {
				g.open, g.pending = true, false
			}
		})
	}
	return true
}

func (n *node) workDelay(k raftgroup.Work) time.Duration {
	switch k {
	case raftgroup.WorkWrites:
		return n.w.between(100*time.Microsecond, 500*time.Microsecond) + n.extra(n.fsync)
	case raftgroup.WorkApplies:
		return n.w.between(time.Microsecond, 50*time.Microsecond) + n.extra(n.apply)
	default:
		return n.w.between(time.Microsecond, 20*time.Microsecond)
	}
}

func (n *node) extra(worst time.Duration) time.Duration {
	if worst == 0 {
		return 0
	}
	return n.w.scaled(time.Millisecond, worst)
}

// step does what the host may do now.
func (n *node) step() bool {
	if n.life == nil || n.paused || n.life.stopped {
		return false
	}
	did := false
	for n.life != nil && !n.life.stopped && n.life.host.Step() {
		did = true
	}
	for k := range n.gates {
		n.gates[k].open = false
	}
	if did {
		if x := n.w.inspector; x != nil {
			x.node(n)
		}
	}
	return did
}

// tick is the node's heartbeat, which everything hangs on that comes with time.
func (n *node) tick(l *life) {
	if n.life != l {
		return
	}
	n.w.after(tick, fmt.Sprintf("tick %d", n.id), func() { n.tick(l) })
	if n.paused {
		return
	}
	l.host.Tick()
	if r := l.meta.now.Load(); r != nil {
		r.Tick()
	}
	l.maintain()
	l.lookAtMap()
	l.lookAtFrozen()
	l.meta.look()
}

// receive hands over what has arrived, later if the process is stopped.
func (n *node) receive(fn func(*life)) { n.receiveOr(fn, nil) }

// receiveOr calls gone where the process ends before it has taken that in.
func (n *node) receiveOr(fn func(*life), gone func()) {
	switch {
	case n.life == nil:
		if gone != nil {
			gone()
		}
	case n.paused:
		n.held = append(n.held, held{fn, gone})
	default:
		fn(n.life)
	}
}

// outOfReach reports whether not everything that is sent to the node, or that it sends, arrives at once.
func (n *node) outOfReach() bool {
	if n.life == nil || n.paused {
		return true
	}
	for _, o := range n.w.processes() {
		if o == n {
			continue
		}
		for _, l := range []*way{n.w.net.link(n.id, o.id), n.w.net.link(o.id, n.id)} {
			if l.cut || l.slow > 0 || l.drop > 0 {
				return true
			}
		}
	}
	return false
}

// pause stops the process as SIGSTOP does, or lets it go on.
func (n *node) pause(on bool) {
	n.paused = on
	if on {
		return
	}
	held, l := n.held, n.life
	n.held = nil
	for _, h := range held {
		switch {
		case n.life == l:
			h.fn(l)
		case h.gone != nil:
			h.gone()
		}
	}
}

// drop lets what has come in go unheard. Who has called learns of it by a connection that breaks, and somebody may wait for a timer so as to end.
func (n *node) drop() {
	held := n.held
	n.held = nil
	for _, h := range held {
		if h.gone != nil {
			h.gone()
		}
	}
}

// crash ends the process at once. What the files hold and what was synced of the log stays, and
// perhaps part of the write that was under way.
func (n *node) crash() {
	l := n.life
	if l == nil {
		return
	}
	n.w.stats.Crashes++
	l.kill()
	l.fans.broken()
	if n.w.roll(0.5) {
		n.tear(l)
	}
	if err := os.CopyFS(n.dir(n.lives+1), os.DirFS(l.dir)); err != nil { // behind the log: a file is durable before it is noted there
		n.w.failf("copy the files of node %d: %v", n.id, err)
	}
	n.log.Crash()
	n.life, n.paused, n.fsync, n.apply = nil, false, 0, 0
	n.drop()
	n.takeDown(l)
	n.w.clientsLost(l)
}

// tear lets the log's next write happen in part, after which nothing leaves the host any more.
func (n *node) tear(l *life) {
	n.log.TearNext(n.w.rng.IntN(8))
	l.stopped = false
	for i := 0; i < 8 && !l.stopped; i++ {
		for k := range n.gates {
			n.gates[k].open = true
		}
		if !l.host.Step() {
			return
		}
	}
}

// takeDown lets the parts of a life that has ended go, beside the loop: they wait for callbacks.
func (n *node) takeDown(l *life) {
	n.closing++
	go func() {
		l.close()
		n.w.post(fmt.Sprintf("down %d", n.id), 0, func() { n.closing-- })
	}()
}

// destroy ends a node for good, after which its disk is gone.
func (n *node) destroy() {
	if l := n.life; l != nil {
		l.kill()
		n.life = nil
		n.drop()
		n.takeDown(l)
	}
}

// restart boots the process again some time after it has ended.
func (n *node) restart(after time.Duration) {
	n.w.after(after, fmt.Sprintf("restart %d", n.id), func() {
		if n.life == nil && n.w.err == nil && !n.gone {
			if err := n.boot(); err != nil {
				n.w.failf("%v", err)
			}
		}
	})
}
