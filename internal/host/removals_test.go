package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica"
)

// authority is the meta group, as a node that asks it finds it.
type authority struct {
	mu     sync.Mutex
	d      shard.Descriptor // of the child, in the newest map here; generation 0: that has none
	coming shard.Descriptor // as the next answer has it; generation 0: the same
	away   bool             // it does not answer
	over   shard.Generation // of who has the child's place; 0: nobody
	asked  int
	unopen error // why the child cannot be opened
	full   bool  // the disk
}

func (a *authority) present(id shard.RangeID) (shard.Descriptor, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.d, id == child && a.d.Generation != 0
}

func (a *authority) refresh(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.away {
		return shard.ErrUnavailable
	}
	if a.coming.Generation != 0 {
		a.d, a.coming = a.coming, shard.Descriptor{}
	}
	return nil
}

// says lets it know of the child.
func (a *authority) says(d, next shard.Descriptor, away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.d, a.coming, a.away = d, next, away
}

// under runs a host that asks an authority. Its directory has been used before.
func (a *authority) under(t *testing.T, dir string) *running {
	t.Helper()
	h, err := Open(oneHost(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	rs := h.ranges
	rs.env.displaced = func(d shard.Descriptor) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return d.ID == child && a.d.Generation == 0 && a.over > d.Generation
	}
	rs.env.present, rs.newcomers.present, rs.removals.refresh, rs.newcomers.refresh = a.present, a.present, a.refresh, a.refresh
	open := rs.env.open
	rs.env.open = func(d shard.Descriptor, self shard.Replica, closed int64) (*replica.Replica, error) {
		a.mu.Lock()
		err := a.unopen
		a.mu.Unlock()
		if d.ID == child && err != nil {
			return nil, err
		}
		return open(d, self, closed)
	}
	rs.repairs.room.space = func(string) (free, used int64, err error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.full {
			return 0, 1 << 40, nil
		}
		return 1 << 40, 0, nil
	}
	r := runHost(h)
	r.join(t)
	return r
}

func (a *authority) set(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
}

// aChild is a range that was cut off, on this node and one that is not there, at a generation; out: it has given this node's replica up.
func aChild(gen shard.Generation, out bool) shard.Descriptor {
	on := []shard.NodeID{0x11, 0x12}
	d := childOf(shard.Span{Start: []byte("x")}, on...)
	d.Generation = gen
	if out {
		d.Replicas = d.Replicas[1:]
	}
	return d
}

// withChild is the directory of a host that has run, and has the child's replica.
func withChild(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	started(t, dir).stop(t)
	makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition())
	return dir
}

func (r *running) hasDir(id shard.RangeID) bool {
	return exists(filepath.Join(r.ranges.repairs.dir, id.String()))
}

// buried reports whether the child's replica has gone: noted as such, not served, without a file.
func (r *running) buried(t *testing.T) bool {
	t.Helper()
	_, open := r.ranges.get(child)
	_, runs := r.raft.Status(child)
	n := noted(t, r.Host, child)
	return n.State == raftgroup.ReplicaRemoved && n.ID == 1 && !open && !runs && !r.ranges.held.here(child) && !r.hasDir(child)
}

// TestRemoval: a replica goes when the meta group, asked now, has its range at a later generation without it, and for nothing else. It
// leaves a tombstone, and does not come back.
func TestRemoval(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.under(t, dir)
	_, open := r.ranges.get(child)
	if !open {
		t.Fatal("the child is not open")
	}
	for _, c := range []struct {
		what    string
		d, next shard.Descriptor
		away    bool
	}{
		{"no map has the range", shard.Descriptor{}, shard.Descriptor{}, false},
		{"an older map has it without the replica", aChild(4, true), shard.Descriptor{}, false},
		{"so does one of the same generation", aChild(5, true), shard.Descriptor{}, false},
		{"a later one has it", aChild(8, false), shard.Descriptor{}, false},
		{"a later one has it without the replica, and nobody can be asked", aChild(8, true), shard.Descriptor{}, true},
	} {
		a.says(c.d, c.next, c.away)
		r.ranges.removals.changed(c.d)
		err := r.ranges.removals.consider(t.Context(), child)
		if _, open := r.ranges.get(child); !open || (err != nil) != c.away {
			t.Fatalf("%s: open: %v, %v", c.what, open, err)
		}
	}
	if a.asked == 0 {
		t.Error("the meta group was not asked")
	}
	rep, _ := r.ranges.get(child)
	a.says(aChild(8, true), aChild(8, true), false)
	r.ranges.removals.changed(aChild(8, true))
	eventually(t, "it goes", func() bool { return r.buried(t) })
	if err := rep.Close(); err != nil || r.ranges.removals.count.Load() != 1 {
		t.Errorf("%v; %d were counted", err, r.ranges.removals.count.Load())
	}
	if r.ranges.held.wanted(t.Context(), child, 1) {
		t.Error("a split would bring it back")
	}
	r.stop(t)
	r = a.under(t, dir)
	defer r.stop(t)
	if !r.buried(t) {
		t.Error("it is back")
	}
	// A replica with another id may come.
	for _, self := range []shard.Replica{{ID: 1, Node: 0x11}, {ID: 7, Node: 0x11}} {
		err := r.ranges.repairs.wait(aChild(9, false), self)
		if removed := errors.Is(err, raftgroup.ErrReplicaRemoved); removed == (self.ID == 7) || !removed && err != nil || r.hasDir(child) == removed {
			t.Errorf("replica %d: %v; it has a directory: %v", self.ID, err, r.hasDir(child))
		}
	}
}

