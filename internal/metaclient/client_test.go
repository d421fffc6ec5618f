package metaclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// fakeCall is a call that waits for its answer.
type fakeCall struct {
	to  shard.NodeID
	req *pb.PeerRequest
	cb  func(*pb.PeerResponse, error)
	ctx context.Context
}

// fakeCaller holds calls until the test answers them, and is the clock.
type fakeCaller struct {
	mu     sync.Mutex
	calls  []*fakeCall
	total  int
	came   chan struct{} // one for every call
	timers []func()
	pauses []time.Duration
	now    time.Time
	auto   func(c *fakeCall) (*pb.PeerResponse, error) // answers at once
}

func (f *fakeCaller) CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error)) {
	f.mu.Lock()
	// The request is written again for another attempt.
	c := &fakeCall{to: to, req: proto.Clone(req).(*pb.PeerRequest), cb: cb, ctx: ctx}
	f.total++
	auto := f.auto
	if auto == nil {
		f.calls = append(f.calls, c)
	}
	f.mu.Unlock()
	if auto != nil {
		cb(auto(c))
		return
	}
	select {
	case f.came <- struct{}{}:
	default:
	}
}

func (f *fakeCaller) after(d time.Duration, fn func()) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timers = append(f.timers, fn)
	f.pauses = append(f.pauses, d)
	select {
	case f.came <- struct{}{}:
	default:
	}
	return func() {}
}

// pop takes the oldest call that waits.
func (f *fakeCaller) pop(t *testing.T) *fakeCall {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.calls) == 0 {
		t.Fatal("no call is under way")
	}
	c := f.calls[0]
	f.calls = f.calls[1:]
	return c
}

func (f *fakeCaller) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// fire ends every pause, and says how many there were.
func (f *fakeCaller) fire(d time.Duration) int {
	f.mu.Lock()
	timers := f.timers
	f.timers = nil
	f.now = f.now.Add(d)
	f.mu.Unlock()
	for _, fn := range timers {
		fn()
	}
	return len(timers)
}

// layout is a new cluster's plan, with so many ranges.
func layout(ranges int) *pb.MetaBootstrap {
	members := []shard.Member{{ID: 1, Name: "one"}, {ID: 2, Name: "two"}, {ID: 3, Name: "three"}}
	return placement.Bootstrap(placement.Layout{Members: members, SplitKeys: shard.SplitKeys(ranges), ReplicationFactor: 3})
}

func newClientEnv(t *testing.T, edit ...func(*Config)) (*Client, *fakeCaller) {
	f := &fakeCaller{now: time.Unix(1_000_000, 0), came: make(chan struct{}, 100_000)}
	cfg := Config{Self: 9, Calls: f, Meta: pb.ToDescriptor(layout(1).Meta), ElectionTimeout: time.Second,
		Now:   func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
		After: f.after, Rand: func() float64 { return 1 }}
	for _, fn := range edit {
		fn(&cfg)
	}
	c := New(cfg)
	t.Cleanup(c.Close)
	return c, f
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func nowResp(rev int64, epoch uint64) *pb.PeerResponse {
	return &pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: rev, Epoch: epoch, CompactRevision: 5}}
}

// got notes what callers of the oracle were told.
type got struct {
	mu  sync.Mutex
	out []string
}

func (g *got) allocate(c *Client, n int) {
	c.Allocate(shard.Ask{Count: int64(n)}, func(now shard.Now, err error) { g.add("a%d=%d/%d %v", n, now.Revision, now.Epoch, err) })
}

func (g *got) current(c *Client) {
	c.NowFunc(func(now shard.Now, err error) {
		g.add("c=%d/%d/%d %v", now.Revision, now.Epoch, now.CompactRevision, err)
	})
}

func (g *got) add(f string, args ...any) {
	g.mu.Lock()
	g.out = append(g.out, fmt.Sprintf(f, args...))
	g.mu.Unlock()
}

func (g *got) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.out
	g.out = nil
	return out
}

