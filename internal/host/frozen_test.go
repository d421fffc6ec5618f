package host

import (
	"testing"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// highRange is what a host of oneHost has from "g" on.
const highRange = shard.FirstRangeID + 1

// frozen runs a host on which the child stands, which is [x, …), until it becomes part of the given range at a generation. The newest map has that range in
// the child's place already: it has forgotten the child.
func frozen(t *testing.T, left shard.RangeID, leftGeneration shard.Generation, leftStart string) (*authority, *running) {
	t.Helper()
	a, r := leaves(t, left, leftGeneration, leftStart)
	if rep, open := r.ranges.get(child); !open || rep.Shape().Frozen == nil {
		t.Fatal("the child does not stand")
	}
	return a, r
}

// leaves is frozen where the child may go at any moment.
func leaves(t *testing.T, left shard.RangeID, leftGeneration shard.Generation, leftStart string) (*authority, *running) {
	t.Helper()
	dir := t.TempDir()
	started(t, dir).stop(t)
	f := &pb.Freeze{Op: 9, Generation: 4, Left: uint64(left), LeftGeneration: uint64(leftGeneration), LeftStart: []byte(leftStart)}
	makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition(), mvcc.StateUpdate{Key: "frozen", Value: apply.Marshal(f)})
	a := &authority{over: 20}
	r := a.under(t, dir)
	t.Cleanup(func() { r.stop(t) })
	return a, r
}

// considered has the node look whether the frozen replica can go.
func considered(t *testing.T, r *running) (stays bool) {
	t.Helper()
	if err := r.ranges.removals.consider(t.Context(), child); err != nil {
		t.Fatal(err)
	}
	_, open := r.ranges.get(child)
	return open
}

// TestHazard52: the map has forgotten a range that was merged, and its frozen replica stays while the left replica here has to apply the merge yet. Once that
// is past it the frozen one goes.
func TestHazard52(t *testing.T) {
	_, r := frozen(t, highRange, 1, "g") // r3 is at generation 1: the merge is yet to come
	if !considered(t, r) {
		t.Error("the left replica cannot merge any more")
	}
	_, r = leaves(t, highRange, 0, "g") // and past it
	eventually(t, "it goes", func() bool { return r.buried(t) })
}

// TestHazard53: the left is not here yet: a replica here has to cut it off first.
func TestHazard53(t *testing.T) {
	_, r := frozen(t, 77, 6, "h") // which lies in r3, at generation 1
	if !considered(t, r) {
		t.Error("what is born here later finds nothing to merge")
	}
}

// TestHazard54: a third range, which holds the keys of a frozen replica by now, does not come here, and takes nothing away, as long as the left may need it.
func TestHazard54(t *testing.T) {
	a, r := frozen(t, highRange, 1, "g")
	third := childOf(shard.Span{Start: []byte("w")}, 0x12, 0x11)
	third.ID, third.Generation = child+1, 21
	present := r.ranges.newcomers.present
	r.ranges.newcomers.present = func(id shard.RangeID) (shard.Descriptor, bool) {
		if id == third.ID {
			return third, true
		}
		return present(id)
	}
	if err := r.ranges.newcomers.consider(raftgroup.Stranger{From: 0x12, Group: third.ID, Replica: 2}); err != nil {
		t.Fatal(err)
	}
	if r.ranges.repairs.isLost(third.ID) || !considered(t, r) {
		t.Error("the third range has come over a replica that the left has to merge")
	}
	if a.asked == 0 {
		t.Error("the meta group was not asked")
	}
}

// TestHazard55: a frozen replica that nobody here can merge any more does not keep its heir out: it goes, and the heir waits for its state.
func TestHazard55(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	var addrs [2]string
	rs := runTwo(t, dirs, &addrs)
	elsewhere := shard.Span{} // what the first node holds, and the second does not
	for _, rep := range rs[0].ranges.byID.Values() {
		elsewhere = rep.Desc().Span
	}
	for _, r := range rs {
		r.stop(t)
	}
	right := childOf(elsewhere, 0x11, 0x12)
	f := &pb.Freeze{Op: 9, Generation: 1, Left: 77, LeftGeneration: 6, LeftStart: elsewhere.Start}
	makeFile(t, dirs[1], right, raftgroup.BirthPosition(), mvcc.StateUpdate{Key: "frozen", Value: apply.Marshal(f)})
	rs = runTwo(t, dirs, &addrs)
	defer func() {
		for _, r := range rs {
			r.stop(t)
		}
	}()
	second, heir := rs[1].ranges, childOf(elsewhere, 0x11, 0x12)
	heir.ID, heir.Generation = 77, 8
	second.env.displaced = func(d shard.Descriptor) bool { return d.ID == child }
	second.env.present = func(id shard.RangeID) (shard.Descriptor, bool) { return heir, id == heir.ID }
	second.newcomers.present = second.env.present
	if _, open := second.get(child); !open {
		t.Fatal("the frozen replica is not open")
	}
	eventually(t, "the heir waits", func() bool {
		err := second.newcomers.consider(raftgroup.Stranger{From: 0x11, Group: heir.ID, Replica: 2})
		if _, open := second.get(child); open && second.repairs.isLost(heir.ID) {
			t.Fatal("the heir has come over the frozen replica, which a left may need") // hazard 54
		}
		if err == nil {
			err = second.removals.consider(t.Context(), child)
		}
		if err != nil {
			t.Fatal(err)
		}
		return second.repairs.isLost(heir.ID)
	})
	if n := noted(t, rs[1].Host, child); n.State != raftgroup.ReplicaRemoved || rs[1].hasDir(child) {
		t.Errorf("the frozen replica is still here: %+v", n)
	}
}
