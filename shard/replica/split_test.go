package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// readyNodes are nodes whose replicas have copied their part, or have no room.
type readyNodes struct{ err error }

func (n readyNodes) CallFunc(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	if n.err != nil {
		cb(&pb.PeerResponse{Error: pb.ErrorToPB(n.err)}, nil)
		return
	}
	cb(&pb.PeerResponse{PrepareSplit: &pb.PrepareSplitResponse{Ready: req.PrepareSplit != nil}}, nil)
}

// nursery keeps what has come into being.
type nursery struct {
	mu       sync.Mutex
	unwanted bool
	look     func() // at each birth; nil: nobody does
	born     []Birth
}

func (b *nursery) Wanted(shard.RangeID, shard.ReplicaID) bool { return !b.unwanted }

func (b *nursery) Born(birth Birth) {
	if b.look != nil {
		b.look()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.born = append(b.born, birth)
}

func (b *nursery) all() []Birth {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.born
}

// await waits for a birth, which the answer to a split may come before.
func (b *nursery) await() []Birth {
	for limit := time.Now().Add(10 * time.Second); len(b.all()) == 0 && time.Now().Before(limit); {
		runtime.Gosched()
	}
	return b.all()
}

func splitting(t *testing.T, b *nursery, nodes Nodes) (*fixture, Config) {
	t.Helper()
	var cfg Config
	f := newFixture(t, func(c *Config) {
		c.Births, c.Nodes = b, nodes
		cfg = *c
	})
	return f, cfg
}

func splitRequest(at string, gen, op uint64) *pb.ChangeRequest {
	return &pb.ChangeRequest{RangeId: 2, Split: &pb.Split{At: []byte(at), Child: 9, Generation: gen, Op: op, Replicas: []*pb.ReplicaDesc{
		{ReplicaId: 4, NodeId: 11}, {ReplicaId: 5, NodeId: 12}, {ReplicaId: 6, NodeId: 13},
	}}}
}

func (f *fixture) split(t *testing.T, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	t.Helper()
	type result struct {
		resp *pb.ChangeResponse
		err  error
	}
	ch := make(chan result, 1)
	f.r.Change(t.Context(), req, func(resp *pb.ChangeResponse, err error) { ch <- result{resp, err} })
	x := <-ch
	return x.resp, x.err
}

// TestAReplicaIsCut: each part has its keys, its history and its leases, under the revisions that they were written with; the feed says where
// the border is, and both say the same after a restart.
func TestAReplicaIsCut(t *testing.T) {
	b := &nursery{}
	f, cfg := splitting(t, b, readyNodes{})
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	f.mustWrite(t, replicatest.PutLease("x", "1", 7), "3 put@3")
	f.mustWrite(t, replicatest.Put("x2", "1"), "4 put@4")
	f.mustWrite(t, replicatest.Put("x2", "2"), "5 put@5 prev 1@4")
	resp, err := f.split(t, splitRequest("m", 1, 5))
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.split(t, splitRequest("m", 1, 5))
	if err != nil || !proto.Equal(again.Range, resp.Range) || !proto.Equal(again.Child, resp.Child) {
		t.Errorf("asked again: %v, %v; at first %v", again, err, resp)
	}
	born := b.await()
	if len(born) != 1 || born[0].Desc.ID != 9 || born[0].Self.ID != 4 || !born[0].Leads || born[0].Closed < 5 {
		t.Fatalf("born: %+v", born)
	}
	ccfg := cfg
	ccfg.Desc, ccfg.Self, ccfg.Closed, ccfg.Feed = shard.Descriptor{ID: 9}, born[0].Self, born[0].Closed, &feedLog{}
	child := open(t, ccfg)
	if d := child.Desc(); string(d.Span.Start) != "m" || d.Generation != 2 || len(d.Replicas) != 3 {
		t.Errorf("the child is %+v", d)
	}
	if child.AppliedIndex() != 11 || child.ClosedRevision() != born[0].Closed {
		t.Errorf("the child begins at index %d, closed at %d", child.AppliedIndex(), child.ClosedRevision())
	}
	page := readAll(t, child, &pb.ReadRequest{Span: pb.FromSpan(shard.Span{Start: []byte("m")}), Revision: 4})
	if got := fmt.Sprint(len(page.Kvs), page.Count); got != "2 2" || string(page.Kvs[1].Value) != "1" || page.Kvs[0].Lease != 7 {
		t.Errorf("the child at revision 4 has %v", page.Kvs)
	}
	evs, _, err := child.History(&pb.HistoryRequest{RangeId: 9, From: 1, Spans: []*pb.Span{pb.FromSpan(shard.Span{Start: []byte("m")})}})
	if err != nil || len(evs) != 3 {
		t.Errorf("the child's history from before it was born: %d events, %v", len(evs), err)
	}
	if w := f.write(t, replicatest.Put("x", "2")); !isWrongRange(w.err) {
		t.Errorf("the left takes a key of the right: %v", w.err)
	}
	f.mustWrite(t, replicatest.Put("b", "2"), "6 put@6")
	if r := readAll(t, f.r, &pb.ReadRequest{Span: pb.FromSpan(shard.Span{Start: []byte{0}, End: []byte("m")}), Revision: 6}); len(r.Kvs) != 2 {
		t.Errorf("the left has %v", r.Kvs)
	}
	borders := 0
	f.feed.mu.Lock()
	for i, it := range f.feed.items {
		if it.Border == nil {
			continue
		}
		borders++
		if it.Generation != 1 || it.Closed != born[0].Closed || string(it.Border.At) != "m" || it.Border.Child != 9 || it.Border.Generation != 2 {
			t.Errorf("the border is %+v %+v", it, it.Border)
		}
		if f.feed.items[i+1].Generation != 2 {
			t.Errorf("behind the border comes %+v", f.feed.items[i+1])
		}
	}
	f.feed.mu.Unlock()
	if borders != 1 {
		t.Errorf("%d borders", borders)
	}
	if resp, err := f.split(t, splitRequest("c", 1, 6)); err != nil || resp.Outcome != uint32(shard.ChangeGivenUp) || resp.Range.Generation != 2 {
		t.Errorf("a split that was decided for the range as it was: %v, %v", resp, err)
	}
}

func isWrongRange(err error) bool {
	var wr *shard.WrongRangeError
	return errors.As(err, &wr)
}

// TestHazard41: the child's file is there before the parent's is past the entry, and that before the child is served. Where the child's
// cannot be made the parent stays in front of the entry, and a restart cuts.
func TestHazard41(t *testing.T) {
	b := &nursery{}
	g := newLoneGroup()
	t.Cleanup(g.stop)
	cfg := testConfig(t.TempDir(), 1, g, &counter{rev: 1}, &feedLog{})
	cfg.Births = b
	entry := func(r *Replica, index uint64, e *pb.Entry) error {
		e.Term, e.Epoch = 6, 1
		return r.Apply([]raftgroup.Entry{{Index: index, Term: 6, Data: apply.Marshal(e)}})
	}
	cut := func(r *Replica) error {
		return entry(r, 12, &pb.Entry{Closed: 2, Split: splitRequest("m", 1, 5).Split})
	}
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := entry(r, 11, &pb.Entry{Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{replicatest.Put("x", "1")}}}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cfg.Dir, "r9")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the child's way
		t.Fatal(err)
	}
	if err := cut(r); err == nil || len(b.all()) != 0 {
		t.Errorf("a cut without a file for the right part: %v, %d born", err, len(b.all()))
	}
	if err := errors.Join(r.Close(), os.Remove(dir)); err != nil {
		t.Fatal(err)
	}
	r = open(t, cfg)
	if d := r.Desc(); d.Generation != 1 || r.AppliedIndex() != 11 {
		t.Fatalf("after a restart the range is %+v, at entry %d", d, r.AppliedIndex())
	}
	b.look = func() {
		if _, err := os.Stat(filepath.Join(dir, storeFile)); err != nil || r.Durable() != 12 {
			t.Errorf("the child is served: its file: %v; the parent's is at entry %d", err, r.Durable())
		}
	}
	if err := cut(r); err != nil || len(b.all()) != 1 {
		t.Errorf("the cut: %v, %d born", err, len(b.all()))
	}
}

