package metaclient

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/auth"
	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/pb"
	"pontoon/placement"
)

// leader is the meta group's state behind a client's calls, which are answered at once.
type leader struct {
	t     *testing.T
	s     *state.State
	index uint64
	asked []string // for which settings, and how
	bytes int      // of the last answer
	spoil func(*pb.SettingsDifference)
	older bool // of a build that knows no differences
}

func newLeader(t *testing.T, f *fakeCaller, users int) *leader {
	l := &leader{t: t, s: state.New(), spoil: func(*pb.SettingsDifference) {}}
	l.apply(&pb.MetaEntry{Bootstrap: layout(1)})
	for id := range uint64(3) {
		l.apply(&pb.MetaEntry{MemberAttrs: &pb.MetaMemberAttrs{Id: id + 1, Name: "n", Formats: uint32(clusterversion.Newest)}})
	}
	l.apply(&pb.MetaEntry{ClusterVersion: &pb.MetaClusterVersion{Version: uint32(clusterversion.Newest)}})
	l.change(auth.RoleAdd, "", "r")
	for i := range users {
		l.change(auth.UserAdd, fmt.Sprintf("user-%d", i), "")
	}
	f.auto = l.answer
	return l
}

func (l *leader) apply(e *pb.MetaEntry) {
	l.t.Helper()
	e.Term = 1
	l.index++
	if res := l.s.Apply(l.index, 1, e); res.Err != nil {
		l.t.Fatal(res.Err)
	}
}

func (l *leader) change(what auth.Kind, user, role string) {
	l.t.Helper()
	l.apply(&pb.MetaEntry{Auth: &pb.MetaAuth{Change: uint32(what), User: user, Role: role, Hash: make([]byte, 60)}})
}

// answer answers a question for the settings.
func (l *leader) answer(call *fakeCall) (*pb.PeerResponse, error) {
	req := call.req.Settings
	l.asked = append(l.asked, fmt.Sprint(req.KnownVersion, " ", req.Differences))
	news := l.s.News(req.KnownVersion, req.Differences && !l.older)
	raw, err := news.Response().MarshalVT()
	if err != nil {
		return nil, err
	}
	l.bytes = len(raw)
	resp := &pb.PeerResponse{}
	if err := resp.UnmarshalVT(raw); err != nil {
		return nil, err
	}
	if resp.SettingsDifference != nil {
		l.spoil(resp.SettingsDifference)
	}
	return resp, nil
}

// push tells the client that there is something new, and has it confirm.
func (l *leader) push(c *Client) {
	l.t.Helper()
	version := l.s.Settings().Version
	l.asked = nil
	confirmed := uint64(0)
	c.Pushed(&pb.SettingsPush{Version: version}, func(p *pb.SettingsPush, err error) {
		if err != nil {
			l.t.Error(err)
		}
		confirmed = p.GetVersion()
	})
	if now := c.Settings(); confirmed != version || now.Version != version || !proto.Equal(now.ToPB(), l.s.Settings().ToPB()) {
		l.t.Errorf("version %d is confirmed, and the client goes by %d instead of %d", confirmed, now.Version, version)
	}
}

// unlike counts the users that one state does not share with another one.
func unlike(a, b *placement.Settings) (n int) {
	for _, name := range b.Auth.Users() {
		if a.Auth.User(name) != b.Auth.User(name) {
			n++
		}
	}
	return n
}

// TestSettingsByDifferences: with many users, a change costs a node what was changed: it is told of that, and has all else from what it had.
func TestSettingsByDifferences(t *testing.T) {
	c, f := newClientEnv(t, follows)
	l := newLeader(t, f, 5000)
	l.push(c)
	if whole, differences := c.SettingsTaken(); whole != 1 || differences != 0 || !slices.Equal(l.asked, []string{"0 true"}) || l.bytes < 100_000 {
		t.Fatalf("who knows nothing: %d answers of all, %d differences, asked %v, %d bytes", whole, differences, l.asked, l.bytes)
	}
	for i, change := range []func(){
		func() { l.change(auth.UserGrantRole, "user-77", "r") },
		func() { l.change(auth.UserChangePassword, "user-78", "") },
		func() { l.change(auth.UserAdd, "new", "") },
		func() { l.change(auth.UserDelete, "user-79", "") },
		func() { l.change(auth.RoleAdd, "", "s") },
		func() {
			l.apply(&pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: 1, Alarm: placement.AlarmNoSpace, Activate: true}})
		},
		func() { l.change(auth.RoleDelete, "", "r") },
	} {
		before := c.Settings()
		image := before.ToPB()
		change()
		l.push(c)
		if n := unlike(before, c.Settings()); n > 1 || l.bytes > 300 || len(l.asked) != 1 {
			t.Errorf("of change %d it is told %d bytes, asks %v, and has %d users anew", i, l.bytes, l.asked, n)
		}
		if !proto.Equal(before.ToPB(), image) {
			t.Errorf("change %d writes the settings of before", i)
		}
	}
	if whole, differences := c.SettingsTaken(); whole != 1 || differences != 7 {
		t.Errorf("%d answers of all, %d differences", whole, differences)
	}
}