// TestRemovalOfWhatWasMerged: a replica that its range gave up while it was away, before that became part of another, goes once the meta group says that
// there is no such range any more; one whose range the map has not heard of yet stays.
func TestRemovalOfWhatWasMerged(t *testing.T) {
	for _, waits := range []bool{false, true} {
		dir := t.TempDir()
		started(t, dir).stop(t)
		a := &authority{}
		if !waits {
			makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition())
		}
		r := a.under(t, dir)
		defer r.stop(t)
		if d := aChild(5, false); waits {
			a.says(d, d, false)
			if err := r.ranges.repairs.wait(d, d.Replicas[0]); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is noted", func() bool { return noted(t, r.Host, child).State == raftgroup.ReplicaWaiting })
			a.says(shard.Descriptor{}, shard.Descriptor{}, false)
		}
		for _, c := range []struct {
			over shard.Generation
			away bool
		}{{0, false}, {5, false}, {7, true}} {
			if waits && c.over == 5 {
				continue // it has no generation of its own
			}
			a.set(func() { a.over, a.away = c.over, c.away })
			err := r.ranges.removals.consider(t.Context(), child)
			if !r.ranges.held.here(child) || (err != nil) != c.away {
				t.Fatalf("it waits: %v; others at generation %d, away: %v: it is here: %v, %v", waits, c.over, c.away, r.ranges.held.here(child), err)
			}
		}
		a.set(func() { a.away = false })
		r.ranges.removals.vanished([]shard.RangeID{child})
		if err := r.ranges.removals.consider(t.Context(), child); err != nil || r.ranges.held.here(child) {
			t.Fatalf("it waits: %v; it is still here, %v", waits, err)
		}
		eventually(t, "it goes", func() bool { return r.buried(t) })
	}
}

