package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pontoon/internal/calls"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// endAt makes a replica's range end at a key, as the apply of a split does; "" makes it what it was. Nothing may be
// applied meanwhile.
func endAt(r *Replica, end string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.m.Desc.Span.End = []byte(end)
	r.mu.m.Desc.Generation++
	r.publishLocked()
}

func span(start, end string) *pb.Span { return &pb.Span{Start: []byte(start), End: []byte(end)} }

// checkRefused wants a refusal that tells of the range as it is now.
func checkRefused(t *testing.T, what string, err error) {
	t.Helper()
	var wrong *shard.WrongRangeError
	if !errors.As(err, &wrong) || len(wrong.Known) == 0 || string(wrong.Known[0].Span.End) != "m" {
		t.Errorf("%s: %v", what, err)
	}
}

// TestHazard38 cuts the range while a read is under way, in each place where it might look at the range's span too
// early.
func TestHazard38(t *testing.T) {
	t.Run("between the fence and the read", func(t *testing.T) {
		f, g := newCutting(t)
		g.cutAfter(1)
		_, err := f.fenceRead(t, &pb.ReadRequest{Span: span("n", "z")})
		checkRefused(t, "a fenced read", err)
	})
	t.Run("between the fence and the evaluation", func(t *testing.T) {
		f, g := newCutting(t)
		f.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
		g.cutAfter(1)
		w := f.write(t, replicatest.Cas("x", "2", 1)) // the compare fails
		checkRefused(t, "a compare that fails", w.err)
	})
	t.Run("in the middle of a scan", func(t *testing.T) {
		f := newFixture(t)
		scanCut(t, f)
	})
	t.Run("while the fence waits", func(t *testing.T) {
		f, g := newCutting(t)
		g.cutBefore(1)
		_, err := f.fenceRead(t, &pb.ReadRequest{Span: span("n", "z")})
		checkRefused(t, "a fence", err)
	})
}

// scanCut reads so many keys that the read looks at its context on the way. There the range is cut.
func scanCut(t *testing.T, f *fixture) {
	t.Helper()
	var ops []*pb.Op
	for i := range 1100 {
		ops = append(ops, replicatest.Put(string(name(i)), "v"))
	}
	if w := f.write(t, replicatest.Txn(nil, ops, nil)); w.err != nil {
		t.Fatal(w.err)
	}
	ctx := &cuttingContext{Context: t.Context(), cut: func() { endAt(f.r, "m") }}
	_, err := f.r.read(ctx, &pb.ReadRequest{Span: span("", "")})
	checkRefused(t, "a scan", err)
	ctx.once = sync.Once{}
	ctx.cut = func() { endAt(f.r, "l") }
	if resp, err := f.r.read(ctx, &pb.ReadRequest{Span: span("", "l")}); err != nil || len(resp.Kvs) != 1100 {
		t.Errorf("what is held still: %d keys, %v", len(resp.GetKvs()), err)
	}
}

// cuttingContext calls cut when it is first looked at.
type cuttingContext struct {
	context.Context
	once sync.Once
	cut  func()
}

func (c *cuttingContext) Err() error {
	c.once.Do(c.cut)
	return c.Context.Err()
}

// cuttingGroup cuts the range of its replica when a confirmation is given.
type cuttingGroup struct {
	*loneGroup
	mu     sync.Mutex
	r      *Replica
	before int // so many confirmations
	after  int
}

func newCutting(t *testing.T) (*fixture, *cuttingGroup) {
	t.Helper()
	g := &cuttingGroup{}
	f := newFixture(t, func(c *Config) {
		g.loneGroup = c.Host.(*loneGroup)
		c.Host = g
	})
	g.r = f.r
	return f, g
}

func (g *cuttingGroup) cutAfter(n int)  { g.mu.Lock(); defer g.mu.Unlock(); g.after = n }
func (g *cuttingGroup) cutBefore(n int) { g.mu.Lock(); defer g.mu.Unlock(); g.before = n }

func (g *cuttingGroup) Confirm(id shard.RangeID, term uint64, done func(bool, uint64)) {
	g.mu.Lock()
	g.before--
	g.after--
	before, after := g.before == 0, g.after == 0
	g.mu.Unlock()
	if before {
		endAt(g.r, "m")
	}
	g.loneGroup.Confirm(id, term, done)
	if after {
		endAt(g.r, "m")
	}
}

