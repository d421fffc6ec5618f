package replica

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// pair is two ranges that meet at "m", 2 and 3, whose replicas on node 11 are here and lead. The other nodes answer as the test says.
type pair struct {
	left, right *fixture
	cfg         Config // of the left one

	mu     sync.Mutex
	frozen int   // other nodes on which the right is frozen, of two
	cannot error // what the other nodes say; nil: that they are ready
	gone   []shard.RangeID
	asked  []string // what the right was asked for
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{frozen: 2}
	desc := func(id shard.RangeID, start, end string) shard.Descriptor {
		d := replicatest.TestDesc
		d.ID, d.Span = id, shard.Span{Start: []byte(start), End: []byte(end)}
		return d
	}
	oracle := &counter{rev: 1}
	p.right = newFixture(t, func(c *Config) { c.Desc, c.Oracle = desc(3, "m", ""), oracle })
	p.left = newFixture(t, func(c *Config) {
		c.Desc, c.Oracle = desc(2, "", "m"), oracle
		c.Nodes, c.Neighbours, c.Ranges = p, p, pairRanges{noRanges{}, p}
		p.cfg = *c
	})
	return p
}

// seen is which ranges have been reported gone, and what the right was asked for.
func (p *pair) seen() (gone []shard.RangeID, asked []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.gone), slices.Clone(p.asked)
}

// CallFunc implements Nodes.
func (p *pair) CallFunc(_ context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	p.mu.Lock()
	frozen, cannot := int(to)-11 <= p.frozen, p.cannot
	p.mu.Unlock()
	if cannot != nil {
		cb(&pb.PeerResponse{Error: pb.ErrorToPB(cannot)}, nil)
		return
	}
	m := p.right.r.Shape()
	cb(&pb.PeerResponse{PrepareMerge: &pb.PrepareMergeResponse{Ready: true, Frozen: frozen && m.FrozenFor(req.PrepareMerge.Merge.Op)}}, nil)
}

// Neighbour, Await, Changed and Merged implement Neighbours.
func (p *pair) Neighbour(shard.RangeID) *Replica { return p.right.r }

func (p *pair) Await(_, _ shard.RangeID) (*Replica, error) { return p.right.r, nil }

func (p *pair) Changed(shard.RangeID) {}

func (p *pair) Merged(id shard.RangeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = append(p.gone, id)
}

// pairRanges asks the right range.
type pairRanges struct {
	noRanges
	p *pair
}

func (r pairRanges) Change(_ context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	what := "freeze"
	if req.Freeze.Thaw {
		what = fmt.Sprintf("thaw behind generation %d", r.p.left.r.Desc().Generation)
	}
	r.p.mu.Lock()
	r.p.asked = append(r.p.asked, what)
	r.p.mu.Unlock()
	return changed(r.p.right.r, req)
}

// changed asks a replica for a change.
func changed(r *Replica, req *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	type result struct {
		resp *pb.ChangeResponse
		err  error
	}
	ch := make(chan result, 1)
	r.Change(context.Background(), req, func(resp *pb.ChangeResponse, err error) { ch <- result{resp, err} })
	x := <-ch
	return x.resp, x.err
}

func mergeRequest(op uint64) *pb.ChangeRequest {
	return &pb.ChangeRequest{RangeId: 2, Merge: &pb.Merge{Op: op, Generation: 1, Right: 3, RightGeneration: 1}}
}

