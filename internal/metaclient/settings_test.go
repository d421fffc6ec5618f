package metaclient

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

func follows(cfg *Config) { cfg.FollowSettings = true }

// TestNewsOfSettingsComeFirst: an answer that speaks of newer settings is handed on when these are known here, except that revisions which were
// allocated are used; and everybody who waits shares one question.
func TestNewsOfSettingsComeFirst(t *testing.T) {
	var g got
	c, f := newClientEnv(t, follows, func(cfg *Config) {
		cfg.SettingsChanged = func(s *placement.Settings) { g.add("settings %d", s.Version) }
	})
	if c.Settings().Version != 0 || c.Lent() {
		t.Error("something is known before anybody was asked")
	}
	answer := func(rev int64, version uint64, refused bool) *pb.PeerResponse {
		r := nowResp(rev, 6)
		r.Oracle.SettingsVersion, r.Oracle.Refused = version, refused
		return r
	}
	ask := func(version uint64) {
		c.Allocate(shard.Ask{Count: 1, Conditional: true, Settings: version, Grows: true}, func(now shard.Now, err error) {
			g.add("%d %v", now.Revision, errors.Is(err, shard.ErrOldSettings))
		})
	}
	g.current(c)
	call := f.pop(t)
	if call.req.Oracle.LendTo != 9 {
		t.Errorf("lent to %d", call.req.Oracle.LendTo)
	}
	call.cb(answer(4, 1, false), nil)
	ask(0)
	ask(0)
	fetch := f.pop(t)
	call = f.pop(t)
	if call.req.Oracle.Condition == nil || call.req.Oracle.Condition.SettingsVersion != 0 || !call.req.Oracle.Condition.Grows {
		t.Fatalf("asked: %v", call.req)
	}
	call.cb(answer(4, 1, true), nil)
	f.pop(t).cb(answer(4, 1, true), nil)
	if out := g.take(); out != nil || fetch.req.Settings == nil || f.waiting() != 0 {
		t.Fatalf("told %v before the settings are known, %d questions", out, f.waiting())
	}
	fetch.cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 1}}, nil)
	if out := g.take(); !slices.Equal(out, []string{"settings 1", "c=4/6/5 <nil>", "0 true", "0 true"}) {
		t.Errorf("told %v", out)
	}
	if !c.Lent() || c.Revision() != 4 {
		t.Errorf("nothing is lent, so everything may be judged: %v; revision %d", c.Lent(), c.Revision())
	}
	ask(1) // it is allocated, and brings news that nobody has to wait for
	f.pop(t).cb(answer(5, 2, false), nil)
	if out := g.take(); !slices.Equal(out, []string{"5 false"}) {
		t.Errorf("told %v", out)
	}
}

// TestOneConditionPerCall: revisions under different conditions are not asked for in one call, and whoever wants the current one joins any.
func TestOneConditionPerCall(t *testing.T) {
	c, f := newClientEnv(t, follows, func(cfg *Config) { cfg.CallsMax, cfg.RequestsMax = 1, 1 })
	ask := func(a shard.Ask) { c.Allocate(a, func(shard.Now, error) {}) }
	ask(shard.Ask{Count: 1}) // in flight: the others wait
	ask(shard.Ask{Count: 2})
	c.NowFunc(func(shard.Now, error) {})
	ask(shard.Ask{Count: 3, Conditional: true, Settings: 1})
	ask(shard.Ask{Count: 4, Conditional: true, Settings: 1, Grows: true})
	ask(shard.Ask{Count: 5, Conditional: true, Settings: 2})
	for _, want := range []struct {
		count      uint32
		settings   uint64
		free, grow bool
	}{{1, 0, true, false}, {2, 0, true, false}, {7, 1, false, true}, {5, 2, false, false}} {
		call := f.pop(t)
		r := call.req.Oracle
		if r.Count != want.count || (r.Condition == nil) != want.free || r.Condition.GetSettingsVersion() != want.settings || r.Condition.GetGrows() != want.grow {
			t.Errorf("asked: %v, want %+v", r, want)
		}
		call.cb(nowResp(10, 6), nil)
	}
}

