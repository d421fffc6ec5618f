package meta

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pontoon/internal/clusterversion"
	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/raftgroup"
	"pontoon/shard"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

// TestMutants: each rule of the planner's, of the group's own moves, of conditions on the oracle, of how settings are acknowledged and of removals that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, append(mutate.SizeNames(), mutate.PlannerNames()...), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=BySize|Planner|Planned")
	mutatetest.Each(t, mutate.MetaMoveNames(), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=MetaMove")
	mutatetest.Each(t, mutate.OracleNames(), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Condition")
	mutatetest.Each(t, mutate.SettledNames(), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Settled")
	mutatetest.Each(t, mutate.RemovedNames(), time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Leavers")
}

// fakeHost is a Raft group of which this test is the other replicas: entries commit, and rounds
// end, when it says so.
type fakeHost struct {
	mu       sync.Mutex
	term     uint64 // that it leads, 0 if none
	index    uint64
	log      []raftgroup.Entry // proposed, not committed
	dropped  error             // what becomes of proposals
	rounds   []func(ok bool, commit uint64)
	begun    int // rounds, ever
	lease    time.Time
	transfer shard.ReplicaID
	handed   int    // transfers that were asked for
	conf     uint64 // index of the configuration
	behind   string // what a learner lacks
}

func (h *fakeHost) ChangeConfig(g shard.RangeID, term uint64, c raftgroup.ConfChange, dropped func(error)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g != shard.MetaID || term != h.term {
		return &shard.NotLeaderError{Range: g}
	}
	pending := slices.ContainsFunc(h.log, func(e raftgroup.Entry) bool { return e.Context != nil })
	if c.From != h.conf || pending {
		defer dropped(raftgroup.ErrChangePending)
		return nil
	}
	h.log = append(h.log, raftgroup.Entry{Term: term, Context: c.Context})
	return nil
}

func (h *fakeHost) Behind(_ shard.RangeID, _ uint64, _ shard.ReplicaID, _ uint64, done func(string)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	done(h.behind)
	return nil
}

func (h *fakeHost) Status(shard.RangeID) (raftgroup.Status, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return raftgroup.Status{Conf: raftgroup.Conf{Index: h.conf}}, true
}

func (h *fakeHost) ProposeFunc(g shard.RangeID, term uint64, data []byte, dropped func(error)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g != shard.MetaID {
		return fmt.Errorf("group %v", g)
	}
	if term != h.term {
		return &shard.NotLeaderError{Range: g}
	}
	if h.dropped != nil {
		defer dropped(h.dropped)
		return nil
	}
	h.log = append(h.log, raftgroup.Entry{Term: term, Data: data})
	return nil
}

func (h *fakeHost) Confirm(_ shard.RangeID, term uint64, done func(ok bool, commit uint64)) {
	h.mu.Lock()
	h.begun++
	h.rounds = append(h.rounds, done)
	h.mu.Unlock()
}

func (h *fakeHost) LeaseUntil(_ shard.RangeID, term uint64) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lease, term == h.term
}

func (h *fakeHost) HandOver(_ shard.RangeID, _ uint64, to shard.ReplicaID, _ func(error)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.transfer = to
	h.handed++
	return nil
}

func (h *fakeHost) AbortHandOver(shard.RangeID, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.transfer = 0
}

// fakeRanges carries out what the meta group decides, and notes it.
type fakeRanges struct {
	mu      sync.Mutex
	expired []string
	tries   map[int64]int
	stuck   map[int64]bool  // ExpireLease fails
	at      map[int64]int64 // at which revision ExpireLease finds keys to delete, once
	lost    error           // of the first ExpireLease of each lease, whose work is done
	held    chan struct{}   // unless nil, ExpireLease returns when it is closed
	takes   time.Duration   // ExpireLease; who has less time does not hear of its work
	compact []string
	broken  bool // CompactRanges fails
	changer
}

// changer are the leaders of ranges that may be changed.
type changer interface {
	Change(ctx context.Context, req *pb.ChangeRequest) (*pb.ChangeResponse, error)
}

func (r *fakeRanges) ExpireLease(ctx context.Context, lease int64, _ uint64, spans []shard.Span) (int64, error) {
	if r.held != nil {
		<-r.held
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries[lease]++
	if r.stuck[lease] {
		return 0, shard.ErrUnavailable
	}
	r.expired = append(r.expired, fmt.Sprintf("%x%v", lease, spans))
	rev := r.at[lease]
	delete(r.at, lease)
	if end, ok := ctx.Deadline(); r.takes > 0 && ok && time.Until(end) < r.takes {
		return 0, shard.ErrAmbiguousTimeout
	}
	if r.lost != nil && r.tries[lease] == 1 {
		return 0, r.lost
	}
	return rev, nil
}

func (r *fakeRanges) setStuck(lease int64, stuck bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stuck[lease] = stuck
}

func (r *fakeRanges) CompactRanges(_ context.Context, rev int64, physical bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return shard.ErrUnavailable
	}
	r.compact = append(r.compact, fmt.Sprintf("%d %v", rev, physical))
	return nil
}

// env is one replica under a fake host and a clock that stands still.
type env struct {
	t      testing.TB
	m      *Meta
	h      *fakeHost
	ranges *fakeRanges
	dir    string
	clock  struct {
		sync.Mutex
		now time.Time
	}
	seen []*pb.MetaEntry // committed
}

var testMembers = []shard.Member{{ID: 1, Name: "one"}, {ID: 2, Name: "two"}, {ID: 3, Name: "three"}}

// layout is a new cluster's plan, with so many ranges.
func layout(ranges int) *pb.MetaBootstrap {
	return placement.Bootstrap(placement.Layout{Members: testMembers, SplitKeys: shard.SplitKeys(ranges), ReplicationFactor: 3})
}

func newEnv(t testing.TB, edit ...func(*Config)) *env {
	e := &env{t: t, dir: t.TempDir(), h: &fakeHost{index: raftgroup.InitialIndex}, ranges: &fakeRanges{changer: &splitters{}, tries: map[int64]int{}, stuck: map[int64]bool{}, at: map[int64]int64{}}}
	e.clock.now = time.Unix(1_000_000, 0)
	e.open(edit...)
	t.Cleanup(func() { e.m.Close() })
	return e
}

func (e *env) open(edit ...func(*Config)) {
	b := layout(2)
	b.ClusterId = 77
	cfg := Config{Node: 1, Host: e.h, Dir: e.dir, Desc: pb.ToDescriptor(b.Meta), Bootstrap: b, Ranges: e.ranges,
		Now: e.now, TickInterval: -1, ElectionTimeout: time.Second}
	for _, f := range edit {
		f(&cfg)
	}
	m, err := Open(cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	e.m = m
}

func (e *env) now() time.Time {
	e.clock.Lock()
	defer e.clock.Unlock()
	return e.clock.now
}

// advance moves the clock, and ticks; the leader lease is lost by it.
func (e *env) advance(d time.Duration) {
	e.clock.Lock()
	e.clock.now = e.clock.now.Add(d)
	e.clock.Unlock()
	e.m.Tick()
}

// retry lets the time come for another attempt to remove a lease, after one that fails.
func (e *env) retry(id int64) {
	e.t.Helper()
	e.until("an attempt has failed", func() bool {
		e.m.mu.Lock()
		defer e.m.mu.Unlock()
		t := e.m.revocations.open[id]
		return t != nil && !t.due.IsZero()
	})
	e.advance(time.Second)
}

// leased makes the leader lease valid.
func (e *env) leased() {
	e.h.mu.Lock()
	e.h.lease = e.now().Add(time.Second)
	e.h.mu.Unlock()
}

// apply commits one entry.
func (e *env) apply(ent raftgroup.Entry) {
	e.t.Helper()
	e.h.index++
	ent.Index = e.h.index
	if ent.Context != nil {
		e.h.mu.Lock()
		e.h.conf = ent.Index
		e.h.mu.Unlock()
	}
	if ent.Data != nil {
		var entry pb.MetaEntry
		if err := entry.UnmarshalVT(ent.Data); err != nil {
			e.t.Fatal(err)
		}
		e.seen = append(e.seen, &entry)
	}
	if err := e.m.Apply([]raftgroup.Entry{ent}); err != nil {
		e.t.Fatal(err)
	}
}

// commit applies what has been proposed, once.
func (e *env) commit() bool {
	e.t.Helper()
	e.h.mu.Lock()
	log := e.h.log
	e.h.log = nil
	e.h.mu.Unlock()
	for _, ent := range log {
		e.apply(ent)
	}
	return len(log) > 0
}

// confirm ends all rounds under way.
func (e *env) confirm(ok bool) bool {
	e.h.mu.Lock()
	rounds := e.h.rounds
	e.h.rounds = nil
	e.h.mu.Unlock()
	for _, done := range rounds {
		done(ok, 0)
	}
	return len(rounds) > 0
}

// settle commits and confirms until nothing moves, apart from what goroutines still do.
func (e *env) settle() {
	e.t.Helper()
	for e.commit() || e.confirm(true) {
	}
}

// until settles until cond holds: for what goes through a goroutine.
func (e *env) until(what string, cond func() bool) {
	e.t.Helper()
	for limit := time.Now().Add(20 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(limit) {
			e.t.Fatalf("waited in vain: %s", what)
		}
		e.settle()
	}
}

// elect makes this replica the leader of a term, up to its own entry.
func (e *env) elect(term uint64) {
	e.t.Helper()
	e.h.mu.Lock()
	e.h.term, e.h.log = term, nil
	e.h.mu.Unlock()
	e.m.LeaderChanged(raftgroup.Leadership{Term: term, Leader: 1, IsLeader: true})
	e.apply(raftgroup.Entry{Term: term})
	e.m.OwnTermApplied(term)
}

// lead makes it serve, with a lease.
func (e *env) lead(term uint64) {
	e.t.Helper()
	e.elect(term)
	e.leased()
	e.settle()
}

// depose lets another replica lead.
func (e *env) depose(term uint64, by shard.ReplicaID) {
	e.h.mu.Lock()
	e.h.term, e.h.log = 0, nil
	e.h.mu.Unlock()
	e.m.LeaderChanged(raftgroup.Leadership{Term: term, Leader: by})
}

// answer is what a call came to. Where it may come from another goroutine, done is asked before
// the rest is looked at.
type answer struct {
	mu    sync.Mutex
	resp  *pb.PeerResponse
	err   error
	count int
}

func (a *answer) done() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count > 0
}

// ask makes a call whose answer may come later.
func (e *env) ask(req *pb.PeerRequest) *answer {
	a := &answer{}
	e.m.Handle(context.Background(), 2, req, func(resp *pb.PeerResponse) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.resp, a.err = resp, pb.ErrorFromPB(resp.Error)
		a.count++
	})
	return a
}

// call makes a call and lets everything happen that answers it.
func (e *env) call(req *pb.PeerRequest) (*pb.PeerResponse, error) {
	e.t.Helper()
	a := e.ask(req)
	e.settle()
	e.until("an answer to "+req.String(), a.done)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count != 1 {
		e.t.Fatalf("%d answers to %v", a.count, req)
	}
	return a.resp, a.err
}

func (e *env) must(req *pb.PeerRequest) *pb.PeerResponse {
	e.t.Helper()
	resp, err := e.call(req)
	if err != nil {
		e.t.Fatalf("%v: %v", req, err)
	}
	return resp
}

func oracleReq(n uint32) *pb.PeerRequest {
	return &pb.PeerRequest{Oracle: &pb.OracleRequest{Count: n}}
}

func grantReq(id, ttl int64) *pb.PeerRequest {
	return &pb.PeerRequest{LeaseGrant: &pb.LeaseGrantRequest{Id: id, Ttl: ttl}}
}

func revokeReq(id int64) *pb.PeerRequest {
	return &pb.PeerRequest{LeaseRevoke: &pb.LeaseRevokeRequest{Id: id}}
}

func aliveReq(ids ...int64) *pb.PeerRequest {
	return &pb.PeerRequest{LeaseKeepAlive: &pb.LeaseKeepAliveRequest{Ids: ids}}
}

func attachReq(id int64, from, to string) *pb.PeerRequest {
	return &pb.PeerRequest{LeaseAttach: &pb.LeaseAttachRequest{Id: id, Span: &pb.Span{Start: []byte(from), End: []byte(to)}}}
}

func infoReq(id int64) *pb.PeerRequest {
	return &pb.PeerRequest{LeaseInfo: &pb.LeaseInfoRequest{Id: id}}
}

func compactReq(rev int64, physical bool) *pb.PeerRequest {
	return &pb.PeerRequest{Compact: &pb.CompactRequest{Revision: rev, Physical: physical}}
}

func (e *env) allocate(n uint32) int64 {
	e.t.Helper()
	return e.must(oracleReq(n)).Oracle.Revision
}

func (e *env) lease(id int64) *pb.LeaseInfo {
	e.t.Helper()
	return e.must(infoReq(id)).LeaseInfo.Leases[0]
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantNotLeader(t testing.TB, what string, got error, hint shard.NodeID) {
	t.Helper()
	var nl *shard.NotLeaderError
	if !errors.As(got, &nl) || nl.Leader != hint {
		t.Errorf("%s: %v, want a hint to node %v", what, got, hint)
	}
}

// speakNewest lets every member announce the formats of this build.
func (e *env) speakNewest() {
	for _, m := range e.m.state.Members() {
		e.must(&pb.PeerRequest{MemberAttrs: &pb.MemberAttrsRequest{Id: uint64(m.ID), Name: cmp.Or(m.Name, "n"), ClientUrls: []string{"http://c"}, Formats: uint32(clusterversion.Newest)}})
	}
	e.m.Tick()
	e.settle()
}