func TestOracleCallsAreShared(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	for range 3 {
		g.allocate(c, 1)
	}
	for range 1000 {
		g.allocate(c, 2)
		g.current(c)
	}
	if f.total != 3 {
		t.Fatalf("%d calls are under way", f.total)
	}
	calls := []*fakeCall{f.pop(t), f.pop(t), f.pop(t)}
	for i, call := range calls {
		if call.req.Oracle.Count != 1 {
			t.Errorf("call %d asks for %d", i, call.req.Oracle.Count)
		}
	}
	calls[0].cb(nowResp(10, 6), nil)
	if f.total != 4 {
		t.Fatalf("%d calls for all that waited", f.total-3)
	}
	shared := f.pop(t)
	if shared.req.Oracle.Count != 2000 {
		t.Errorf("it asks for %d", shared.req.Oracle.Count)
	}
	g.current(c)
	g.allocate(c, 4)
	calls[1].cb(nowResp(11, 6), nil)
	calls[2].cb(nowResp(12, 6), nil)
	if f.total != 4 {
		t.Errorf("%d calls, with 2000 askers in one of them", f.total)
	}
	g.take()
	shared.cb(nowResp(100, 6), nil)
	out := g.take()
	if len(out) != 2000 {
		t.Fatalf("%d answers", len(out))
	}
	for i := range 1000 {
		if want := fmt.Sprintf("a2=%d/6 <nil>", 100+2*i); out[2*i] != want {
			t.Fatalf("answer %d: %s, want %s", 2*i, out[2*i], want)
		}
		if want := "c=99/6/5 <nil>"; out[2*i+1] != want {
			t.Fatalf("answer %d: %s, want %s", 2*i+1, out[2*i+1], want)
		}
	}
	f.pop(t).cb(nowResp(3000, 6), nil)
	if out := g.take(); !slices.Equal(out, []string{"c=2999/6/5 <nil>", "a4=3000/6 <nil>"}) {
		t.Errorf("the last: %v", out)
	}
	if c.Epoch() != 6 || c.Revision() != 3003 {
		t.Errorf("seen: epoch %d, revision %d", c.Epoch(), c.Revision())
	}
}

// Callers may ask again from their callbacks, with an oracle that answers at once.
func TestOracleAnswersAtOnce(t *testing.T) {
	c, f := newClientEnv(t)
	next := int64(2)
	f.auto = func(call *fakeCall) (*pb.PeerResponse, error) {
		first := next
		next += int64(call.req.Oracle.GetCount())
		return nowResp(first, 6), nil
	}
	left := 10_000
	var again func(shard.Now, error)
	again = func(now shard.Now, err error) {
		if left--; err != nil || left > 0 && now.Revision != 10_001-int64(left) {
			t.Errorf("%d left: %d, %v", left, now.Revision, err)
		}
		if left > 0 {
			c.Allocate(shard.Ask{Count: 1}, again)
		}
	}
	c.Allocate(shard.Ask{Count: 1}, again)
	if left != 0 {
		t.Errorf("%d were not answered", left)
	}
}

// Hazard 9: an answer below the highest epoch that this node has seen is thrown away, and the
// oracle is asked elsewhere.
func TestHazard9AnAnswerOfAnOlderEpochIsThrownAway(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	c.leader.Store(1)
	g.allocate(c, 1)
	old := f.pop(t)
	c.NoteEpoch(7) // some message brought the news meanwhile
	old.cb(nowResp(951, 6), nil)
	if out := g.take(); out != nil || c.Revision() != 0 {
		t.Fatalf("told %v, revision %d", out, c.Revision())
	}
	if f.fire(0) != 1 {
		t.Fatal("it is not asked again")
	}
	call := f.pop(t)
	if call.to == 1 || call.req.Epoch != 7 {
		t.Errorf("asked node %v with epoch %d", call.to, call.req.Epoch)
	}
	call.cb(nowResp(1501, 7), nil)
	if out := g.take(); !slices.Equal(out, []string{"a1=1501/7 <nil>"}) {
		t.Errorf("told %v", out)
	}
}