// TestWhoseRevisions: a call says whose each of its revisions are, in order, and asks for whom others were given since the least that somebody wants.
func TestWhoseRevisions(t *testing.T) {
	c, f := newClientEnv(t, func(cfg *Config) { cfg.CallsMax, cfg.RequestsMax = 1, 1 })
	var g got
	ask := func(a shard.Ask) {
		c.Allocate(a, func(now shard.Now, _ error) { g.add("r%d: %d", a.Range, now.Revision) })
	}
	since := func(rev int64) {
		c.GrantedFunc(rev, func(now shard.Now, _ error) { g.add("since %d: %v above %d", rev, now.Granted.Last, now.Granted.Floor) })
	}
	ask(shard.Ask{Count: 1, Range: 2, Generation: 1}) // in flight: the others wait
	ask(shard.Ask{Count: 2, Range: 3, Generation: 4})
	since(70)
	ask(shard.Ask{Count: 3})
	since(60)
	ask(shard.Ask{Count: 1, Range: 5, Generation: 6})
	f.pop(t).cb(nowResp(80, 6), nil)
	call := f.pop(t)
	var shares []string
	for _, s := range call.req.Oracle.Shares {
		shares = append(shares, fmt.Sprintf("%d of r%d in %d", s.Count, s.RangeId, s.Generation))
	}
	if got := strings.Join(shares, ", "); got != "2 of r3 in 4, 3 of r0 in 0, 1 of r5 in 6" || call.req.Oracle.Count != 6 || call.req.Oracle.Granted.GetSince() != 60 {
		t.Errorf("asked for %v: %s", call.req.Oracle, got)
	}
	resp := nowResp(81, 6)
	resp.Oracle.Granted = &pb.Granted{Revision: 86, Floor: 50, RangeIds: []uint64{3, 5}, Lasts: []int64{82, 86}}
	g.take()
	call.cb(resp, nil)
	want := []string{"r3: 81", "since 70: map[r3:82 r5:86] above 50", "r0: 83", "since 60: map[r3:82 r5:86] above 50", "r5: 86"}
	if got := g.take(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	c.NowFunc(func(shard.Now, error) {})
	ask(shard.Ask{Count: 1})
	if first := f.pop(t).req.Oracle; first.Granted != nil || first.Shares != nil {
		t.Errorf("asked for what nobody wants: %v", first)
	}
}

// TestAPushIsConfirmedWhenTheViewIsSwapped: and when whoever had to be told has been.
func TestAPushIsConfirmedWhenTheViewIsSwapped(t *testing.T) {
	var g got
	c, f := newClientEnv(t, follows, func(cfg *Config) {
		cfg.SettingsChanged = func(s *placement.Settings) { g.add("settings %d", s.Version) }
	})
	push := func(version uint64) {
		c.Pushed(&pb.SettingsPush{Version: version}, func(p *pb.SettingsPush, err error) { g.add("confirmed %d %v", p.GetVersion(), err) })
	}
	push(3)
	if out := g.take(); out != nil {
		t.Fatalf("told %v", out)
	}
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 2}}, nil) // of a leader that has been replaced
	if f.fire(retryPauseMin) != 1 {
		t.Fatal("it is not asked again")
	}
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 4}}, nil)
	push(3)
	push(4)
	if out := g.take(); !slices.Equal(out, []string{"settings 2", "settings 4", "confirmed 4 <nil>", "confirmed 4 <nil>", "confirmed 4 <nil>"}) {
		t.Errorf("told %v", out)
	}
	push(5)
	c.Close()
	if out := g.take(); len(out) != 1 {
		t.Errorf("after Close: %v", out)
	}
}

