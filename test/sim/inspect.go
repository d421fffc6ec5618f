package sim

import (
	"slices"
	"time"

	"pontoon/shard"
)

// inspector holds the states of replicas against each other while the cluster runs.
type inspector struct {
	w       *world
	leaders map[groupTerm]shard.NodeID
	digests map[groupIndex]digest
	places  map[groupReplica]shard.NodeID // where each replica is
	gone    map[groupReplica]bool         // has a tombstone
}

type groupReplica struct {
	id      shard.RangeID
	replica shard.ReplicaID
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

func beginInspection(w *world) *inspector {
	x := &inspector{w: w, leaders: map[groupTerm]shard.NodeID{}, digests: map[groupIndex]digest{},
		places: map[groupReplica]shard.NodeID{}, gone: map[groupReplica]bool{}}
	w.after(w.between(time.Millisecond, 300*time.Millisecond), "digest", x.compare)
	return x
}

// node looks at the groups of a node that has just done something.
func (x *inspector) node(n *node) {
	x.group(n, shard.MetaID)
	for _, id := range n.life.held() {
		x.group(n, id)
		rep, _ := n.life.reps.Get(id)
		x.once(n, groupReplica{id, rep.Self()})
	}
	for id, self := range n.life.waiting {
		x.once(n, groupReplica{id, self})
	}
	if r := n.life.meta.now.Load(); r != nil {
		x.once(n, groupReplica{shard.MetaID, r.Self})
	}
}

// once: a replica id is on one node alone, and does not come back.
func (x *inspector) once(n *node, r groupReplica) {
	if at, ok := x.places[r]; ok && at != n.id {
		x.w.failf("a replica twice: %d of %v is on nodes %d and %d", r.replica, r.id, at, n.id)
	}
	if x.gone[r] {
		x.w.failf("a replica again: %d of %v is back on node %d", r.replica, r.id, n.id)
	}
	x.places[r] = n.id
}

// buried notes that a replica has a tombstone.
func (x *inspector) buried(id shard.RangeID, self shard.ReplicaID) {
	x.gone[groupReplica{id, self}] = true
}

func (x *inspector) group(n *node, id shard.RangeID) {
	st, ok := n.life.host.Status(id)
	if !ok {
		return
	}
	if st.Applied > st.Commit {
		x.w.failf("applied above committed: node %d, %v: %d above %d", n.id, id, st.Applied, st.Commit)
	}
	if st.IsLeader {
		k := groupTerm{id, st.Term}
		if other, ok := x.leaders[k]; ok && other != n.id {
			x.w.failf("two leaders: nodes %d and %d lead %v in term %d", other, n.id, id, st.Term)
		}
		x.leaders[k] = n.id
	}
}

// compare compares the states of all replicas of a range, or rather what each is at its index.
func (x *inspector) compare() {
	w := x.w
	w.after(w.between(50*time.Millisecond, 400*time.Millisecond), "digest", x.compare)
	all := slices.Collect(w.newest().All())
	x.compareRange(all[w.rng.IntN(len(all))].ID)
}

func (x *inspector) compareRange(id shard.RangeID) {
	w := x.w
	for _, n := range w.nodes {
		if n.life == nil || !n.life.holds(id) {
			continue
		}
		rep, _ := n.life.reps.Get(id)
		index, sum, err := rep.Digest()
		if err != nil {
			w.failf("node %d: the state of %v: %v", n.id, id, err)
			continue
		}
		w.stats.Hashes++
		k := groupIndex{id, index}
		if have, ok := x.digests[k]; ok && have.sum != sum {
			w.failf("replicas differ: %v at index %d on nodes %d and %d", id, index, have.node, n.id)
		}
		x.digests[k] = digest{sum, n.id}
	}
}