func TestFindingTheLeader(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	asked := func() shard.NodeID { t.Helper(); return f.calls[0].to }
	g.current(c)
	first := asked()
	f.pop(t).cb(nil, &shard.NotLeaderError{Range: shard.MetaID, Leader: 3}) // a hint is followed at once
	if first != 1 || asked() != 3 {
		t.Errorf("asked %v, then %v", first, asked())
	}
	f.pop(t).cb(nil, &shard.NotLeaderError{Range: shard.MetaID})
	seen := map[shard.NodeID]bool{}
	for i, err := range []error{shard.ErrUnavailable, shard.ErrAmbiguous, shard.ErrStopped, context.DeadlineExceeded} {
		if f.waiting() != 0 || f.fire(0) != 1 {
			t.Fatalf("attempt %d came without a pause", i)
		}
		seen[asked()] = true
		f.pop(t).cb(nil, err)
	}
	if len(seen) != 3 {
		t.Errorf("of three replicas only %v were asked", seen)
	}
	if !slices.IsSorted(f.pauses) || f.pauses[0] > retryPauseMax {
		t.Errorf("pauses: %v", f.pauses)
	}
	f.fire(0)
	to := asked()
	f.pop(t).cb(nowResp(4, 6), nil)
	if out := g.take(); len(out) != 1 || c.Leader() != to {
		t.Errorf("told %v, leader %v", out, c.Leader())
	}
	// Two that name each other do not make a busy loop.
	g.current(c)
	for i := 0; f.waiting() > 0; i++ {
		call := f.pop(t)
		call.cb(nil, &shard.NotLeaderError{Range: shard.MetaID, Leader: 3 - call.to + 1})
		if i > hopsMax {
			t.Fatal("hints are followed for ever")
		}
	}
	// Patience has an end.
	for i := 0; f.fire(time.Second) > 0; i++ {
		if f.waiting() > 0 {
			f.pop(t).cb(nil, shard.ErrUnavailable)
		}
		if i > 20 {
			t.Fatal("no end of patience")
		}
	}
	if out := g.take(); !slices.Equal(out, []string{"c=0/0/0 " + shard.ErrTimeout.Error()}) {
		t.Errorf("told %v", out)
	}
}

// started runs a blocking method.
func started[T any](fn func() (T, error)) func() (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	go func() { v, err := fn(); ch <- result{v, err} }()
	return func() (T, error) { r := <-ch; return r.v, r.err }
}

func TestWhatMustNotBeSentTwice(t *testing.T) {
	c, f := newClientEnv(t)
	ctx := context.Background()
	for name, call := range map[string]func() (int, error){
		"grant":   func() (int, error) { _, err := c.Grant(ctx, 1, 10); return 0, err },
		"revoke":  func() (int, error) { _, err := c.Revoke(ctx, 1); return 0, err },
		"compact": func() (int, error) { _, err := c.Compact(ctx, 7, false); return 0, err },
	} {
		wait := started(call)
		<-f.came
		f.pop(t).cb(nil, shard.ErrUnavailable) // certainly not done: again
		<-f.came
		f.fire(0)
		<-f.came
		f.pop(t).cb(nil, fmt.Errorf("%w: the connection broke", shard.ErrAmbiguous))
		_, err := wait()
		wantErr(t, name, err, shard.ErrAmbiguous)
	}
	wait := started(func() (Lease, error) { return c.Info(ctx, 1) })
	<-f.came
	f.pop(t).cb(nil, shard.ErrAmbiguous)
	<-f.came
	f.fire(0)
	<-f.came
	f.pop(t).cb(&pb.PeerResponse{LeaseInfo: &pb.LeaseInfoResponse{Leases: []*pb.LeaseInfo{{Id: 1, Ttl: -1}}}}, nil)
	_, err := wait()
	wantErr(t, "info of no lease", err, shard.ErrLeaseNotFound)

	cctx, cancel := context.WithCancel(ctx)
	waitErr := started(func() (int, error) { _, err := c.Revoke(cctx, 1); return 0, err })
	<-f.came
	cancel()
	_, err = waitErr()
	wantErr(t, "cancelled under way", err, shard.ErrAmbiguous)
	_, err = c.Current(cctx)
	wantErr(t, "cancelled", err, context.Canceled)
}