// TestWhoHasHeardOfNewerSettingsAsks: a member that was told of a change and cannot fetch it judges nothing by what was before, though that is lent to nobody.
func TestWhoHasHeardOfNewerSettingsAsks(t *testing.T) {
	c, f := newClientEnv(t, follows)
	push := func(version uint64) {
		c.Pushed(&pb.SettingsPush{Version: version}, func(*pb.SettingsPush, error) {})
	}
	push(2)
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 2}}, nil)
	if !c.Lent() {
		t.Fatal("settings on which nothing depends are to be borrowed")
	}
	push(4)
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 3}}, nil) // of a leader that has been replaced
	if c.Lent() {
		t.Error("judges by settings of which it has heard that there are newer")
	}
	f.fire(retryPauseMin)
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 4}}, nil)
	if !c.Lent() {
		t.Error("does not judge by the newest")
	}
}

// TestWhoIsNeverToldGoesByLoansAlone: a process that no member calls judges nothing without a loan, though settings on which nothing depends are not lent to
// members.
func TestWhoIsNeverToldGoesByLoansAlone(t *testing.T) {
	now := time.Unix(1000, 0)
	c, f := newClientEnv(t, follows, func(cfg *Config) { cfg.Untold, cfg.Steady = true, func() time.Time { return now } })
	answer := func(lent time.Duration) {
		t.Helper()
		c.NowFunc(func(shard.Now, error) {})
		r := nowResp(4, 6)
		r.Oracle.SettingsVersion, r.Oracle.LentMs = 1, lent.Milliseconds()
		call := f.pop(t)
		now = now.Add(100 * time.Millisecond)
		call.cb(r, nil)
	}
	answer(time.Second)
	f.pop(t).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 1}}, nil)
	if c.Settings().Lends() || !c.Lent() {
		t.Fatalf("settings that depend on nothing: %v; with a loan: %v", c.Settings().Lends(), c.Lent())
	}
	now = now.Add(899 * time.Millisecond)
	if !c.Lent() {
		t.Error("the loan ends early")
	}
	now = now.Add(time.Millisecond) // counted from the question
	if c.Lent() {
		t.Error("it judges after its loan")
	}
	answer(0)
	if c.Lent() {
		t.Error("it judges by an answer that lends nothing")
	}
	asked := false
	c.BorrowFunc(func(s *placement.Settings, err error) { asked = s != nil && err == nil })
	f.pop(t).cb(nowResp(5, 6), nil)
	if !asked {
		t.Error("whoever asks has no answer")
	}
}

// TestFollow: what nobody calls waits at the leader for newer settings, and says by which it goes once whoever is to be told of them has been.
func TestFollow(t *testing.T) {
	var g got
	c, f := newClientEnv(t, follows, func(cfg *Config) {
		cfg.Untold = true
		cfg.SettingsChanged = func(s *placement.Settings) { g.add("settings %d", s.Version) }
	})
	asked := func(known uint64) *fakeCall {
		t.Helper()
		call := f.pop(t)
		if r := call.req.Settings; r == nil || r.KnownVersion != known || r.Follower != 9 {
			t.Fatalf("asked %v, not with %d known", call.req, known)
		}
		return call
	}
	again := func(want time.Duration) {
		t.Helper()
		if f.waiting() != 0 {
			t.Fatal("it asks again without a pause")
		}
		f.mu.Lock()
		pauses := f.pauses
		f.pauses = nil
		f.mu.Unlock()
		if f.fire(want) != 1 || !slices.Equal(pauses, []time.Duration{want}) {
			t.Fatalf("pauses %v, not %v", pauses, want)
		}
	}
	c.Follow()
	asked(0).cb(&pb.PeerResponse{Settings: &pb.SettingsState{Version: 2}}, nil)
	if out := g.take(); !slices.Equal(out, []string{"settings 2"}) {
		t.Fatalf("told %v", out)
	}
	again(0) // at once: the leader waits for its word
	call := asked(2)
	if f.fire(4*time.Second) != 0 || f.waiting() != 0 {
		t.Fatal("the leader may take its time, and it asks again")
	}
	call.cb(&pb.PeerResponse{Empty: &pb.Empty{}}, nil)
	again(followPause)
	call = asked(2)
	c.Close()
	call.cb(nil, shard.ErrUnavailable)
	if f.fire(time.Second); f.waiting() != 0 {
		t.Fatal("it asks after Close")
	}
}