// TestRemovalBySavedMap: a start that finds a map of a former life in which the replica is not removes nothing.
func TestRemovalBySavedMap(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	a.says(shard.Descriptor{}, shard.Descriptor{}, true)
	r := a.under(t, dir)
	defer r.stop(t)
	rest := aChild(9, true)
	rest.ID, rest.Span = 10, shard.Span{End: []byte("x")}
	m, err := shard.NewMap(99, []shard.Descriptor{rest, aChild(9, true)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ranges.start(m); err != nil {
		t.Fatal(err)
	}
	r.ranges.removals.mu.Lock()
	due := len(r.ranges.removals.mu.due)
	r.ranges.removals.mu.Unlock()
	if _, open := r.ranges.get(child); !open || due > 0 {
		t.Errorf("open: %v; %d replicas are looked at", open, due)
	}
}

// TestRemovalOfWhatIsNotServed: a replica that waits for its state, that is damaged and cannot be opened, or whose disk is full is given up
// like any other. Nothing brings it back.
func TestRemovalOfWhatIsNotServed(t *testing.T) {
	unopen := errors.New("no file to be had")
	for name, c := range map[string]func(t *testing.T, a *authority, r *running){
		"waits": func(t *testing.T, a *authority, r *running) {
			d := aChild(5, false)
			a.says(d, d, false)
			if err := r.ranges.repairs.wait(d, d.Replicas[0]); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is noted", func() bool { return noted(t, r.Host, child).State == raftgroup.ReplicaWaiting })
		},
		"damaged": func(t *testing.T, a *authority, r *running) {
			a.set(func() { a.unopen = unopen })
			r.ranges.repairs.damaged(child, mvcc.ErrDamaged)
			eventually(t, "it is taken out", func() bool {
				_, open := r.ranges.get(child)
				_, runs := r.raft.Status(child)
				return !open && !runs && r.ranges.repairs.isLost(child)
			})
		},
		"its state has come": func(t *testing.T, a *authority, r *running) {
			rep, _ := r.ranges.get(child)
			a.set(func() { a.unopen = unopen })
			r.ranges.repairs.markLost(rep.Desc(), rep.Desc().Replicas[0])
			r.ranges.forget(child)
			if err := rep.Close(); err != nil {
				t.Fatal(err)
			}
			r.ranges.repairs.push(repair{id: child})
			eventually(t, "it cannot be opened", func() bool { _, runs := r.raft.Status(child); return !runs })
		},
		"disk full": func(t *testing.T, a *authority, r *running) {
			a.set(func() { a.full = true })
			r.groupFailed(child, syscall.ENOSPC)
			eventually(t, "it is taken out", func() bool {
				_, open := r.ranges.get(child)
				_, runs := r.raft.Status(child)
				return !open && !runs && r.ranges.repairs.isLost(child)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			started(t, dir).stop(t)
			if name != "waits" {
				makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition())
			}
			a := &authority{}
			r := a.under(t, dir)
			c(t, a, r)
			a.says(aChild(8, true), aChild(8, true), false)
			r.ranges.removals.changed(aChild(8, true))
			eventually(t, "it goes", func() bool { return r.buried(t) })
			a.set(func() { a.full, a.unopen = false, nil })
			r.stop(t)
			r = a.under(t, dir)
			defer r.stop(t)
			if !r.buried(t) {
				t.Error("it is back")
			}
		})
	}
}

// unopened runs a host that has the child listed, as a former life had it, and cannot open it for now; until the test ends.
func (a *authority) unopened(t *testing.T, dir string) *running {
	t.Helper()
	r := a.under(t, dir)
	eventually(t, "it is noted", func() bool { return noted(t, r.Host, child).State == raftgroup.ReplicaPresent })
	r.stop(t)
	a.unopen = errors.New("no file to be had")
	r = a.under(t, dir)
	t.Cleanup(func() { r.stop(t) })
	if !r.ranges.held.isListed(child) {
		t.Fatal("the child is not listed")
	}
	return r
}

// TestRemovalOfWhatCouldNotBeOpened: a replica that this life could not open yet is given up without being opened.
func TestRemovalOfWhatCouldNotBeOpened(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.unopened(t, dir)
	a.says(aChild(8, true), aChild(8, true), false)
	r.ranges.removals.changed(aChild(8, true))
	eventually(t, "it goes", func() bool { return r.buried(t) && !r.ranges.held.isListed(child) })
}

// TestRemovalOfWhatComesLate: the map without the replica was known before the replica was here.
func TestRemovalOfWhatComesLate(t *testing.T) {
	for _, waits := range []bool{false, true} {
		dir := t.TempDir()
		started(t, dir).stop(t)
		if !waits {
			makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition())
		}
		a := &authority{}
		a.says(aChild(8, true), aChild(8, true), false)
		r := a.under(t, dir)
		if d := aChild(5, false); waits {
			if err := r.ranges.repairs.wait(d, d.Replicas[0]); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "it goes", func() bool { return r.buried(t) })
		r.stop(t)
	}
}

// TestRemovalOverACrash: the range's own log has given the replica up, and a crash came before anything of that was done here. Damage that
// is found in its file brings nothing back. It stays until the map has the range without it: until then those who stay may have forgotten in a crash that it is
// out, and need its vote.
func TestRemovalOverACrash(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.under(t, dir)
	eventually(t, "it is noted", func() bool { return noted(t, r.Host, child).State == raftgroup.ReplicaPresent })
	r.stop(t)
	if err := os.RemoveAll(filepath.Join(dir, "ranges", child.String())); err != nil {
		t.Fatal(err)
	}
	makeFile(t, dir, aChild(8, true), raftgroup.BirthPosition())
	a.says(aChild(7, false), shard.Descriptor{}, false)
	r = a.under(t, dir)
	defer r.stop(t)
	r.ranges.repairs.damaged(child, mvcc.ErrDamaged)
	for range 2 {
		if err := r.ranges.removals.consider(t.Context(), child); err != nil || !r.ranges.held.here(child) {
			t.Fatalf("it is here: %v, %v", r.ranges.held.here(child), err)
		}
	}
	a.says(aChild(8, true), shard.Descriptor{}, false)
	r.ranges.removals.changed(aChild(8, true))
	eventually(t, "it goes", func() bool { return r.buried(t) })
}

// TestRemovalLeavesFiles: what has a tombstone and could not be deleted goes before another replica waits there: its file would be
// taken for that one's.
func TestRemovalLeavesFiles(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.under(t, dir)
	defer r.stop(t)
	a.says(aChild(8, true), aChild(8, true), false)
	r.ranges.removals.changed(aChild(8, true))
	eventually(t, "it goes", func() bool { return r.buried(t) })
	makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition())
	file := filepath.Join(dir, "ranges", child.String(), "mvcc.db")
	if !exists(file) {
		t.Fatal("there is no file")
	}
	if free, err := r.ranges.newcomers.empty(child); !free || err != nil || exists(file) {
		t.Errorf("another replica would find a file: %v, %v", free, err)
	}
	// Of a file without a word in the log nobody knows what was promised: it stays, and nobody comes.
	other := aChild(5, false)
	other.ID = 17
	makeFile(t, dir, other, raftgroup.BirthPosition())
	if free, err := r.ranges.newcomers.empty(17); free || err != nil || !r.hasDir(17) {
		t.Errorf("an orphan gives way to another replica: %v, %v", free, err)
	}
}