// TestAPhysicalCompactionHasNoPatience: the caller's own time alone bounds it; everything else has ours.
func TestAPhysicalCompactionHasNoPatience(t *testing.T) {
	c, f := newClientEnv(t)
	for _, physical := range []bool{false, true} {
		wait := started(func() (int64, error) { return c.Compact(context.Background(), 7, physical) })
		<-f.came
		call := f.pop(t)
		if _, bounded := call.ctx.Deadline(); bounded == physical {
			t.Errorf("physical %v: bounded %v", physical, bounded)
		}
		call.cb(&pb.PeerResponse{Compact: &pb.CompactResponse{Revision: 9}}, nil)
		if rev, err := wait(); rev != 9 || err != nil {
			t.Errorf("%d, %v", rev, err)
		}
	}
	if c.Compacted() != 7 {
		t.Errorf("knows of a compaction at %d", c.Compacted())
	}
	var compacted *shard.CompactedError
	wait := started(func() (int64, error) { return c.Compact(context.Background(), 7, false) })
	<-f.came
	f.pop(t).cb(nil, &shard.CompactedError{Revision: 8})
	if _, err := wait(); !errors.As(err, &compacted) || c.Compacted() != 8 {
		t.Errorf("%v, knows of %d", err, c.Compacted())
	}
}

// countedContext counts who is to be told of its end.
type countedContext struct {
	context.Context
	registered *int
}

func (c countedContext) AfterFunc(func()) (stop func() bool) {
	*c.registered++
	return func() bool { *c.registered--; return true }
}

func (countedContext) Value(any) any { return nil } // else package context asks the embedded one itself

// TestACallLeavesNothingBehind: a context that lives as long as the client, or as a stream of its caller's, keeps
// nothing of a call that has been answered.
func TestACallLeavesNothingBehind(t *testing.T) {
	c, f := newClientEnv(t)
	f.auto = func(*fakeCall) (*pb.PeerResponse, error) {
		return &pb.PeerResponse{Compact: &pb.CompactResponse{Revision: 9}}, nil
	}
	left := 0
	ctx := countedContext{c.ctx, &left}
	for name, a := range map[string]attempt{"short": {}, "once": {once: true}, "long": {long: true}, "as the caller waits": {once: true, long: true}} {
		a.req, a.ctx, a.done = &pb.PeerRequest{}, ctx, func(*pb.PeerResponse, error) {}
		c.call(&a)
		if left != 0 {
			t.Errorf("%s: its caller's context holds %d of it", name, left)
		}
		left = 0
	}
}

func TestLeaderErrorsComeThrough(t *testing.T) {
	c, f := newClientEnv(t)
	for _, want := range []error{shard.ErrLeaseNotFound, shard.ErrLeaseExists, shard.ErrFutureRevision, shard.ErrInvalid} {
		f.auto = func(*fakeCall) (*pb.PeerResponse, error) { return nil, want }
		before := f.total
		_, err := c.Attach(context.Background(), 1, 0, shard.All)
		wantErr(t, "attach", err, want)
		if f.total != before+1 {
			t.Errorf("%v: asked %d times", want, f.total-before)
		}
	}
}

func TestANewerMapIsFetched(t *testing.T) {
	c, f := newClientEnv(t)
	b := layout(4)
	version := uint64(3)
	fetches := 0
	f.auto = func(call *fakeCall) (*pb.PeerResponse, error) {
		if call.req.Oracle != nil {
			return &pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: 1, Epoch: 6, RangesVersion: version}}, nil
		}
		fetches++
		d := &pb.DescriptorsResponse{Version: version, ClusterId: 77}
		if call.req.Descriptors.KnownVersion != version {
			d.Ranges, d.Members, d.Meta = b.Ranges, b.Members, b.Meta
		}
		return &pb.PeerResponse{Descriptors: d}, nil
	}
	changed := c.Changed()
	if c.Map() != nil {
		t.Error("a map before any answer")
	}
	for range 3 {
		if _, err := c.Current(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	if m := c.Map(); m == nil || m.Version() != 3 || m.Len() != 4 || fetches != 1 {
		t.Errorf("map %v after %d fetches", m, fetches)
	}
	if err := c.Refresh(context.Background()); err != nil || fetches != 2 || c.Map().Version() != 3 {
		t.Errorf("refreshed: %v, %d fetches", err, fetches)
	}
	select {
	case <-c.Changed():
		t.Error("nothing has changed")
	default:
	}
	version = 4
	ms, err := c.Members(context.Background())
	if err != nil || len(ms) != 3 || c.View().ClusterID != 77 || c.Map().Version() != 4 {
		t.Errorf("members %v, %v", ms, err)
	}
	version = 2 // an answer that was late
	if err := c.Refresh(context.Background()); err != nil || c.Map().Version() != 4 {
		t.Errorf("an older map was taken: %v", c.Map().Version())
	}
}

// TestAFetchThatNobodyWaitsFor: one at a time, whoever asks for it and however often.
func TestAFetchThatNobodyWaitsFor(t *testing.T) {
	c, f := newClientEnv(t)
	for round := range 2 {
		for range 1000 {
			c.RefreshSoon()
		}
		if f.total != round+1 || c.Map() != nil {
			t.Fatalf("%d fetches are under way in round %d", f.total-round, round)
		}
		f.pop(t).cb(nil, shard.ErrInvalid)
	}
	c.RefreshSoon()
	f.pop(t).cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{Version: 3, Ranges: layout(4).Ranges}}, nil)
	if m := c.Map(); m == nil || m.Version() != 3 {
		t.Errorf("the map is %v", m)
	}
	c.Close()
	if c.RefreshSoon(); f.total != 3 {
		t.Error("a closed client asks")
	}
}