// TestReadsAgainWhatWasLost: keys that were given away while the store was read, and have come back, may be missing in
// what was read. A change of replicas takes no key away.
func TestReadsAgainWhatWasLost(t *testing.T) {
	desc := replicatest.TestDesc
	h := &holding{}
	hold := func(end string) {
		desc.Generation++
		desc.Span.End = []byte(end)
		h.hold([]shard.Descriptor{desc})
	}
	for _, tc := range []struct {
		name  string
		ends  []string // what the range's end becomes during the first read
		reads int
		err   bool
	}{
		{"nothing changes", nil, 1, false},
		{"the replicas change", []string{"z"}, 1, false},
		{"keys come", []string{""}, 1, false},
		{"others are lost", []string{"n"}, 2, false},
		{"keys are lost", []string{"k"}, 1, true},
		{"keys are lost and come back", []string{"k", "z"}, 2, false},
	} {
		hold("z")
		reads := 0
		err := h.reading(containing(shard.Span{Start: []byte("b"), End: []byte("m")}), func() error {
			if reads++; reads == 1 {
				for _, end := range tc.ends {
					hold(end)
				}
			}
			return nil
		})
		if reads != tc.reads || (err != nil) != tc.err {
			t.Errorf("%s: %d reads, %v", tc.name, reads, err)
		}
	}
}

// TestReadsDuringASplit lists the keys of a lease while the range is cut: all of them, or a refusal that tells of both
// parts, also before the replica has published the cut.
func TestReadsDuringASplit(t *testing.T) {
	f, _ := splitting(t, &nursery{}, readyNodes{})
	f.mustWrite(t, replicatest.PutLease("a", "1", 7), "2 put@2")
	f.mustWrite(t, replicatest.PutLease("x", "1", 7), "3 put@3")
	f.r.mu.Lock()
	d, err := f.r.mu.m.Decide(apply.Entry{Index: f.r.mu.m.Index + 1, Term: 6, Data: apply.Marshal(&pb.Entry{Term: 6, Split: splitRequest("m", 1, 5).Split})})
	if err != nil || d.Refused != nil {
		t.Fatal(err, d.Refused)
	}
	f.r.mu.Unlock()
	ref, err := f.r.stores.acquire()
	if err != nil {
		t.Fatal(err)
	}
	defer f.r.stores.release(ref)
	reads := 0
	err = ref.reading(containing(shard.All), func() error {
		if reads++; reads > 1 {
			return errors.New("read again")
		}
		f.r.announce(d.Cut)
		_, err := ref.LeaseKeys(7, 0) // what the store's cut would have made less
		return err
	})
	var wrong *shard.WrongRangeError
	if !errors.As(err, &wrong) || len(wrong.Known) != 2 || wrong.Known[1].ID != 9 {
		t.Errorf("%d reads, %v", reads, err)
	}
}