// TestNoNewReplicaOnAFullDisk: while little of the disk is free a replica that is new gets no state; one that is here gets it in any case.
func TestNoNewReplicaOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	started(t, dir).stop(t)
	a := &authority{}
	r := a.under(t, dir)
	defer r.stop(t)
	d := aChild(5, false)
	if err := r.ranges.repairs.wait(d, d.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	refused := func(id shard.RangeID) bool {
		err := inbound{r.Host}.HandleSnapshot(0x12, &pb.SnapshotHeader{Group: uint64(id)}, strings.NewReader(""))
		if err == nil {
			t.Fatal("a snapshot of nothing is taken")
		}
		return errors.Is(err, shard.ErrNoSpace)
	}
	if refused(child) {
		t.Error("there is room")
	}
	a.set(func() { a.full = true })
	if !refused(child) {
		t.Error("there is no room")
	}
	if refused(shard.FirstRangeID) || refused(shard.MetaID) {
		t.Error("what is here gets its state")
	}
	if n := r.ranges.repairs.newcomers(); n != 1 {
		t.Errorf("%d replicas wait", n)
	}
}

// TestTheMapIsAskedFor: a node on which nothing goes on asks for the map when a replica here knows no leader, and when it is spoken to as
// what it does not know to be, but not each time.
func TestTheMapIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	started(t, dir).stop(t)
	a := &authority{}
	r := a.under(t, dir)
	eventually(t, "all have leaders", func() bool { return !r.ranges.removals.leaderless() })
	asked := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.asked
	}
	n, next := newNewcomers(r.ranges, nil, a.present, a.refresh), aChild(5, false)
	a.says(aChild(4, true), next, false)
	before := asked()
	for range 3 {
		n.look(t.Context(), raftgroup.Stranger{From: 0x12, Group: child, Replica: 1})
	}
	if got, _ := a.present(child); asked() != before+1 || !got.Equal(&next) {
		t.Errorf("asked %d times; the map has %v", asked()-before, got)
	}
	n.asked = time.Time{}
	n.look(t.Context(), raftgroup.Stranger{From: 0x12, Group: child, Replica: 1})
	if asked() != before+1 {
		t.Error("asked though the map has it here")
	}
	r.stop(t)

	makeFile(t, dir, aChild(5, false), raftgroup.BirthPosition()) // its other replica is nowhere
	r = a.under(t, dir)
	defer r.stop(t)
	before = asked()
	eventually(t, "it is asked for", func() bool { return asked() > before })
	if !r.ranges.removals.leaderless() {
		t.Error("the child has a leader")
	}
}

// TestRemovalAmidARepair: a repair that comes to its end after its replica was given up leaves the next one alone, which waits.
func TestRemovalAmidARepair(t *testing.T) {
	dir := withChild(t)
	a := &authority{}
	r := a.under(t, dir)
	defer r.stop(t)
	rep, _ := r.ranges.get(child)
	r.ranges.repairs.markLost(rep.Desc(), rep.Desc().Replicas[0])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	finished := make(chan struct{})
	go func() { // nobody leads the range, so it does not catch up
		defer close(finished)
		r.ranges.repairs.finish(ctx, child)
	}()
	a.says(aChild(8, true), aChild(8, true), false)
	r.ranges.removals.changed(aChild(8, true))
	eventually(t, "it goes", func() bool { return r.buried(t) })
	a.says(shard.Descriptor{}, shard.Descriptor{}, false)
	if err := r.ranges.repairs.wait(aChild(9, false), shard.Replica{ID: 7, Node: 0x11}); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-finished
	if !r.ranges.repairs.isLost(child) {
		t.Error("nobody waits for the state of the next one")
	}
}