// A client that has a map is told the differences, and takes them; where they are not those to its map it fetches all of it.
func TestDifferencesAreTaken(t *testing.T) {
	c, f := newClientEnv(t)
	s := state.New()
	s.Apply(1, 1, &pb.MetaEntry{Term: 1, Bootstrap: layout(4)})
	spoil := func(*pb.DescriptorsResponse) {}
	var asked, told []string
	f.auto = func(call *fakeCall) (*pb.PeerResponse, error) {
		req := call.req.Descriptors
		v := s.View(req.KnownVersion, req.Differences)
		d := v.Response()
		asked = append(asked, fmt.Sprint(req.KnownVersion, req.Differences))
		if d.BaseVersion != 0 {
			spoil(d)
		}
		told = append(told, fmt.Sprintf("%d since %d: %d without %d, members %d", d.Version, d.BaseVersion, len(d.Ranges), len(d.Removed), len(d.Members)))
		return &pb.PeerResponse{Descriptors: d}, nil
	}
	refresh := func(wantAsked, wantTold string) {
		t.Helper()
		asked, told = nil, nil
		if err := c.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(asked) != wantAsked || fmt.Sprint(told) != wantTold {
			t.Errorf("asked %v, told %v", asked, told)
		}
		v := c.View()
		if v.Map.String() != s.Map().String() || len(v.Members) != 3 || v.Members[0].Name != s.Members()[0].Name || len(v.Meta.Replicas) != 3 {
			t.Errorf("the view is %+v, the map\n%v\ninstead of\n%v", v, v.Map, s.Map())
		}
	}
	apply := func(next *shard.Map, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		changed, _ := next.Changes(s.Map())
		if err := s.ApplyRanges(changed...); err != nil {
			t.Fatal(err)
		}
	}
	refresh("[0 true]", "[1 since 0: 4 without 0, members 3]")
	first := s.Map().Lookup(nil)
	apply(s.Map().Split(first.ID, []byte{1}, 90, first.Replicas))
	refresh("[1 true]", "[2 since 1: 2 without 0, members 0]")
	apply(s.Map().Merge(first.ID, 90))
	apply(s.Map().Split(first.ID, []byte{2}, 91, first.Replicas))
	s.Apply(2, 1, &pb.MetaEntry{Term: 1, MemberAttrs: &pb.MetaMemberAttrs{Id: 1, Name: "uno"}})
	refresh("[2 true]", "[5 since 2: 2 without 1, members 3]")
	refresh("[5 true]", "[5 since 0: 0 without 0, members 0]")
	for _, spoil = range []func(*pb.DescriptorsResponse){
		func(d *pb.DescriptorsResponse) { d.BaseVersion-- },
		func(d *pb.DescriptorsResponse) { d.Ranges = d.Ranges[1:] },
		func(d *pb.DescriptorsResponse) { d.Removed = append(d.Removed, 91) },
	} {
		apply(s.Map().Split(first.ID, []byte{1}, 100, first.Replicas))
		refreshed := c.Map().Version()
		if err := c.Refresh(context.Background()); err != nil || c.Map().String() != s.Map().String() || c.Map().Version() == refreshed {
			t.Errorf("after wrong differences: %v, version %d", err, c.Map().Version())
		}
		apply(s.Map().Merge(first.ID, 100))
		spoil = func(*pb.DescriptorsResponse) {}
		refresh(fmt.Sprintf("[%d true]", s.Map().Version()-1), fmt.Sprintf("[%d since %d: 1 without 1, members 0]", s.Map().Version(), s.Map().Version()-1))
	}
	// A node of an older build tells everything, as it always has.
	apply(s.Map().Split(first.ID, []byte{1}, 101, first.Replicas))
	f.auto = func(call *fakeCall) (*pb.PeerResponse, error) {
		v := s.View(call.req.Descriptors.KnownVersion, false)
		return &pb.PeerResponse{Descriptors: v.Response()}, nil
	}
	refresh("[]", "[]")
}