// TestEveryReadStatesItsKeys: each kind of read is refused where the range does not hold all of them, and only there:
// the generation by which it was routed does not matter.
func TestEveryReadStatesItsKeys(t *testing.T) {
	f := newFixture(t)
	for i, key := range []string{"a", "l", "x"} {
		f.mustWrite(t, replicatest.PutLease(key, "1", 7), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	endAt(f.r, "m")
	const stale = 1
	for name, call := range map[string]func(*pb.Span) *pb.PeerRequest{
		"fence": func(s *pb.Span) *pb.PeerRequest {
			return &pb.PeerRequest{Fence: &pb.FenceRequest{Generation: stale, Span: s, Revision: 4, Epoch: 1}}
		},
		"fenced read": func(s *pb.Span) *pb.PeerRequest {
			read := &pb.ReadRequest{Generation: stale, Span: s, Revision: 4}
			return &pb.PeerRequest{Fence: &pb.FenceRequest{Generation: stale, Span: s, Revision: 4, Epoch: 1, Read: read}}
		},
		"read": func(s *pb.Span) *pb.PeerRequest {
			return &pb.PeerRequest{Read: &pb.ReadRequest{Generation: stale, Span: s, Revision: 4}}
		},
		"history": func(s *pb.Span) *pb.PeerRequest {
			return &pb.PeerRequest{History: &pb.HistoryRequest{Generation: stale, Spans: []*pb.Span{s}, From: 1}}
		},
		"lease keys": func(s *pb.Span) *pb.PeerRequest {
			return &pb.PeerRequest{LeaseKeys: &pb.LeaseKeysRequest{Generation: stale, Span: s, Lease: 7}}
		},
	} {
		for _, s := range []*pb.Span{span("b", ""), span("", "n"), span("l", "x"), span("x", "x\x00")} {
			checkRefused(t, name, pb.ErrorFromPB(serve(t, f.r, call(s)).Error))
		}
		for _, s := range []*pb.Span{span("", "m"), span("b", "c"), span("l", "l\x00")} {
			resp := serve(t, f.r, call(s))
			if resp.Error != nil {
				t.Errorf("%s of %v: %v", name, s, resp.Error)
			}
			if len(resp.Learned) != 1 || resp.Learned[0].Generation != 2 {
				t.Errorf("%s of %v: it hears of %v", name, s, resp.Learned)
			}
		}
	}
	keys := serve(t, f.r, &pb.PeerRequest{LeaseKeys: &pb.LeaseKeysRequest{Generation: 2, Span: span("b", "m"), Lease: 7}})
	if fmt.Sprintf("%s", keys.GetLeaseKeys().GetKeys()) != "[l]" || keys.Learned != nil {
		t.Errorf("the lease has %v", keys)
	}
}

// TestAHashIsOfItsSpan: hashes are added up, so that one of more keys would be as wrong as one of fewer.
func TestAHashIsOfItsSpan(t *testing.T) {
	f := newFixture(t)
	endAt(f.r, "m")
	for _, s := range []*pb.Span{span("", ""), span("", "n"), span("b", "m"), span("", "l")} {
		checkRefused(t, "hash", pb.ErrorFromPB(serve(t, f.r, &pb.PeerRequest{Hash: &pb.HashRequest{Span: s}}).Error))
	}
	for _, s := range []*pb.Span{span("", "m"), nil} { // nil: a node that does not know of spans
		if resp := serve(t, f.r, &pb.PeerRequest{Hash: &pb.HashRequest{Span: s}}); resp.Error != nil {
			t.Errorf("hash of %v: %v", s, resp.Error)
		}
	}
}

// serve calls a replica as its node does.
func serve(t *testing.T, r *Replica, req *pb.PeerRequest) *pb.PeerResponse {
	t.Helper()
	ch := make(chan *pb.PeerResponse, 1)
	kind, _ := calls.Of(req)
	Serve(t.Context(), r, kind, req, func(resp *pb.PeerResponse) { ch <- resp })
	return <-ch
}

// TestMutant runs what should notice one mutant.
func TestMutant(t *testing.T) {
	mutatetest.Take(t)
	if !slices.Contains(mutate.ReplicaNames(), *mutatetest.Mutant) {
		t.Fatal("no rule of a replica: ", *mutatetest.Mutant)
	}
	t.Run("border", TestABorderIsClosedForBothParts)
	t.Run("files", TestHazard41)
	t.Run("cut", TestHazard38)
	t.Run("again", TestReadsAgainWhatWasLost)
	t.Run("announced", TestReadsDuringASplit)
	t.Run("learner", TestAMove)
	t.Run("leader", TestALeaderThatLeaves)
	t.Run("stands", TestAFrozenRangeStands)
	t.Run("behind", TestHazard50)
	t.Run("all", TestHazard51And56)
	t.Run("turns", TestALevelCopyGivesItsTurnBack)
	t.Run("merged", TestARangeIsMerged)
	t.Run("united", TestUnite)
	t.Run("closed", TestHazard68)
	t.Run("down", TestHazard35ANodeIsDown)
	t.Run("replaced", TestASnapshotReplacesWhatIsCopied)
	t.Run("waits", TestAMergeWaits)
	t.Run("parts", TestPartsThatMeet)
	t.Run("rates", TestLoadRates)
	t.Run("follower", TestLoadOfAFollower)
	t.Run("points", TestLoadPoints)
}

// TestMutants: each rule of a replica that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, mutate.ReplicaNames(), time.Minute, mutatetest.Died, "-test.run=^TestMutant$")
}