// TestARangeIsMerged: the left has the keys of both, their history and their leases, under the revisions that they were written with; its feed says gap; and a restart
// finds the same.
func TestARangeIsMerged(t *testing.T) {
	p := newPair(t)
	p.left.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	p.right.mustWrite(t, replicatest.PutLease("x", "1", 7), "3 put@3")
	p.left.mustWrite(t, replicatest.PutLease("b", "1", 7), "4 put@4")
	p.right.mustWrite(t, replicatest.Put("y", "1"), "5 put@5")
	p.right.mustWrite(t, replicatest.Put("y", "2"), "6 put@6 prev 1@5")
	resp, err := changed(p.left.r, mergeRequest(5))
	if err != nil || resp.Outcome != uint32(shard.ChangeDone) {
		t.Fatalf("%v, %v", resp, err)
	}
	if d := p.left.r.Desc(); d.Generation != 3 || len(d.Span.Start)+len(d.Span.End) != 0 {
		t.Errorf("the left is %+v", d)
	}
	if again, err := changed(p.left.r, mergeRequest(5)); err != nil || again.Outcome != resp.Outcome {
		t.Errorf("asked again: %v, %v", again, err)
	}
	gone, asked := p.seen()
	for limit := time.Now().Add(10 * time.Second); len(gone) == 0 && time.Now().Before(limit); gone, asked = p.seen() { // the answer may come before it
		runtime.Gosched()
	}
	if !slices.Equal(gone, []shard.RangeID{3}) || !slices.Equal(asked, []string{"freeze"}) {
		t.Errorf("gone: %v, asked: %v", gone, asked)
	}
	look := func(r *Replica) {
		t.Helper()
		m := r.machine()
		if m.Last != 6 || m.Frozen != nil || !m.LeaseUsable(7) && len(m.Attachments) != 1 {
			t.Errorf("last %d, frozen %v, attached %v", m.Last, m.Frozen, m.Attachments)
		}
		kv, ok, err := r.store.Get([]byte("y"), 5)
		if err != nil || !ok || string(kv.Value) != "1" || kv.ModRevision != 5 {
			t.Errorf("y at 5: %v %v %v", kv, ok, err)
		}
		keys, err := r.store.LeaseKeys(7, 0)
		if err != nil || len(keys) != 2 {
			t.Errorf("the lease has %q, %v", keys, err)
		}
	}
	look(p.left.r)
	p.left.mustWrite(t, replicatest.Put("z", "1"), "7 put@7") // who led goes on
	p.left.mustWrite(t, replicatest.Put("a", "2"), "8 put@8 prev 1@2")
	p.left.feed.mu.Lock()
	gaps := 0
	for _, it := range p.left.feed.items {
		if it.Gap && it.Generation == 3 {
			gaps++
		}
	}
	p.left.feed.mu.Unlock()
	if gaps != 1 {
		t.Errorf("%d gaps behind the merge", gaps)
	}
	if err := p.left.r.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, p.cfg)
	if d := again.Desc(); d.Generation != 3 || len(d.Span.End) != 0 || again.machine().Last != 8 {
		t.Errorf("after a restart it is %+v", d)
	}
}

// TestHazard68: what is closed in a range that was merged is what was closed in both parts, or is in its log.
func TestHazard68(t *testing.T) {
	for _, closed := range [][2]int64{{20, 10}, {10, 20}, {30, 30}} {
		p := newPair(t)
		p.left.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
		p.right.mustWrite(t, replicatest.Put("x", "1"), "3 put@3")
		for i, f := range []*fixture{p.left, p.right} {
			f.r.mu.Lock()
			f.r.mu.m.AdvanceClosed(closed[i])
			f.r.publishLocked()
			f.r.mu.Unlock()
		}
		if resp, err := changed(p.left.r, mergeRequest(5)); err != nil || resp.Outcome != uint32(shard.ChangeDone) {
			t.Fatalf("%v, %v", resp, err)
		}
		if got, want := p.left.r.ClosedRevision(), min(closed[0], closed[1]); got != want {
			t.Errorf("closed at %v, the range is closed at %d", closed, got)
		}
	}
}