// Whoever asks for a fetch gets one that began after that.
func TestRefreshBeginsAfterTheRequest(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	refresh := func(name string) { c.RefreshFunc(func(err error) { g.add("%s %v", name, err) }) }
	refresh("a")
	refresh("b")
	refresh("c")
	f.pop(t).cb(&pb.PeerResponse{Descriptors: &pb.DescriptorsResponse{}}, nil)
	if out := g.take(); !slices.Equal(out, []string{"a <nil>"}) || f.total != 2 {
		t.Errorf("told %v after %d calls", out, f.total)
	}
	f.pop(t).cb(nil, shard.ErrUnimplemented)
	if out := g.take(); len(out) != 2 || f.total != 2 {
		t.Errorf("told %v after %d calls", out, f.total)
	}
}

func TestKeepAlivesAreShared(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	for id := int64(1); id <= 100; id++ {
		c.KeepAliveFunc(id, func(l Lease, err error) { g.add("%d: %d %v", id, l.TTL, err) })
	}
	if f.total != keepAliveCalls {
		t.Fatalf("%d calls are under way", f.total)
	}
	ending := func(call *fakeCall) (*pb.PeerResponse, error) {
		out := &pb.LeaseInfoResponse{}
		for _, id := range call.req.LeaseKeepAlive.Ids {
			out.Leases = append(out.Leases, &pb.LeaseInfo{Id: id, Ttl: 60, Revoking: id == 50})
		}
		return &pb.PeerResponse{LeaseInfo: out}, nil
	}
	for range 3 {
		call := f.pop(t)
		call.cb(ending(call))
	}
	if out := g.take(); f.total != 4 || len(out) != 99 || out[98] != "100: 60 <nil>" {
		t.Fatalf("%d calls, %d told", f.total, len(out))
	}
	call := f.pop(t)
	if !slices.Equal(call.req.LeaseKeepAlive.Ids, []int64{50}) {
		t.Errorf("asked about %v", call.req.LeaseKeepAlive.Ids)
	}
	call.cb(&pb.PeerResponse{LeaseInfo: &pb.LeaseInfoResponse{Leases: []*pb.LeaseInfo{{Id: 50}}}}, nil)
	if out := g.take(); !slices.Equal(out, []string{"50: 0 <nil>"}) {
		t.Errorf("told %v", out)
	}
}

// localOracle is a replica in this process, which answers while it can.
type localOracle struct {
	leads bool
	next  int64
	epoch uint64 // that it was asked with
}

func (l *localOracle) ServeLeased(epoch uint64, ask shard.Ask, _ bool) (shard.Now, bool) {
	l.epoch = epoch
	if !l.leads {
		return shard.Now{}, false
	}
	first := l.next
	l.next += ask.Count
	return shard.Now{Revision: first, Epoch: 6}, true
}

// The node whose replica leads asks without a message, while the replica can answer.
func TestLocalOracle(t *testing.T) {
	local := &localOracle{leads: true, next: 2}
	c, f := newClientEnv(t, func(cfg *Config) { cfg.Local = local })
	var g got
	g.allocate(c, 3)
	g.allocate(c, 1)
	if out := g.take(); f.total != 0 || !slices.Equal(out, []string{"a3=2/6 <nil>", "a1=5/6 <nil>"}) || c.Revision() != 5 {
		t.Errorf("told %v after %d calls, revision %d", out, f.total, c.Revision())
	}
	c.NoteEpoch(7) // it has been replaced, and does not know
	g.current(c)
	if f.total != 1 || local.epoch != 7 {
		t.Errorf("%d calls, asked with epoch %d", f.total, local.epoch)
	}
	local.leads = false
	g.current(c)
	if out := g.take(); f.total != 2 || out != nil {
		t.Errorf("told %v after %d calls", out, f.total)
	}
}

