package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/eval"
	"pontoon/shard/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loneGroup is a group of one voter: what is proposed is committed, and a goroutine applies it to
// every replica that follows it.
type loneGroup struct {
	mu    sync.Mutex
	cond  *sync.Cond
	term  uint64
	log   []raftgroup.Entry
	sms   []*Replica
	sent  int
	held  bool // what is proposed waits
	done  bool
	errs  []error
	steps []raftgroup.ConfChange // of the configuration

	pending error  // why changes of the configuration are dropped
	behind  string // what a learner lacks
	alive   sync.WaitGroup
}

func newLoneGroup() *loneGroup {
	g := &loneGroup{term: 6}
	g.cond = sync.NewCond(&g.mu)
	g.alive.Add(1)
	go g.run()
	return g
}

func (g *loneGroup) run() {
	defer g.alive.Done()
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.done {
		if g.sent == len(g.log) || g.held {
			g.cond.Wait()
			continue
		}
		ents := g.log[g.sent:]
		g.sent = len(g.log)
		sms := g.sms
		g.mu.Unlock()
		for _, sm := range sms {
			if err := sm.Apply(ents); err != nil {
				g.mu.Lock()
				g.errs = append(g.errs, err)
				g.mu.Unlock()
			}
		}
		g.mu.Lock()
	}
}

// hold stops the applying of what is proposed, or lets all of it go at once.
func (g *loneGroup) hold(held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = held
	g.cond.Broadcast()
}

func (g *loneGroup) stop() {
	g.mu.Lock()
	g.done = true
	g.cond.Broadcast()
	g.mu.Unlock()
	g.alive.Wait()
}

func (g *loneGroup) ProposeFunc(_ shard.RangeID, term uint64, data []byte, _ func(error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term != g.term {
		return &shard.NotLeaderError{}
	}
	g.log = append(g.log, raftgroup.Entry{Index: 11 + uint64(len(g.log)), Term: term, Data: data})
	g.cond.Broadcast()
	return nil
}

func (g *loneGroup) Confirm(_ shard.RangeID, term uint64, done func(bool, uint64)) {
	g.mu.Lock()
	ok, commit := term == g.term, 10+uint64(len(g.log))
	g.mu.Unlock()
	done(ok, commit)
}

func (g *loneGroup) Status(shard.RangeID) (raftgroup.Status, bool) { return raftgroup.Status{}, false }

// lead begins the term with an entry of its own.
func (g *loneGroup) lead(t testing.TB, r *Replica) {
	t.Helper()
	r.LeaderChanged(raftgroup.Leadership{Term: g.term, Leader: r.cfg.Self.ID, IsLeader: true})
	if err := g.ProposeFunc(2, g.term, nil, nil); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	want := 10 + uint64(len(g.log))
	g.mu.Unlock()
	waitFor(t, func() bool { return r.index.Load() >= want })
	r.OwnTermApplied(g.term)
}

// waitFor waits for what another goroutine brings about.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("does not happen")
		}
	}
}

// counter is an oracle in memory.
type counter struct {
	mu        sync.Mutex
	rev       int64
	compacted atomic.Int64
}

func (c *counter) Allocate(ask shard.Ask, cb func(shard.Now, error)) {
	c.mu.Lock()
	first := c.rev + 1
	c.rev += ask.Count
	c.mu.Unlock()
	cb(shard.Now{Revision: first, Epoch: 1}, nil)
}

func (c *counter) NowFunc(cb func(shard.Now, error)) {
	c.mu.Lock()
	rev := c.rev
	c.mu.Unlock()
	cb(shard.Now{Revision: rev, Epoch: 1}, nil)
}

func (c *counter) Compacted() int64 { return c.compacted.Load() }

type allLeases struct{}

func (allLeases) Attach(_ context.Context, lease int64, _ uint64, _ shard.Span) (uint64, error) {
	if lease == 404 {
		return 0, shard.ErrLeaseNotFound
	}
	return 5, nil
}

// feedLog keeps what is published, and the events that came after their revision had been closed.
type feedLog struct {
	mu     sync.Mutex
	items  []shard.FeedItem
	closed int64
	late   []int64
}