// TestAChildThatIsHereIsLeftAlone: only what is cut off goes (hazard 42).
func TestAChildThatIsHereIsLeftAlone(t *testing.T) {
	b := &nursery{unwanted: true}
	f, cfg := splitting(t, b, readyNodes{})
	f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	if _, err := f.split(t, splitRequest("m", 1, 5)); err != nil {
		t.Fatal(err)
	}
	if n := len(b.all()); n != 0 {
		t.Errorf("%d children are born", n)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "r9", storeFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the child has a file: %v", err)
	}
}

// TestASplitIsGivenUp: for good, whatever comes late; and asked again it says so.
func TestASplitIsGivenUp(t *testing.T) {
	b := &nursery{}
	f, _ := splitting(t, b, readyNodes{})
	req := splitRequest("m", 1, 5)
	req.GiveUp = true
	for range 2 {
		resp, err := f.split(t, req)
		if err != nil || resp.Child != nil || resp.Range.Generation != 2 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	if resp, err := f.split(t, splitRequest("m", 1, 5)); err != nil || resp.Child != nil {
		t.Errorf("the split that was given up: %v, %v", resp, err)
	}
	f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
}

// TestASplitWithoutRoom: nothing is cut where a majority could not hold both parts, and the range goes on.
func TestASplitWithoutRoom(t *testing.T) {
	f, _ := splitting(t, &nursery{}, readyNodes{shard.ErrNoSpace})
	if _, err := f.split(t, splitRequest("m", 1, 5)); !errors.Is(err, shard.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
}

// TestSplitBadInput: what cannot be is refused at the door.
func TestSplitBadInput(t *testing.T) {
	f, _ := splitting(t, &nursery{}, readyNodes{})
	for name, req := range map[string]*pb.ChangeRequest{
		"nothing": {RangeId: 2}, "no op": splitRequest("m", 1, 0), "no key": splitRequest("", 1, 5),
		"another generation": splitRequest("m", 2, 5),
	} {
		if _, err := f.split(t, req); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]*pb.PrepareSplitRequest{"nothing": {RangeId: 2}, "no child": {RangeId: 2, At: []byte("m"), Op: 4}} {
		f.r.PrepareSplit(t.Context(), req, func(_ *pb.PrepareSplitResponse, err error) {
			if !errors.Is(err, shard.ErrInvalid) {
				t.Errorf("prepare %s: %v", name, err)
			}
		})
	}
	f.r.PrepareSplit(t.Context(), &pb.PrepareSplitRequest{RangeId: 2, At: []byte("m"), Child: 9, Op: 4, Generation: 3}, func(_ *pb.PrepareSplitResponse, err error) {
		if !isWrongRange(err) {
			t.Errorf("prepare for another generation: %v", err)
		}
	})
}

// TestNoCutWithoutAChild: where no range can come into being the keys stay where they are, and the op can be given up.
func TestNoCutWithoutAChild(t *testing.T) {
	f := newFixture(t, func(*Config) {})
	f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	if _, err := f.split(t, splitRequest("m", 1, 5)); !errors.Is(err, shard.ErrUnimplemented) || f.r.Desc().Generation != 1 {
		t.Errorf("cut: %v, %+v", err, f.r.Desc())
	}
	req := splitRequest("m", 1, 5)
	req.GiveUp = true
	if resp, err := f.split(t, req); err != nil || resp.Child != nil || resp.Range.Generation != 2 {
		t.Errorf("given up: %v, %v", resp, err)
	}
}

// TestABorderIsClosedForBothParts: a follower that is late has heard from the leader that the left part is closed, before it applies the
// cut. The right part takes writes below that; neither the border nor the child may say that there are none.
func TestABorderIsClosedForBothParts(t *testing.T) {
	b := &nursery{}
	feed := &feedLog{}
	g := newLoneGroup()
	t.Cleanup(g.stop)
	cfg := testConfig(t.TempDir(), 1, g, &counter{rev: 1}, feed)
	cfg.Births = b
	r := open(t, cfg)
	entry := func(index uint64, e *pb.Entry) {
		e.Term = 6
		if err := r.Apply([]raftgroup.Entry{{Index: index, Term: 6, Data: apply.Marshal(e)}}); err != nil {
			t.Fatal(err)
		}
	}
	entry(11, &pb.Entry{Epoch: 1, Closed: 2, Batch: &pb.Batch{FirstRevision: 2, Requests: []*pb.Op{replicatest.Put("x", "1")}}})
	r.LearnClosed(40, 1, 6, 12) // by a leader that has applied the cut
	entry(12, &pb.Entry{Closed: 5, Split: splitRequest("m", 1, 5).Split})
	born := b.all()
	if len(born) != 1 || born[0].Closed != 5 || born[0].Leads {
		t.Errorf("born: %+v", born)
	}
	if r.ClosedRevision() != 40 {
		t.Errorf("the left part is closed at %d", r.ClosedRevision())
	}
	feed.mu.Lock()
	defer feed.mu.Unlock()
	for _, it := range feed.items {
		if it.Border != nil && it.Closed != 5 {
			t.Errorf("the border is closed at %d, and the child has yet to get revision 6", it.Closed)
		}
	}
}

// TestALevelCopyGivesItsTurnBack: it waits for the copies of other nodes, which may wait for a turn that a level copy has there. So four splits at once
// stood for good on three nodes with two turns each.
func TestALevelCopyGivesItsTurnBack(t *testing.T) {
	turns := make(chan struct{}, 1)
	var copies []func() bool
	for range 3 {
		f := newFixture(t, func(c *Config) { c.Births, c.Nodes, c.Copying = &nursery{}, readyNodes{}, turns })
		f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
		copies = append(copies, func() (ready bool) {
			req := &pb.PrepareSplitRequest{RangeId: 2, Generation: 1, At: []byte("m"), Child: 8, Op: 4}
			f.r.PrepareSplit(t.Context(), req, func(resp *pb.PrepareSplitResponse, err error) { ready = err == nil && resp.Ready })
			return ready
		})
	}
	waitFor(t, func() bool {
		all := true
		for _, ready := range copies {
			all = ready() && all
		}
		return all
	})
}

// TestACopyIsLetGoOf: one that another has replaced while the replica closed is thrown away by Close, before the store is closed; and its
// context ends with it.
func TestACopyIsLetGoOf(t *testing.T) {
	f, cfg := splitting(t, &nursery{}, readyNodes{})
	f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	prepare := func(op, child uint64) (ready bool) {
		req := &pb.PrepareSplitRequest{RangeId: 2, Generation: 1, At: []byte("m"), Child: child, Op: op}
		f.r.PrepareSplit(t.Context(), req, func(resp *pb.PrepareSplitResponse, err error) { ready = err == nil && resp.Ready })
		return ready
	}
	waitFor(t, func() bool { return prepare(4, 8) })
	copied := f.r.copies.mu.cur
	f.r.mu.Lock()
	f.r.mu.closed = true // Close has begun
	f.r.mu.Unlock()
	prepare(5, 9)
	f.r.mu.Lock()
	f.r.mu.closed = false
	f.r.mu.Unlock()
	if f.r.copies.mu.cur != copied {
		t.Error("nobody knows of the copy any more")
	}
	f.r.copies.drop()
	if _, err := os.Stat(filepath.Join(cfg.Dir, "r8")); !errors.Is(err, os.ErrNotExist) || copied.ctx.Err() == nil {
		t.Errorf("the copy, or the directory that was made for it, is still there: %v, %v", err, copied.ctx.Err())
	}
	if waitFor(t, func() bool { return prepare(6, 10) }); f.r.copies.mu.cur == nil {
		t.Fatal("no copy was made")
	}
	mine := filepath.Join(cfg.Dir, "r10", "of-another")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.r.copies.drop()
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("what is not of the copy has gone with it: %v", err)
	}
}

// TestCopyPace: a copy works half of the time where the processor is free, and more where it has to wait for its turn.
func TestCopyPace(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		late, took, pause time.Duration
		steps             int
		spare             bool
	}{
		{0, 5 * ms, 5 * ms, 1, true}, {-ms, 5 * ms, 5 * ms, 1, true}, {19 * ms, 99 * ms, 99 * ms, 1, true}, {0, 300 * ms, copySlow, 1, false},
		{20 * ms, 300 * ms, copyShort, 2, false}, {50 * ms, ms, ms, 3, false}, {time.Hour, 300 * ms, copyShort, copyStepsMax, false},
	} {
		var p copyPace
		p.woke(c.late)
		if steps, pause := p.steps(true), p.pause(c.took, 1); steps != c.steps || pause != c.pause || p.spare() != c.spare {
			t.Errorf("%v late: %d steps, and %v after %v; time to spare: %v", c.late, steps, pause, c.took, p.spare())
		}
		if steps := p.steps(false); steps != 1 {
			t.Errorf("%v late, without a place: %d steps", c.late, steps)
		}
	}
}
