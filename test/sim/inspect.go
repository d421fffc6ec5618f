package sim

import (
	"time"

	"pontoon/shard"
)

// inspector holds the states of replicas against each other while the cluster runs.
type inspector struct {
	leaders map[groupTerm]shard.NodeID
	digests map[groupIndex]digest
}

type groupTerm struct {
	id   shard.RangeID
	term uint64
}

type groupIndex struct {
	id    shard.RangeID
	index uint64
}

type digest struct {
	sum  uint64
	node shard.NodeID
}

func (w *world) beginInspection() {
	w.inspector = &inspector{leaders: map[groupTerm]shard.NodeID{}, digests: map[groupIndex]digest{}}
	w.after(w.between(time.Millisecond, 300*time.Millisecond), "digest", w.compare)
}

// inspect looks at the groups of a node that has just done something.
func (w *world) inspect(n *node) {
	if w.inspector == nil {
		return
	}
	w.inspectGroup(n, shard.MetaID)
	for _, id := range n.life.ids {
		w.inspectGroup(n, id)
	}
}

func (w *world) inspectGroup(n *node, id shard.RangeID) {
	st, ok := n.life.host.Status(id)
	if !ok {
		return
	}
	if st.Applied > st.Commit {
		w.failf("applied above committed: node %d, %v: %d above %d", n.id, id, st.Applied, st.Commit)
	}
	if st.IsLeader {
		k := groupTerm{id, st.Term}
		if other, ok := w.inspector.leaders[k]; ok && other != n.id {
			w.failf("two leaders: nodes %d and %d lead %v in term %d", other, n.id, id, st.Term)
		}
		w.inspector.leaders[k] = n.id
	}
}

// compare compares the states of all replicas of a range, or rather what each is at its index.
func (w *world) compare() {
	if w.inspector == nil {
		return
	}
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), "digest", w.compare)
	all := w.layout.all.All()
	w.compareRange(all[w.rng.IntN(len(all))].ID)
}

func (w *world) compareRange(id shard.RangeID) {
	for _, n := range w.nodes {
		if n.life == nil || n.life.reps[id] == nil {
			continue
		}
		index, sum, err := n.life.reps[id].Digest()
		if err != nil {
			w.failf("node %d: the state of %v: %v", n.id, id, err)
			continue
		}
		w.stats.Hashes++
		k := groupIndex{id, index}
		if have, ok := w.inspector.digests[k]; ok && have.sum != sum {
			w.failf("replicas differ: %v at index %d on nodes %d and %d", id, index, have.node, n.id)
		}
		w.inspector.digests[k] = digest{sum, n.id}
	}
}

// The cluster must be well again within these times, once everything works.
const (
	liveWithin    = 40 * time.Second
	leasesWithin  = 90 * time.Second
	watchesWithin = 30 * time.Second
)

// finish waits until the cluster is well again, and judges the whole run.
func (w *world) finish() error {
	steps := []struct {
		what  string
		limit time.Duration
		begin func()
		done  func() bool
	}{
		{"every node serves every range", liveWithin, w.knock, w.served},
		{"all clients have their answers", liveWithin, func() {}, w.answered},
		{"all leases have ended", leasesWithin, w.askLeases, w.leaseless},
		{"all replicas are equal and hold no locks", liveWithin, func() {}, w.equal},
		{"all watchers have heard everything", watchesWithin, w.lastWords, w.watched},
	}
	for _, s := range steps {
		s.begin()
		if !w.loop(s.limit, s.done) {
			if w.err == nil {
				w.failf("liveness: within %v of the end of all faults: %s: %s", s.limit, s.what, w.why())
			}
			return w.err
		}
	}
	for _, d := range w.layout.all.All() {
		w.compareRange(d.ID)
	}
	if w.err != nil {
		return w.err
	}
	if err := w.checkWatchers(); err != nil {
		return err
	}
	return w.replay()
}