func (f *feedLog) Publish(_ shard.RangeID, it shard.FeedItem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.items = append(f.items, it)
	for _, e := range it.Events {
		if e.KV.ModRevision <= f.closed {
			f.late = append(f.late, e.KV.ModRevision)
		}
	}
	f.closed = max(f.closed, it.Closed)
}

func (f *feedLog) revs() (revs []int64, closed int64, gaps int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, it := range f.items {
		for _, e := range it.Events {
			revs = append(revs, e.KV.ModRevision)
		}
		closed = max(closed, it.Closed)
		if it.Gap {
			gaps++
		}
	}
	return revs, closed, gaps
}

// noRanges reaches no other range.
type noRanges struct{}

func (noRanges) Map() *shard.Map { return nil }

func (noRanges) Change(context.Context, *pb.ChangeRequest) (*pb.ChangeResponse, error) {
	return nil, shard.ErrUnavailable
}

func (noRanges) CallKey(context.Context, []byte, func(shard.Descriptor) *pb.PeerRequest) (*pb.PeerResponse, error) {
	return nil, shard.ErrUnavailable
}

type fixture struct {
	g    *loneGroup
	o    *counter
	feed *feedLog
	r    *Replica
}

func testConfig(dir string, self int, g *loneGroup, o *counter, feed FeedSink) Config {
	if g == nil {
		g, o = &loneGroup{}, &counter{}
	}
	return Config{
		Desc: replicatest.TestDesc, Self: replicatest.TestDesc.Replicas[self], Dir: dir, Host: g, Oracle: o, Leases: allLeases{}, Ranges: noRanges{}, Feed: feed,
		Store: mvcc.Options{NoSync: true, InitialMmapSize: 1 << 24},
	}
}