// TestSettingsByDifferencesThatDoNotFit: then all of them are fetched, at once, and nobody sees what was in between.
func TestSettingsByDifferencesThatDoNotFit(t *testing.T) {
	var l *leader
	c, f := newClientEnv(t, follows, func(cfg *Config) {
		cfg.SettingsChanged = func(s *placement.Settings) {
			if l != nil && !proto.Equal(s.ToPB(), l.s.Settings().ToPB()) {
				t.Errorf("goes by %v", s.ToPB())
			}
		}
	})
	l = newLeader(t, f, 10)
	l.push(c)
	for what, spoil := range map[string]func(*pb.SettingsDifference){
		"of a later version":      func(d *pb.SettingsDifference) { d.Base++ },
		"without what changed":    func(d *pb.SettingsDifference) { d.Auth.Now.Users = nil },
		"of another state":        func(d *pb.SettingsDifference) { d.Auth.Sum++ },
		"without users and roles": func(d *pb.SettingsDifference) { d.Auth = nil },
		"with an alarm twice": func(d *pb.SettingsDifference) {
			d.Alarms = []*pb.MetaAlarmMember{{MemberId: 1}, {MemberId: 1}}
		},
	} {
		known := c.Settings().Version
		l.change(auth.UserChangePassword, "user-7", "")
		l.spoil = spoil
		l.push(c)
		if want := []string{fmt.Sprint(known, " true"), fmt.Sprint(known, " false")}; !slices.Equal(l.asked, want) {
			t.Errorf("%s: asked %v, want %v", what, l.asked, want)
		}
		l.spoil = func(*pb.SettingsDifference) {}
		l.change(auth.UserChangePassword, "user-8", "")
		if l.push(c); len(l.asked) != 1 {
			t.Errorf("after one %s: asked %v", what, l.asked)
		}
	}
	whole, differences := c.SettingsTaken()
	if whole != 6 || differences != 5 {
		t.Errorf("%d answers of all, %d differences", whole, differences)
	}
	l.older = true
	l.change(auth.UserChangePassword, "user-8", "")
	if l.push(c); len(l.asked) != 1 {
		t.Errorf("of an older build: asked %v", l.asked)
	}
	raw, err := l.s.Image().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if l.s, err = state.Restore(raw); err != nil { // it has forgotten what led there
		t.Fatal(err)
	}
	l.older = false
	l.change(auth.UserChangePassword, "user-8", "")
	l.change(auth.UserChangePassword, "user-9", "")
	if l.push(c); len(l.asked) != 1 {
		t.Errorf("of a leader that has restored a snapshot: asked %v", l.asked)
	}
	if w, _ := c.SettingsTaken(); w != whole+1 {
		t.Errorf("%d answers of all, %d before", w, whole)
	}
}

// TestSettingsOfTwoAnswers: answers to two questions may come in any order, and a difference may be one to a version before that by which the node goes now.
func TestSettingsOfTwoAnswers(t *testing.T) {
	var g got
	c, f := newClientEnv(t, follows, func(cfg *Config) {
		cfg.SettingsChanged = func(s *placement.Settings) { g.add("settings %d", s.Version) }
	})
	l := newLeader(t, f, 10)
	l.push(c)
	g.take()
	f.auto = nil
	first := l.s.Settings().Version
	c.Follow()
	c.Pushed(&pb.SettingsPush{Version: first + 1}, func(*pb.SettingsPush, error) {})
	follow, fetch := f.pop(t), f.pop(t)
	l.change(auth.UserChangePassword, "user-7", "")
	one, _ := l.answer(fetch)
	l.change(auth.UserDelete, "user-7", "")
	two, _ := l.answer(follow)
	fetch.cb(one, nil)
	follow.cb(two, nil)
	if out := g.take(); !slices.Equal(out, []string{fmt.Sprint("settings ", first+1), fmt.Sprint("settings ", first+2)}) || !proto.Equal(c.Settings().ToPB(), l.s.Settings().ToPB()) {
		t.Errorf("told %v, and goes by %v", out, c.Settings().ToPB())
	}
	f.fire(0)
	late := f.pop(t)
	if r := late.req.Settings; r.KnownVersion != first+2 || r.Follower != 9 || !r.Differences {
		t.Fatalf("asked %v", r)
	}
	late.cb(one, nil) // of before, which was slow
	if out := g.take(); out != nil {
		t.Errorf("told %v", out)
	}
}

// TestFollowByDifferences: who waits for newer settings, and is told of a difference that does not fit, asks for all at once, and once only.
func TestFollowByDifferences(t *testing.T) {
	c, f := newClientEnv(t, follows)
	l := newLeader(t, f, 10)
	l.push(c)
	f.auto = nil
	c.Follow()
	ask := func(differences bool) *fakeCall {
		t.Helper()
		call := f.pop(t)
		if r := call.req.Settings; r.Differences != differences || r.Follower != 9 || r.KnownVersion != c.Settings().Version {
			t.Fatalf("asked %v", r)
		}
		return call
	}
	pause := func(want time.Duration) {
		t.Helper()
		if last := f.pauses[len(f.pauses)-1]; last != want {
			t.Errorf("a pause of %v, not %v", last, want)
		}
		f.fire(0)
	}
	l.spoil = func(d *pb.SettingsDifference) { d.Auth.Sum++ }
	l.change(auth.UserChangePassword, "user-7", "")
	call := ask(true)
	resp, _ := l.answer(call)
	call.cb(resp, nil)
	pause(0)
	call = ask(false)
	call.cb(resp, nil) // whoever answers does not know better
	pause(followPause)
	call = ask(false)
	resp, _ = l.answer(&fakeCall{req: &pb.PeerRequest{Settings: &pb.SettingsRequest{KnownVersion: c.Settings().Version}}})
	call.cb(resp, nil)
	pause(0)
	ask(true)
	if !proto.Equal(c.Settings().ToPB(), l.s.Settings().ToPB()) {
		t.Error("goes by other settings than there are")
	}
}