// TestAFrozenRangeStands: who wants what is newest is refused there, writers and readers.
func TestAFrozenRangeStands(t *testing.T) {
	p := newPair(t)
	p.right.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	f := &pb.Freeze{Op: 5, Generation: 1, Left: 2, LeftGeneration: 1}
	for range 2 { // the second time it is so already
		if resp, err := changed(p.right.r, &pb.ChangeRequest{RangeId: 3, Freeze: f}); err != nil || resp.Outcome != uint32(shard.ChangeDone) || resp.Range.Generation != 2 {
			t.Fatalf("frozen: %v, %v", resp, err)
		}
	}
	if w := p.right.write(t, replicatest.Put("x", "2")); !isWrongRange(w.err) {
		t.Errorf("a write: %v, %v", w.resp, w.err)
	}
	if resp, err := p.right.fenceRead(t, &pb.ReadRequest{Span: pb.FromSpan(shard.Point([]byte("x"))), Revision: 2}); !isWrongRange(err) {
		t.Errorf("a fence: %v, %v", resp, err)
	}
	thaw := &pb.ChangeRequest{RangeId: 3, Freeze: &pb.Freeze{Thaw: true, Op: 5, Generation: 1}}
	if resp, err := changed(p.right.r, thaw); err != nil || resp.Outcome != uint32(shard.ChangeDone) || resp.Range.Generation != 3 {
		t.Fatalf("thawed: %v, %v", resp, err)
	}
	if resp, err := changed(p.right.r, &pb.ChangeRequest{RangeId: 3, Freeze: f}); err != nil || resp.Outcome != uint32(shard.ChangeGivenUp) {
		t.Errorf("frozen once more by what came late: %v, %v", resp, err)
	}
	if w := p.right.write(t, replicatest.Put("x", "2")); w.err != nil {
		t.Errorf("a write behind the thaw: %v", w.err)
	}
}

// TestHazard35: who has frozen a range dies. Whoever is asked for the merge next finds that, and the span comes back: as part of the left, or thawed, where the merge is to
// be given up, or one replica has not heard of the freeze.
func TestHazard35(t *testing.T) {
	for _, tc := range []struct {
		what   string
		frozen int // other nodes on which the right is, of two
		giveUp bool
		is     shard.ChangeOutcome
		asked  []string
	}{
		{"it goes on", 2, false, shard.ChangeDone, nil},
		{"it is given up", 2, true, shard.ChangeGivenUp, []string{"thaw behind generation 2"}},
		{"it cannot go on", 1, false, shard.ChangeGivenUp, []string{"thaw behind generation 2"}},
	} {
		p := newPair(t)
		p.right.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
		f := &pb.Freeze{Op: 5, Generation: 1, Left: 2, LeftGeneration: 1}
		if resp, err := changed(p.right.r, &pb.ChangeRequest{RangeId: 3, Freeze: f}); err != nil || resp.Outcome != uint32(shard.ChangeDone) {
			t.Fatalf("frozen: %v, %v", resp, err)
		}
		p.frozen = tc.frozen
		req := mergeRequest(5)
		req.GiveUp = tc.giveUp
		if resp, err := changed(p.left.r, req); err != nil || resp.Outcome != uint32(tc.is) {
			t.Fatalf("%s: %v, %v", tc.what, resp, err)
		}
		_, asked := p.seen()
		asked = slices.DeleteFunc(asked, func(what string) bool { return what == "freeze" })
		if !slices.Equal(asked, tc.asked) {
			t.Errorf("%s: the right was asked for %q", tc.what, asked)
		}
		holds := p.right
		if tc.is == shard.ChangeDone {
			holds = p.left
		}
		if w := holds.write(t, replicatest.Put("x", "2")); w.err != nil {
			t.Errorf("%s: a write: %v", tc.what, w.err)
		}
	}
}

// TestHazard35ANodeIsDown: who has frozen a range dies with a node of both, and does not come back. The range is thawed, and does not stand until all could take part.
func TestHazard35ANodeIsDown(t *testing.T) {
	p := newPair(t)
	p.right.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	f := &pb.Freeze{Op: 5, Generation: 1, Left: 2, LeftGeneration: 1}
	if resp, err := changed(p.right.r, &pb.ChangeRequest{RangeId: 3, Freeze: f}); err != nil || resp.Outcome != uint32(shard.ChangeDone) {
		t.Fatalf("frozen: %v, %v", resp, err)
	}
	p.cannot = fmt.Errorf("%w: the node is down", shard.ErrUnavailable)
	over := make(chan error, 1)
	go func() {
		resp, err := changed(p.left.r, mergeRequest(5))
		if err == nil && resp.Outcome != uint32(shard.ChangeGivenUp) {
			err = fmt.Errorf("it ends with %v", resp)
		}
		over <- err
	}()
	select {
	case err := <-over:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the range stands")
	}
	if w := p.right.write(t, replicatest.Put("x", "2")); w.err != nil {
		t.Errorf("a write: %v", w.err)
	}
}