func TestCloseAnswersEverybody(t *testing.T) {
	c, f := newClientEnv(t)
	var g got
	for range 5 {
		g.allocate(c, 1)
	}
	c.KeepAliveFunc(1, func(_ Lease, err error) { g.add("alive %v", err) })
	c.Close()
	for f.waiting() > 0 {
		call := f.pop(t)
		if !errors.Is(call.ctx.Err(), context.Canceled) {
			t.Error("a call goes on")
		}
		call.cb(nil, fmt.Errorf("%w: %w", shard.ErrAmbiguous, call.ctx.Err()))
	}
	f.fire(0)
	if out := g.take(); len(out) != 6 {
		t.Errorf("told %v", out)
	}
	for _, again := range []func(){func() { g.current(c) }, func() { c.KeepAliveFunc(1, func(_ Lease, err error) { g.add("%v", err) }) },
		func() { c.RefreshFunc(func(err error) { g.add("%v", err) }) }} {
		again()
		if out := g.take(); len(out) != 1 {
			t.Errorf("after Close: %v", out)
		}
	}
}

func TestAllocateIsBounded(t *testing.T) {
	c, f := newClientEnv(t)
	for _, n := range []int64{0, -1, allocateMax + 1} {
		c.Allocate(shard.Ask{Count: n}, func(_ shard.Now, err error) { wantErr(t, "allocate", err, shard.ErrInvalid) })
	}
	var g got
	for range 4 { // the fourth and fifth wait; together they are too much for one call
		g.allocate(c, allocateMax)
	}
	g.allocate(c, allocateMax)
	f.pop(t).cb(nowResp(2, 6), nil)
	f.pop(t).cb(nowResp(2_000_000, 6), nil)
	for f.waiting() > 0 {
		call := f.pop(t)
		if call.req.Oracle.Count > allocateMax {
			t.Errorf("one call asks for %d", call.req.Oracle.Count)
		}
		call.cb(nowResp(9_000_000, 6), nil)
	}
	if out := g.take(); len(out) != 5 {
		t.Errorf("told %v", out)
	}
}

// TestARemovalWaits: it is over when no group needs the member, which is asked for again after whatever happens meanwhile, for as long as the caller has
// patience; the decision is not asked for twice. Other changes are over at once.
func TestARemovalWaits(t *testing.T) {
	c, f := newClientEnv(t)
	next := func() *fakeCall {
		for {
			if <-f.came; f.waiting() == 0 {
				f.fire(0)
			} else if call := f.pop(t); call.req.Descriptors == nil {
				return call
			}
		}
	}
	change := func(ctx context.Context, kind shard.MemberChange) func() (Membership, error) {
		return started(func() (Membership, error) {
			return c.ChangeMember(ctx, &pb.ChangeMemberRequest{Change: uint32(kind), Id: 7})
		})
	}
	decided := &pb.PeerResponse{Members: &pb.MembersResponse{Id: 7}}
	wait := change(t.Context(), shard.MemberDrain)
	next().cb(decided, nil)
	if _, err := wait(); err != nil {
		t.Error(err)
	}

	wait = change(t.Context(), shard.MemberRemove)
	next().cb(decided, nil)
	for _, why := range []error{shard.ErrUnavailable, shard.ErrAmbiguous, &shard.NotLeaderError{Range: shard.MetaID}} {
		call := next()
		if call.req.Members.GetDispensable() != 7 {
			t.Fatalf("asked: %v", call.req)
		}
		call.cb(nil, why)
	}
	next().cb(&pb.PeerResponse{Members: &pb.MembersResponse{}}, nil)
	if ms, err := wait(); err != nil || ms.Changed != 7 {
		t.Errorf("%+v, %v", ms, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wait = change(ctx, shard.MemberRemove)
	next().cb(decided, nil)
	if _, err := wait(); !errors.Is(err, shard.ErrAmbiguousTimeout) {
		t.Errorf("when the caller's time is over: %v", err)
	}
}
