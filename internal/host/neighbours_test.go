package host

import (
	"errors"
	"fmt"
	"testing"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
	"pontoon/shard/replica/apply"
)

// lowRange is what a host of oneHost has up to "g".
const lowRange = shard.FirstRangeID

// awaiting runs a host that holds a child, which is frozen until it becomes part of the low range, and cannot open it for now.
func awaiting(t *testing.T) (*authority, *running) {
	t.Helper()
	dir := t.TempDir()
	started(t, dir).stop(t)
	d := childOf(shard.Span{Start: []byte("g")}, 0x11)
	d.Generation = 5
	f := &pb.Freeze{Op: 9, Generation: 4, Left: uint64(lowRange), LeftGeneration: 1}
	makeFile(t, dir, d, raftgroup.BirthPosition(), mvcc.StateUpdate{Key: "frozen", Value: apply.Marshal(f)})
	a := &authority{}
	return a, a.unopened(t, dir)
}

// merge logs that the child becomes part of the low range, and waits until it is to be applied.
func merge(t *testing.T, r *running) {
	t.Helper()
	eventually(t, "the left leads", func() bool { return r.leads(lowRange) })
	st, _ := r.raft.Status(lowRange)
	e := &pb.Entry{Term: st.Term, Merge: &pb.Merge{Op: 9, Generation: 1, Right: uint64(child), RightGeneration: 4, After: 7}}
	if err := r.raft.ProposeFunc(lowRange, st.Term, apply.Marshal(e), nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the left waits", func() bool {
		r.ranges.held.mu.Lock()
		defer r.ranges.held.mu.Unlock()
		return r.ranges.held.mu.awaited[child] == lowRange
	})
}

func (r *running) awaited() int {
	r.ranges.held.mu.Lock()
	defer r.ranges.held.mu.Unlock()
	return len(r.ranges.held.mu.awaited)
}

// TestALeftWaitsForItsRight: a range that has to take in a replica which is not open yet waits for that, and is not taken for damaged. It goes on when the replica
// is open, and nobody else has waited.
func TestALeftWaitsForItsRight(t *testing.T) {
	a, r := awaiting(t)
	merge(t, r)
	st, _ := r.raft.Status(highRange)
	for i := range 2 * workers { // more than there are workers
		before, _ := r.raft.Status(highRange)
		e := &pb.Entry{Term: st.Term, Epoch: uint64(1000 + i), EpochRaise: &pb.EpochRaise{}}
		if err := r.raft.ProposeFunc(highRange, st.Term, apply.Marshal(e), nil); err != nil {
			t.Fatal(err)
		}
		raftgroup.Retry(r.raft, lowRange)
		eventually(t, "another range goes on", func() bool {
			now, _ := r.raft.Status(highRange)
			return now.Applied > before.Applied
		})
	}
	left, open := r.ranges.get(lowRange)
	if st, _ := r.raft.Status(lowRange); !open || st.Applied >= st.Commit || left.Desc().Generation != 1 || r.ranges.repairs.count.Load() != 0 {
		t.Fatalf("open: %v, %+v", open, st)
	}
	a.set(func() { a.unopen = nil })
	if err := r.ranges.start(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the right is part of it", func() bool { return left.Desc().Generation == 7 && len(left.Desc().Span.End) == 0 })
	eventually(t, "the right is gone", func() bool { return r.buried(t) && r.awaited() == 0 })
}

// TestALeftWaitsInVain: a right that is not here any more, or of which there is nothing, is not waited for.
func TestALeftWaitsInVain(t *testing.T) {
	_, r := awaiting(t)
	n := neighbours{r.ranges}
	is := func(what string, want error) {
		t.Helper()
		if rep, err := n.Await(child, lowRange); rep != nil || !errors.Is(err, want) || errors.Is(want, shard.ErrInvalid) && r.awaited() != 0 {
			t.Errorf("%s: %v, %v, %d wait", what, rep, err, r.awaited())
		}
	}
	is("it cannot be opened", replica.ErrComing)
	d := childOf(shard.Span{Start: []byte("g")}, 0x11, 0x12)
	r.ranges.held.gone(child)
	if r.awaited() != 0 {
		t.Error("the left has not heard that it is gone")
	}
	is("it is gone", shard.ErrInvalid)
	r.ranges.repairs.markLost(d, d.Replicas[0])
	is("its state is to come", replica.ErrComing)
	r.ranges.repairs.unmark(child)
	is("it is gone after all", shard.ErrInvalid)
	h := r.ranges.held
	h.mu.Lock()
	h.mu.pending[child] = raftgroup.Replica{Group: child, ID: 1, State: raftgroup.ReplicaPresent}
	h.mu.Unlock()
	is("it is listed", replica.ErrComing)
	if err := replica.RemoveDir(r.ranges.repairs.dir, child); err != nil {
		t.Fatal(err)
	}
	if err := r.ranges.start(nil); err != nil {
		t.Fatal(err)
	}
	is("nothing says what it is", shard.ErrInvalid)
	h.gone(child)
}

// TestAReplicaThatCannotMerge: a replica whose right neighbour is gone asks for its leader's state: its own log would lead it to the same entry.
func TestAReplicaThatCannotMerge(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.under(t, dir)
	defer r.stop(t)
	a.set(func() { a.unopen = errors.New("no file to be had") }) // nor is it opened, without a state
	r.ranges.repairs.damaged(child, fmt.Errorf("%w: %w", mvcc.ErrDamaged, replica.ErrNoRight))
	eventually(t, "it asks for a state", func() bool {
		_, open := r.ranges.get(child)
		_, runs := r.raft.Status(child)
		return !open && runs && r.ranges.repairs.isLost(child)
	})
}