// TestHazard50: nothing behind a freeze has an effect, until the thaw.
func TestHazard50(t *testing.T) {
	g := newLoneGroup()
	t.Cleanup(g.stop)
	r := open(t, testConfig(t.TempDir(), 1, g, &counter{rev: 1}, &feedLog{}))
	index := uint64(10)
	entry := func(e *pb.Entry) {
		t.Helper()
		e.Term = 6
		index++
		if err := r.Apply([]raftgroup.Entry{{Index: index, Term: 6, Data: apply.Marshal(e)}}); err != nil {
			t.Fatal(err)
		}
	}
	half := &pb.LeaseHalf{Lease: 7, GrantIndex: 5, Span: pb.FromSpan(shard.All)}
	entry(&pb.Entry{Freeze: &pb.Freeze{Op: 5, Generation: 1}})
	entry(&pb.Entry{LeaseHalf: half})
	entry(&pb.Entry{Epoch: 9, EpochRaise: &pb.EpochRaise{}})
	entry(&pb.Entry{GenRise: &pb.GenRise{Generation: 2, Op: 6}})
	m := r.machine()
	if len(m.Attachments) != 0 || m.Epoch != 0 || m.Desc.Generation != 2 || !m.FrozenFor(5) || m.Index != index {
		t.Errorf("behind the freeze: %v, epoch %d, %+v, frozen %v", m.Attachments, m.Epoch, m.Desc, m.Frozen)
	}
	entry(&pb.Entry{Freeze: &pb.Freeze{Thaw: true, Op: 5, Generation: 1}})
	entry(&pb.Entry{LeaseHalf: half})
	if len(m.Attachments) != 1 || m.Frozen != nil || m.Desc.Generation != 3 {
		t.Errorf("behind the thaw: %v, %+v, frozen %v", m.Attachments, m.Desc, m.Frozen)
	}
}

// TestHazard51And56: a merge of which one replica of the right is not frozen is given up; first the left rises, and then the right is thawed. Both go on.
func TestHazard51And56(t *testing.T) {
	p := newPair(t)
	p.frozen = 1
	resp, err := changed(p.left.r, mergeRequest(5))
	if err != nil || resp.Outcome != uint32(shard.ChangeGivenUp) || resp.Child.GetGeneration() != 3 {
		t.Fatalf("%v, %v", resp, err)
	}
	gone, asked := p.seen()
	if d := p.left.r.Desc(); d.Generation != 2 || string(d.Span.End) != "m" || len(gone) != 0 {
		t.Errorf("the left is %+v; gone: %v", d, gone)
	}
	if want := []string{"freeze", "thaw behind generation 2"}; !slices.Equal(asked, want) {
		t.Errorf("the right was asked for %q, want %q", asked, want)
	}
	if w := p.right.write(t, replicatest.Put("x", "2")); w.err != nil {
		t.Errorf("a write of the right: %v", w.err)
	}
	if w := p.left.write(t, replicatest.Put("a", "2")); w.err != nil {
		t.Errorf("a write of the left: %v", w.err)
	}
}