func open(t testing.TB, cfg Config) *Replica {
	t.Helper()
	r, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func newFixture(t testing.TB, with ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{g: newLoneGroup(), o: &counter{rev: 1}, feed: &feedLog{}}
	cfg := testConfig(t.TempDir(), 0, f.g, f.o, f.feed)
	for _, set := range with {
		set(&cfg)
	}
	f.r = open(t, cfg)
	t.Cleanup(func() {
		f.g.stop()
		if len(f.feed.late) > 0 {
			t.Errorf("published after their revision was closed: %v", f.feed.late)
		}
	})
	f.g.sms = []*Replica{f.r}
	f.g.lead(t, f.r)
	return f
}

type written struct {
	resp *pb.WriteResponse
	err  error
}

func (f *fixture) write(t *testing.T, op *pb.Op) written {
	t.Helper()
	ch := make(chan written, 1)
	f.r.Write(t.Context(), &pb.WriteRequest{RangeId: 2, Generation: uint64(f.r.Desc().Generation), Op: op}, func(resp *pb.WriteResponse, err error) {
		ch <- written{resp, err}
	})
	return <-ch
}

func (f *fixture) mustWrite(t *testing.T, op *pb.Op, want string) {
	t.Helper()
	w := f.write(t, op)
	if w.err != nil {
		t.Fatalf("%v: %v", op, w.err)
	}
	if got := fmt.Sprintf("%d %s", w.resp.Revision, replicatest.ResultString(w.resp.Result)); got != want {
		t.Fatalf("%v: got %s, want %s", op, got, want)
	}
}

func (f *fixture) fenceRead(t *testing.T, read *pb.ReadRequest) (*pb.FenceResponse, error) {
	t.Helper()
	type result struct {
		resp *pb.FenceResponse
		err  error
	}
	ch := make(chan result, 1)
	rev := f.o.rev
	read.Revision = rev
	f.r.Fence(t.Context(), &pb.FenceRequest{RangeId: 2, Generation: 1, Span: read.Span, Revision: rev, Epoch: 1, Read: read},
		func(resp *pb.FenceResponse, err error) { ch <- result{resp, err} })
	x := <-ch
	return x.resp, x.err
}

func readAll(t *testing.T, r *Replica, req *pb.ReadRequest) *pb.ReadResponse {
	t.Helper()
	type result struct {
		resp *pb.ReadResponse
		err  error
	}
	ch := make(chan result, 1)
	r.Read(t.Context(), req, func(resp *pb.ReadResponse, err error) { ch <- result{resp, err} })
	x := <-ch
	if x.err != nil {
		t.Fatal(x.err)
	}
	return x.resp
}

func TestReplicaServes(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	f.mustWrite(t, replicatest.Put("a", "2"), "3 put@3 prev 1@2")
	f.mustWrite(t, replicatest.Del("nothing", ""), "3 deleted 0@3")
	f.mustWrite(t, replicatest.Cas("a", "3", 3), "4 txn true {put@4 prev 2@3}")
	f.mustWrite(t, replicatest.Cas("a", "4", 3), "4 txn false {range@4[a=3@4] count 1 more false}")
	f.mustWrite(t, replicatest.PutLease("l", "x", 7), "5 put@5")
	if w := f.write(t, replicatest.PutLease("l", "x", 404)); !errors.Is(w.err, shard.ErrLeaseNotFound) {
		t.Fatal(w.err)
	}
	resp, err := f.fenceRead(t, &pb.ReadRequest{Span: pb.FromSpan(shard.All)})
	if err != nil || len(resp.Read.Kvs) != 2 || resp.Read.Count != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	f.mustWrite(t, &pb.Op{ExpireLease: 7}, "6 deleted 1@6")
	waitFor(t, func() bool { revs, _, _ := f.feed.revs(); return len(revs) == 5 })
	revs, closed, _ := f.feed.revs()
	if fmt.Sprint(revs) != "[2 3 4 5 6]" || closed != 6 || f.r.ClosedRevision() != 6 {
		t.Fatalf("feed %v closed %d", revs, closed)
	}
	evs, next, err := f.r.History(&pb.HistoryRequest{Spans: []*pb.Span{pb.FromSpan(shard.All)}, From: 3, To: 100, PrevKv: true})
	if err != nil || len(evs) != 4 || next != 7 || string(evs[0].Prev.Value) != "1" {
		t.Fatalf("%v, %d, %v", evs, next, err)
	}
	st := f.r.Status()
	if st.Revision != 6 || st.Keys != 1 || st.Closed != 6 || st.Untrimmed {
		t.Fatalf("%v", st)
	}
}

// TestMiddle: the leader tells where half of the bytes lie before, to whoever asks for that.
func TestMiddle(t *testing.T) {
	f := newFixture(t)
	for i := range 10 {
		f.mustWrite(t, replicatest.Put(fmt.Sprintf("k%d", i), "v"), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	ask := func(middle bool) (st *pb.PeerResponse) {
		req := &pb.PeerRequest{RangeStatus: &pb.RangeStatusRequest{RangeId: uint64(f.r.ID()), Middle: middle}}
		Serve(context.Background(), f.r, calls.RangeStatus, req, func(resp *pb.PeerResponse) { st = resp })
		return st
	}
	if st := ask(false).RangeStatus; st == nil || st.Middle != nil || st.Keys != 10 {
		t.Errorf("%v", st)
	}
	if st := ask(true).RangeStatus; st == nil || string(st.Middle) != "k5" {
		t.Errorf("%v", st)
	}
}

func TestReadPages(t *testing.T) {
	f := newFixture(t)
	for i := range 10 {
		f.mustWrite(t, replicatest.Put(fmt.Sprintf("k%d", i), "v"), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	for _, reverse := range []bool{false, true} {
		req := &pb.ReadRequest{Span: pb.FromSpan(shard.All), Revision: 11, MaxBytes: 70, Limit: 4, Reverse: reverse}
		var got []byte
		pages := 0
		for {
			resp := readAll(t, f.r, req)
			pages++
			for _, kv := range resp.Kvs {
				got = append(got, kv.Key[1])
			}
			if len(resp.Resume) == 0 {
				break
			}
			if !req.SkipCount && resp.Count != 10 || req.SkipCount && resp.Count != -1 {
				t.Fatalf("count %d", resp.Count)
			}
			req.SkipCount = true
			if reverse {
				req.Span = pb.FromSpan(shard.Span{End: shard.Point(resp.Resume).End})
			} else {
				req.Span = pb.FromSpan(shard.Span{Start: resp.Resume})
			}
		}
		want := "0123456789"
		if reverse {
			want = "9876543210"
		}
		if string(got) != want || pages != 5 {
			t.Fatalf("got %s in %d pages", got, pages)
		}
	}
	resp := readAll(t, f.r, &pb.ReadRequest{Span: pb.FromSpan(shard.All), Revision: 6, CountOnly: true})
	if resp.Count != 5 {
		t.Fatalf("count %d at 6", resp.Count)
	}
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	tooLong := replicatest.Put(strings.Repeat("k", 20_000), "1")
	for want, ops := range map[string][]*pb.Op{
		"without an operation": {nil},
		"without a key":        {{Put: &pb.PutOp{}}},
		"20000 bytes; at most 16320": {tooLong, replicatest.Txn(nil, []*pb.Op{replicatest.Put("a", "1"), tooLong}, nil),
			replicatest.Txn(nil, []*pb.Op{replicatest.Txn(nil, []*pb.Op{tooLong}, nil)}, nil)},
		"several kinds at once": {{Put: &pb.PutOp{Key: []byte("a")}, Delete: &pb.DeleteOp{Key: []byte("a")}},
			replicatest.Txn(nil, []*pb.Op{{ExpireLease: 7}}, nil)},
		"deeper than 4096": {nestedTxn(eval.OpDepthMax+1, replicatest.Put("a", "1"))},
	} {
		for _, op := range ops {
			if w := f.write(t, op); !errors.Is(w.err, shard.ErrInvalid) || !strings.Contains(w.err.Error(), want) {
				t.Fatalf("%v, want one that says %q", w.err, want)
			}
		}
	}
	f.r.LeaderChanged(raftgroup.Leadership{Term: 7, Leader: 2})
	var nl *shard.NotLeaderError
	if w := f.write(t, replicatest.Put("a", "1")); !errors.As(w.err, &nl) || nl.Leader != 12 || nl.Term != 7 {
		t.Fatal(w.err)
	}
	if _, ok := f.r.Leading(); ok {
		t.Fatal("leads still")
	}
	ok := true
	f.r.CloseAt(3, 1, func(_ uint64, k bool) { ok = k })
	if ok {
		t.Fatal("a follower closed its range")
	}
}

// nestedTxn is op within so many transactions.
func nestedTxn(depth int, op *pb.Op) *pb.Op {
	for range depth {
		op = replicatest.Txn(nil, []*pb.Op{op}, nil)
	}
	return op
}

// TestWhatIsNotCarriedOut: a key that cannot be stored is not there, and what stands in a branch that is not
// taken refuses nothing; nor does the depth of transactions.
func TestWhatIsNotCarriedOut(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("k", 20_000)
	past := &pb.Op{Range: &pb.RangeOp{Key: []byte("a"), Revision: -1}}
	absent := replicatest.IfVersion(long, 0)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	for _, op := range []*pb.Op{
		{Delete: &pb.DeleteOp{Key: []byte(long)}}, {Delete: &pb.DeleteOp{Key: []byte(long), PrevKv: true}},
		replicatest.Txn(absent, nil, []*pb.Op{replicatest.Put(long, "1"), past}),
		replicatest.Txn(absent, []*pb.Op{{Delete: &pb.DeleteOp{Key: []byte(long)}}, {Range: &pb.RangeOp{Key: []byte(long)}}}, []*pb.Op{replicatest.Put(long, "1")}),
	} {
		if w := f.write(t, op); w.err != nil {
			t.Fatal(w.err)
		}
	}
	var compacted *shard.CompactedError
	for _, ops := range [][]*pb.Op{{past}, {replicatest.Put("a", "2"), past}, {replicatest.Txn(nil, []*pb.Op{past}, nil)}} {
		if w := f.write(t, replicatest.Txn(nil, ops, nil)); !errors.As(w.err, &compacted) {
			t.Fatalf("a range below revision zero: %v", w.err)
		}
	}
	if w := f.write(t, nestedTxn(eval.OpDepthMax, replicatest.Put("a", "2"))); w.err != nil {
		t.Fatal(w.err)
	}
}

func TestFollowerAndSnapshot(t *testing.T) {
	f := newFixture(t)
	for i := range 20 {
		f.mustWrite(t, replicatest.PutLease(fmt.Sprintf("k%d", i), "v", 7), fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	feed := &feedLog{}
	dir := t.TempDir()
	fol := open(t, testConfig(dir, 1, f.g, f.o, feed))
	waited := make(chan *pb.ReadResponse, 1)
	index := f.r.index.Load()
	fol.Read(t.Context(), &pb.ReadRequest{Span: pb.FromSpan(shard.All), Revision: 21, MinIndex: index},
		func(resp *pb.ReadResponse, err error) { waited <- resp })

	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(f.r.SnapshotTo(pw)) }()
	staged, err := fol.Receive(pr)
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Install(); err != nil {
		t.Fatal(err)
	}
	if resp := <-waited; resp == nil || resp.Count != 20 {
		t.Fatalf("read behind the snapshot: %v", resp)
	}
	if _, _, gaps := feed.revs(); gaps != 1 {
		t.Fatalf("%d gaps in the feed", gaps)
	}
	if !fol.mu.m.Attachments[7].Attached || fol.ClosedRevision() != 21 {
		t.Fatalf("attachments %v closed %d", fol.mu.m.Attachments, fol.ClosedRevision())
	}
	hash := func(r *Replica) uint64 {
		ch := make(chan uint64, 1)
		r.Hash(t.Context(), &pb.HashRequest{}, func(h *pb.HashResponse, err error) {
			if err != nil {
				t.Error(err)
			}
			ch <- h.GetHash()
		})
		return <-ch
	}
	if hash(f.r) != hash(fol) {
		t.Fatal("hashes differ")
	}

	// Both go on with the log, and a restart finds everything again.
	f.g.mu.Lock()
	f.g.sms = append([]*Replica{}, f.r, fol)
	f.g.mu.Unlock()
	f.mustWrite(t, &pb.Op{ExpireLease: 7}, "22 deleted 20@22")
	waitFor(t, func() bool { return fol.index.Load() == f.r.index.Load() })
	if hash(f.r) != hash(fol) {
		t.Fatal("hashes differ")
	}
	f.g.mu.Lock()
	f.g.sms = f.g.sms[:1]
	f.g.mu.Unlock()
	if err := fol.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, testConfig(dir, 1, f.g, f.o, feed))
	if index, _ := again.Applied(); index != f.r.index.Load() || hash(again) != hash(f.r) || len(again.mu.m.Attachments) != 0 {
		t.Fatalf("after a restart: index %d, attachments %v", index, again.mu.m.Attachments)
	}
}

func TestClosedMarks(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	f.o.rev = 50 // other ranges have written
	done := make(chan uint64, 1)
	f.r.CloseAt(50, 1, func(index uint64, ok bool) {
		if !ok {
			t.Error("not closed")
		}
		done <- index
	})
	index := <-done
	waitFor(t, func() bool { return f.r.ClosedRevision() == 50 })
	feed := &feedLog{}
	fol := open(t, testConfig(t.TempDir(), 1, f.g, f.o, feed))
	fol.LearnClosed(50, 1, 6, index)
	if got := fol.ClosedRevision(); got != 0 {
		t.Fatalf("closed %d before its index", got)
	}
	f.g.mu.Lock()
	ents := f.g.log
	f.g.mu.Unlock()
	if err := fol.Apply(ents); err != nil {
		t.Fatal(err)
	}
	if _, closed, _ := feed.revs(); fol.ClosedRevision() != 50 || closed != 50 {
		t.Fatalf("closed %d, in the feed %d", fol.ClosedRevision(), closed)
	}
}

// TestLearnGranted: a replica that does not lead is closed by what the oracle has given, once it has applied what its range got, and its feed says so.
func TestLearnGranted(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.Put("a", "1"), "2 put@2")
	feed := &feedLog{}
	fol := open(t, testConfig(t.TempDir(), 1, f.g, f.o, feed))
	id := fol.ID()
	learn := func(floor, last int64) bool {
		return fol.LearnGranted(&shard.Granted{Revision: 50, Floor: floor, Last: map[shard.RangeID]int64{id: last, id + 1: 49}})
	}
	if learn(0, 2) || fol.ClosedRevision() != 0 {
		t.Fatalf("closed %d before it has what its range was given", fol.ClosedRevision())
	}
	f.g.mu.Lock()
	ents := f.g.log
	f.g.mu.Unlock()
	if err := fol.Apply(ents); err != nil {
		t.Fatal(err)
	}
	if learn(3, 0) || learn(0, 3) || fol.ClosedRevision() != 2 {
		t.Fatalf("closed %d below the floor, or though its range was given more", fol.ClosedRevision())
	}
	if !learn(2, 0) || !learn(0, 2) {
		t.Fatal("not closed by what its range has")
	}
	if _, closed, _ := feed.revs(); fol.ClosedRevision() != 50 || closed != 50 {
		t.Fatalf("closed %d, in the feed %d", fol.ClosedRevision(), closed)
	}
}

// A fence that ends with the apply of the writes it waited for closes their revisions no earlier in
// the feed than their events are there.
func TestFeedClosesAfterItsEvents(t *testing.T) {
	f := newFixture(t)
	f.g.hold(true)
	const n = 5
	wrote := make(chan error, n)
	for i := range n {
		f.r.Write(t.Context(), &pb.WriteRequest{Op: replicatest.Put(fmt.Sprintf("k%d", i), "v")}, func(_ *pb.WriteResponse, err error) { wrote <- err })
	}
	f.o.rev += 10 // other ranges have written
	closed := make(chan bool, 1)
	f.r.CloseAt(f.o.rev, 1, func(_ uint64, ok bool) { closed <- ok })
	f.g.hold(false)
	for range n {
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	}
	if !<-closed {
		t.Error("not closed")
	}
	waitFor(t, func() bool { revs, closed, _ := f.feed.revs(); return len(revs) == n && closed >= n })
}

// TestCompactPhysical: whoever waits for the deletion makes the replica say that it is urgent, until it is done.
func TestCompactPhysical(t *testing.T) {
	urgent := make(chan struct{}, 1)
	f := newFixture(t, func(c *Config) {
		c.Wake = func(_ shard.RangeID, hurry bool) {
			if !hurry {
				return
			}
			select {
			case urgent <- struct{}{}:
			default:
			}
		}
	})
	for i := range 5 {
		f.mustWrite(t, &pb.Op{Put: &pb.PutOp{Key: []byte("a")}}, fmt.Sprintf("%d put@%d", i+2, i+2))
	}
	done := make(chan error, 2)
	f.r.CompactTo(t.Context(), &pb.CompactRangeRequest{Revision: 4}, func(err error) { done <- err })
	if err := <-done; err != nil || f.r.Awaited() || len(urgent) > 0 {
		t.Fatalf("%v; nobody waits for the deletion: awaited %v, urgent %d times", err, f.r.Awaited(), len(urgent))
	}
	f.r.CompactTo(t.Context(), &pb.CompactRangeRequest{Revision: 5, Physical: true}, func(err error) { done <- err })
	waitFor(t, func() bool { return len(urgent) > 0 })
	if !f.r.Awaited() || len(done) > 0 {
		t.Fatalf("awaited: %v, answered %d times", f.r.Awaited(), len(done))
	}
	<-urgent
	f.mustWrite(t, &pb.Op{Put: &pb.PutOp{Key: []byte("b")}}, "7 put@7") // it may be what the deletion waits for
	waitFor(t, func() bool { return len(urgent) > 0 })
	for more := true; more; {
		var err error
		if more, err = f.r.Maintain(1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil || f.r.Awaited() {
		t.Fatalf("%v, still awaited: %v", err, f.r.Awaited())
	}
	<-urgent
	f.r.CompactTo(t.Context(), &pb.CompactRangeRequest{Revision: 5, Physical: true}, func(err error) { done <- err }) // all is gone
	if err := <-done; err != nil || len(urgent) > 0 {
		t.Fatalf("%v, urgent %d times", err, len(urgent))
	}
	if _, _, err := f.r.History(&pb.HistoryRequest{Spans: []*pb.Span{pb.FromSpan(shard.All)}, From: 3}); !eval.IsCompacted(err) {
		t.Fatal(err)
	}
}

func TestGarbageEntryStopsTheReplica(t *testing.T) {
	f := newFixture(t)
	r := open(t, testConfig(t.TempDir(), 1, f.g, f.o, nil))
	if err := r.Apply([]raftgroup.Entry{{Index: 11, Term: 6, Data: []byte{0xff, 1}}}); err == nil {
		t.Fatal("garbage was applied")
	}
	if err := r.Apply([]raftgroup.Entry{{Index: 11, Term: 6, Data: apply.Marshal(&pb.Entry{Term: 6})}}); !errors.Is(err, shard.ErrUnimplemented) {
		t.Fatal(err)
	}
	if r.index.Load() != 0 {
		t.Fatalf("applied %d", r.index.Load())
	}
}

// TestManyWriters drives the whole path from many goroutines.
func TestManyWriters(t *testing.T) {
	f := newFixture(t)
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range each {
				ch := make(chan error, 1)
				f.r.Write(t.Context(), &pb.WriteRequest{Op: replicatest.Put(fmt.Sprintf("k%d", (w+i)%7), "v")}, func(_ *pb.WriteResponse, err error) { ch <- err })
				if err := <-ch; err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if f.o.rev != 1+writers*each || f.r.ClosedRevision() != f.o.rev {
		t.Fatalf("oracle at %d, closed %d", f.o.rev, f.r.ClosedRevision())
	}
}

// An expiry that was long on its way leaves a later grant of the same id alone.
func TestExpiryOfAnEarlierGrant(t *testing.T) {
	f := newFixture(t)
	f.mustWrite(t, replicatest.PutLease("a", "1", 7), "2 put@2")
	f.mustWrite(t, &pb.Op{ExpireLease: 7, ExpireGrant: 4}, "2 deleted 0@0")
	f.mustWrite(t, &pb.Op{ExpireLease: 7, ExpireGrant: 5}, "3 deleted 1@3")
}

// Whatever the mix, a revision is taken only by what writes: with no failure none is left out.
func TestRevisionsAreDense(t *testing.T) {
	f := newFixture(t)
	const writers, each = 16, 60
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for range each {
				a, b := fmt.Sprintf("k%d", rnd.IntN(4)), fmt.Sprintf("l%d", rnd.IntN(4))
				var op *pb.Op
				switch rnd.IntN(4) {
				case 0:
					op = replicatest.Txn(nil, []*pb.Op{replicatest.Put(a, "v"), replicatest.Put(b, "v")}, nil)
				case 1:
					op = replicatest.Put(a, "v")
				default:
					op = replicatest.Del(a, "")
				}
				ch := make(chan error, 1)
				f.r.Write(t.Context(), &pb.WriteRequest{Op: op}, func(_ *pb.WriteResponse, err error) { ch <- err })
				if err := <-ch; err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	waitFor(t, func() bool { _, closed, _ := f.feed.revs(); return closed >= f.o.rev })
	next := int64(2)
	revs, _, _ := f.feed.revs()
	for _, rev := range slices.Compact(revs) {
		if rev != next {
			t.Fatalf("revision %d follows %d", rev, next-1)
		}
		next++
	}
	if next != f.o.rev+1 {
		t.Fatalf("the last revision is %d, the oracle is at %d", next-1, f.o.rev)
	}
}

func (*loneGroup) HandOver(shard.RangeID, uint64, shard.ReplicaID, func(error)) error {
	return shard.ErrUnavailable
}

// ChangeConfig appends the context of a change: who takes part is none of this group's business.
func (g *loneGroup) ChangeConfig(_ shard.RangeID, term uint64, c raftgroup.ConfChange, dropped func(error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term != g.term {
		return &shard.NotLeaderError{}
	}
	if g.pending != nil {
		go dropped(g.pending)
		return nil
	}
	g.steps = append(g.steps, c)
	g.log = append(g.log, raftgroup.Entry{Index: 11 + uint64(len(g.log)), Term: term, Context: c.Context})
	g.cond.Broadcast()
	return nil
}

// Behind tells what the test says.
func (g *loneGroup) Behind(_ shard.RangeID, _ uint64, _ shard.ReplicaID, _ uint64, done func(string)) error {
	g.mu.Lock()
	why := g.behind
	g.mu.Unlock()
	done(why)
	return nil
}

func (*loneGroup) AbortHandOver(shard.RangeID, uint64) {}
