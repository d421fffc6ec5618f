package host

import (
	"cmp"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pontoon/internal/httpapi"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

const child shard.RangeID = 9

// childOf describes a range that was cut off.
func childOf(span shard.Span, on ...shard.NodeID) shard.Descriptor {
	d := shard.Descriptor{ID: child, Generation: 2, Span: span}
	for i, node := range on {
		d.Replicas = append(d.Replicas, shard.Replica{ID: shard.ReplicaID(i + 1), Node: node})
	}
	return d
}

// makeFile makes the file of a range as a split leaves it, or as it is later, with more in its state.
func makeFile(t *testing.T, dir string, d shard.Descriptor, at raftgroup.Position, more ...mvcc.StateUpdate) {
	t.Helper()
	dir = filepath.Join(dir, "ranges", d.ID.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	st, err := mvcc.Open(mvcc.Options{Path: filepath.Join(dir, "mvcc.db"), RangeID: d.ID})
	if err != nil {
		t.Fatal(err)
	}
	_, err = st.Apply(mvcc.Change{
		Pos:   mvcc.Position(at),
		State: append(more, apply.DescUpdate(d)),
		Muts:  []mvcc.Mutation{{Key: append(slices.Clone(d.Span.Start), 'a'), Value: []byte("born"), Rev: mvcc.Rev{Main: 1}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// started runs a host over a directory until it has joined.
func started(t *testing.T, dir string) *running {
	t.Helper()
	h, err := Open(oneHost(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	r := runHost(h)
	r.join(t)
	return r
}

// noted is what the log says of a range's replica.
func noted(t *testing.T, h *Host, id shard.RangeID) raftgroup.Replica {
	t.Helper()
	list, err := h.raftLog.Replicas()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Group == id {
			return r
		}
	}
	return raftgroup.Replica{}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(waitMax); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func (r *running) leads(id shard.RangeID) bool {
	rep, ok := r.ranges.get(id)
	if !ok {
		return false
	}
	_, leads := rep.Leading()
	return leads
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestStartByTheList: a start opens what the log lists. A child whose group had not begun begins, and from then on it is opened
// although no map has it; what was given up leaves nothing; a map brings only what was never changed.
func TestStartByTheList(t *testing.T) {
	dir := t.TempDir()
	started(t, dir).stop(t)
	makeFile(t, dir, childOf(shard.Span{Start: []byte("x")}, 0x11), raftgroup.BirthPosition())
	unborn := filepath.Join(dir, "ranges", "r2", "mvcc.db.new")
	if err := os.WriteFile(unborn, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}

	r := started(t, dir)
	eventually(t, "the child leads", func() bool { return r.leads(child) })
	if exists(unborn) {
		t.Error("a child's file that was being made is still there")
	}
	if n := noted(t, r.Host, child); n.State != raftgroup.ReplicaPresent || n.ID != 1 {
		t.Errorf("noted: %+v", n)
	}
	rep, _ := r.ranges.get(child)
	before := rep.AppliedIndex()
	r.stop(t)

	r = started(t, dir) // its file stands behind its birth now, and only the list has it
	eventually(t, "the child leads again", func() bool { return r.leads(child) })
	if rep, _ := r.ranges.get(child); rep.AppliedIndex() < before || rep.Desc().Generation != 2 {
		t.Errorf("at %d, before at %d; generation %d", rep.AppliedIndex(), before, rep.Desc().Generation)
	}
	if r.ranges.held.wanted(t.Context(), child, 1) {
		t.Error("a split would make it anew")
	}

	// The map has it in another shape, and one more that was cut off, and one that was not.
	other, fresh := childOf(shard.Span{Start: []byte("x"), End: []byte("y")}, 0x11), childOf(shard.Span{Start: []byte("y")}, 0x11)
	other.Generation, fresh.ID, fresh.Generation = 7, 11, 1
	apart := childOf(shard.Span{End: []byte("x")}, 0x11)
	apart.ID = 10
	m, err := shard.NewMap(99, []shard.Descriptor{apart, other, fresh})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ranges.reconcile(nil, m, false); err != nil {
		t.Fatal(err)
	}
	if _, open := r.ranges.get(10); open || exists(filepath.Join(dir, "ranges", "r10")) {
		t.Error("a map has brought a range that was cut off")
	}
	if _, open := r.ranges.get(11); !open {
		t.Error("a range that is born empty is not here")
	}
	if rep, _ := r.ranges.get(child); rep.Desc().Generation != 2 {
		t.Error("a map has changed a replica")
	}

	gone := make(chan struct{})
	rep, _ = r.ranges.get(child)
	r.ranges.forget(child)
	if err := r.raft.RemoveGroup(child, func() { close(gone) }); err != nil {
		t.Fatal(err)
	}
	<-gone
	if err := rep.Close(); err != nil {
		t.Fatal(err)
	}
	r.stop(t)
	r = started(t, dir)
	defer r.stop(t)
	if _, open := r.ranges.get(child); open || exists(filepath.Join(dir, "ranges", child.String())) {
		t.Error("what was given up is back, or its file is")
	}
	if r.ranges.held.wanted(t.Context(), child, 1) {
		t.Error("a split would bring it back")
	}
}

// TestOrphanIsLeftAlone: a file that has gone on, without a word in the log, is of a node that has lost its log: nobody
// knows what it has promised.
func TestOrphanIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	started(t, dir).stop(t)
	at := raftgroup.BirthPosition()
	at.Index++
	makeFile(t, dir, childOf(shard.Span{Start: []byte("x")}, 0x11), at)
	r := started(t, dir)
	defer r.stop(t)
	if _, open := r.ranges.get(child); open || noted(t, r.Host, child) != (raftgroup.Replica{}) {
		t.Error("it is open")
	}
	if !exists(filepath.Join(dir, "ranges", child.String(), "mvcc.db")) {
		t.Error("it has been removed")
	}
}

// TestMetaIsLaidOutOnce: a node that has given its replica of the meta group up does not begin that once more by its flags.
func TestMetaIsLaidOutOnce(t *testing.T) {
	dir := t.TempDir()
	started(t, dir).stop(t)
	h, err := Open(oneHost(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.raft.Run(ctx) }()
	gone := make(chan struct{})
	if err := h.raft.RemoveGroup(shard.MetaID, func() { close(gone) }); err != nil {
		t.Fatal(err)
	}
	<-gone
	cancel()
	<-ended
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if h, err = Open(oneHost(t, dir)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, here := h.raft.Status(shard.MetaID); here || h.meta.get() != nil {
		t.Error("the meta group has begun once more")
	}
}

// twoHosts opens a cluster of two nodes, each with one of two ranges: 0x11 with the keys below g, 0x12 with the others.
// addrs are where they listen, and listened before; empty: anywhere.
func twoHosts(t *testing.T, dirs [2]string, addrs *[2]string) (hosts [2]*Host) {
	t.Helper()
	var members []shard.Member
	var listeners []httpapi.Listener
	for i := range dirs {
		l, err := net.Listen("tcp", cmp.Or(addrs[i], "127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = l.Addr().String()
		url := "http://" + addrs[i]
		listeners = append(listeners, httpapi.Listener{Listener: l, URL: url})
		members = append(members, shard.Member{ID: shard.NodeID(0x11 + i), Name: "n", PeerURLs: []string{url}})
	}
	for i := range dirs {
		cfg := oneHost(t, dirs[i])
		_ = cfg.Peer[0].Close()
		cfg.Identity = peer.Identity{ClusterID: 0xc1, Node: members[i].ID}
		cfg.Members, cfg.Peer, cfg.ReplicationFactor = members, listeners[i:i+1], 1
		cfg.Election = 500 * time.Millisecond
		var err error
		if hosts[i], err = Open(cfg); err != nil {
			t.Fatal(err)
		}
	}
	return hosts
}

// runTwo runs them, each having joined the other.
func runTwo(t *testing.T, dirs [2]string, addrs *[2]string) (rs [2]*running) {
	t.Helper()
	for i, h := range twoHosts(t, dirs, addrs) {
		rs[i] = runHost(h)
	}
	for _, r := range rs {
		r.join(t)
	}
	return rs
}

// TestWaitingReplica: a member speaks to a replica that is not here. If the map has it here it waits, as it does after a
// restart; its state comes, and it is served. Where a replica here holds keys of it nothing happens.
func TestWaitingReplica(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	var addrs [2]string
	rs := runTwo(t, dirs, &addrs)
	var holds [2]shard.Span // what each holds
	for i, r := range rs {
		for _, rep := range r.ranges.byID.Values() {
			holds[i] = rep.Desc().Span
		}
	}
	for _, r := range rs {
		r.stop(t)
	}
	if holds[0].Overlaps(holds[1]) {
		t.Fatalf("%v and %v", holds[0], holds[1])
	}
	d := childOf(holds[0], 0x11, 0x12)

	rs = runTwo(t, dirs, &addrs) // nobody leads it yet
	known := d
	mapped := func(id shard.RangeID) (shard.Descriptor, bool) { return known, id == child }
	rs[1].ranges.newcomers.present, rs[1].ranges.env.present = mapped, mapped // else it goes again: nobody has heard of its range
	spoken := raftgroup.Stranger{From: 0x11, Group: child, Replica: 2}
	consider := func(what string, waits bool) {
		t.Helper()
		if err := rs[1].ranges.newcomers.consider(spoken); err != nil {
			t.Fatal(err)
		}
		if got := rs[1].ranges.repairs.isLost(child); got != waits {
			t.Fatalf("%s: it waits: %v", what, got)
		}
	}
	known.Span = holds[1]
	consider("a replica here holds its keys", false)
	known = d
	spoken.Replica = 3
	consider("another replica id", false)
	spoken.Replica = 2
	known.Generation = 1
	consider("it is born empty", false)
	known = d
	consider("nothing is in the way", true)
	consider("again", true)
	eventually(t, "it is noted", func() bool {
		return noted(t, rs[1].Host, child) == raftgroup.Replica{Group: child, ID: 2, State: raftgroup.ReplicaWaiting}
	})
	for _, r := range rs {
		r.stop(t)
	}

	makeFile(t, dirs[0], d, raftgroup.BirthPosition())
	rs = runTwo(t, dirs, &addrs)
	defer func() {
		for _, r := range rs {
			r.stop(t)
		}
	}()
	eventually(t, "the state comes, and is served", func() bool {
		rep, open := rs[1].ranges.get(child)
		return open && rep.AppliedIndex() > raftgroup.BirthPosition().Index && !rs[1].ranges.repairs.isLost(child) &&
			rs[0].leads(child) && rep.Desc().Generation == 2
	})
	if n := noted(t, rs[1].Host, child); n.State != raftgroup.ReplicaPresent || n.ID != 2 {
		t.Errorf("noted: %+v", n)
	}
	rep, _ := rs[1].ranges.get(child)
	evs, _, err := rep.History(&pb.HistoryRequest{Spans: []*pb.Span{pb.FromSpan(d.Span)}, From: 1})
	if err != nil || len(evs) != 1 {
		t.Errorf("%d events of history, want the one that it was born with: %v", len(evs), err)
	}
}

// TestBirthOfAWaitingReplica: the split of a range gives a replica that waits its state.
func TestBirthOfAWaitingReplica(t *testing.T) {
	dir := t.TempDir()
	r := started(t, dir)
	defer r.stop(t)
	d := childOf(shard.Span{Start: []byte("x")}, 0x11)
	if err := r.ranges.repairs.wait(d, d.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	if !r.ranges.held.wanted(t.Context(), child, 1) {
		t.Fatal("it is not to be born")
	}
	if _, runs := r.raft.Status(child); runs || r.ranges.repairs.isLost(child) {
		t.Fatal("it still waits")
	}
	if !r.ranges.held.isListed(child) { // who speaks to it now is not heard
		t.Fatal("it may wait beside its birth")
	}
	makeFile(t, dir, d, raftgroup.BirthPosition())
	if here, err := r.ranges.addReplica(d, d.Replicas[0], beginning{campaign: true, born: true}); err != nil || !here {
		t.Fatalf("born: %v, %v", here, err)
	}
	r.ranges.held.born(child)
	eventually(t, "it leads", func() bool { return r.leads(child) })
	if r.ranges.held.wanted(t.Context(), child, 1) {
		t.Error("a split would make it anew")
	}
}

// TestMutants: each rule of what a node holds is noticed when it is taken out.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.HostNames(), 3*time.Minute, mutatetest.Died,
		"-test.run=^(TestStartByTheList|TestOrphanIsLeftAlone|TestMetaIsLaidOutOnce|TestWaitingReplica|TestBirthOfAWaitingReplica|TestRemoval.*|TestHazard5[2-5]|TestMetaGroupMoves|TestReception|TestDepartureBeforeAStop|TestDiscoverIsAskedToConfirm|TestALeft.*|TestAReplicaThatCannotMerge)$", "-test.failfast")
}