// TestUnite: halves of a lease for the same grant become one, others stay as they are; records come along.
func TestUnite(t *testing.T) {
	p := newPair(t)
	whole := shard.Span{Start: []byte(""), End: []byte("m")}
	for _, h := range []struct {
		f    *fixture
		half *pb.LeaseHalf
	}{
		{p.left, &pb.LeaseHalf{Lease: 7, GrantIndex: 5, Span: pb.FromSpan(whole)}}, {p.left, &pb.LeaseHalf{Lease: 7, GrantIndex: 5, Span: pb.FromSpan(whole), Attached: true}},
		{p.left, &pb.LeaseHalf{Lease: 8, GrantIndex: 6, Span: pb.FromSpan(whole)}}, {p.left, &pb.LeaseHalf{Lease: 8, GrantIndex: 6, Span: pb.FromSpan(whole), Attached: true}},
		{p.right, &pb.LeaseHalf{Lease: 8, GrantIndex: 6, Span: pb.FromSpan(shard.Span{Start: []byte("m")})}},
		{p.right, &pb.LeaseHalf{Lease: 7, GrantIndex: 5, Span: pb.FromSpan(shard.Span{Start: []byte("m")})}},
		{p.right, &pb.LeaseHalf{Lease: 7, GrantIndex: 5, Span: pb.FromSpan(shard.Span{Start: []byte("m")}), Attached: true}},
	} {
		if err := h.f.g.ProposeFunc(2, h.f.g.term, apply.Marshal(&pb.Entry{Term: h.f.g.term, LeaseHalf: h.half}), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []*fixture{p.left, p.right} {
		waitFor(t, func() bool {
			f.r.mu.Lock()
			defer f.r.mu.Unlock()
			_, both := f.r.mu.m.Attachments[8]
			return f.r.mu.m.Attachments[7].Attached && both
		})
	}
	r := *p.right.r.machine()
	record := &pb.Commit{Id: &pb.TxnID{AnchorRange: 3, Term: 6, Seq: 1}, Revision: 9}
	right := withState{p.right.r.store.Store, map[string][]byte{apply.StateRecord + "x": apply.Marshal(record)}}
	state, err := apply.Unite(p.left.r.machine(), &apply.Decision{}, p.left.r.store.Store, right, &r)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for _, u := range state {
		got[u.Key] = u.Value
	}
	half := &pb.LeaseHalf{}
	if err := half.UnmarshalVT(got[apply.AttachmentKey(7)]); err != nil || len(half.Span.Start)+len(half.Span.End) != 0 || !half.Attached {
		t.Errorf("the lease is attached to %v, %v", half, err)
	}
	narrow := &pb.LeaseHalf{}
	if err := narrow.UnmarshalVT(got[apply.AttachmentKey(8)]); err != nil || string(narrow.Span.End) != "m" || !narrow.Attached {
		t.Errorf("the lease that is attached to the left alone is attached to %v, %v", narrow, err)
	}
	if got[apply.StateRecord+"x"] == nil {
		t.Error("the right's record is lost")
	}
}

// withState is a store with more state.
type withState struct {
	*mvcc.Store
	more map[string][]byte
}

func (w withState) RangeState(prefix string, fn func(string, []byte) bool) {
	w.Store.RangeState(prefix, fn)
	for k, v := range w.more {
		fn(k, v)
	}
}

// TestPartsThatMeet: two parts of a transaction that were planned for two ranges are not taken for one.
func TestPartsThatMeet(t *testing.T) {
	f := newFixture(t)
	prepare := func(key string) error {
		ch := make(chan error, 1)
		req := &pb.PrepareRequest{RangeId: 2, Prepare: &pb.Prepare{
			Id: &pb.TxnID{AnchorRange: 2, Term: 6, Seq: 1}, AnchorKey: []byte("a"), Write: []*pb.Span{pb.FromSpan(shard.Point([]byte(key)))},
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		f.r.Prepare(ctx, req, func(_ *pb.PrepareResponse, err error) { ch <- err })
		return <-ch
	}
	if err := prepare("a"); err != nil {
		t.Fatal(err)
	}
	if err := prepare("x"); !isWrongRange(err) {
		t.Errorf("the other part: %v", err)
	}
}

// TestMergeBadInput: what cannot be is refused, and nothing is frozen.
func TestMergeBadInput(t *testing.T) {
	p := newPair(t)
	for name, mg := range map[string]*pb.Merge{
		"no op": {Generation: 1, Right: 3, RightGeneration: 1}, "itself": {Op: 5, Generation: 1, Right: 2, RightGeneration: 9},
		"another right": {Op: 5, Generation: 1, Right: 3, RightGeneration: 9},
	} {
		if resp, err := changed(p.left.r, &pb.ChangeRequest{RangeId: 2, Merge: mg}); err == nil {
			t.Errorf("%s: %v", name, resp)
		} else if !errors.Is(err, shard.ErrInvalid) && !errors.Is(err, shard.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, cannot := range []error{shard.ErrNoSpace, shard.ErrInvalid} { // another node says so, which would say so again
		p.cannot = fmt.Errorf("%w: there", cannot)
		if resp, err := changed(p.left.r, mergeRequest(5)); !errors.Is(err, cannot) {
			t.Errorf("%v: %v, %v", cannot, resp, err)
		}
	}
	if _, asked := p.seen(); len(asked) != 0 || p.right.r.Shape().Frozen != nil {
		t.Errorf("the right was asked for %v", asked)
	}
}
