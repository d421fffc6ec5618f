package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/auth"
	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/placement"
)

// settled is a state of which the settings have versions.
func settled() *State {
	s := New()
	s.version = clusterversion.Newest
	return s
}

func applyNext(s *State, e *pb.MetaEntry) Result {
	index, _ := s.Position()
	e.Term = 1
	return s.Apply(index+1, 1, e)
}

// told is what somebody goes by who has asked for what is new since now, and which kind of answer he got.
func told(t *testing.T, s *State, now *placement.Settings, differences bool) (*placement.Settings, string) {
	t.Helper()
	news := s.News(now.Version, differences)
	raw, err := news.Response().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	resp := &pb.PeerResponse{}
	if err := resp.UnmarshalVT(raw); err != nil {
		t.Fatal(err)
	}
	kind := "nothing"
	next := now
	switch {
	case resp.SettingsDifference != nil:
		kind = "difference"
		next, err = now.Update(resp.SettingsDifference)
	case resp.Settings != nil:
		kind = "whole"
		next, err = placement.SettingsFromPB(resp.Settings)
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return next, kind
}

func randomSettings(r *rand.Rand) *pb.MetaEntry {
	if r.IntN(5) == 0 {
		return &pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: 1 + uint64(r.IntN(3)), Alarm: 1 + int32(r.IntN(2)), Activate: r.IntN(2) == 0}}
	}
	user, role := fmt.Sprintf("u%d", r.IntN(30)), fmt.Sprintf("r%d", r.IntN(20))
	if r.IntN(5) == 0 {
		user, role = auth.Root, auth.Root
	}
	return &pb.MetaEntry{Auth: &pb.MetaAuth{Change: 1 + uint32(r.IntN(int(auth.RoleRevokePermission))), Actor: auth.Root, User: user, Role: role,
		Hash: []byte{byte(r.IntN(256))}, TokenKey: []byte("key"), Permission: &pb.AuthPermission{Key: []byte{'a' + byte(r.IntN(3))}}}}
}

// TestNewsOfSettings: whatever settings somebody goes by, the answer takes him to those of the state, also where a replica tells it that has restored a snapshot.
func TestNewsOfSettings(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 69))
		s := settled()
		followers := []*placement.Settings{{}}
		kinds := map[string]int{}
		for range 400 {
			applyNext(s, randomSettings(r)) // some are refused, and some change nothing
			if r.IntN(100) == 0 {
				raw, err := s.Image().Marshal()
				if err != nil {
					t.Fatal(err)
				}
				if s, err = Restore(raw); err != nil {
					t.Fatal(err)
				}
			}
			f := &followers[r.IntN(len(followers))]
			if r.IntN(10) == 0 {
				followers = append(followers, *f)
			}
			now, kind := told(t, s, *f, r.IntN(20) > 0)
			kinds[kind]++
			if !proto.Equal(now.ToPB(), s.Settings().ToPB()) || now.Version != s.Settings().Version || now.Auth.Sum() != s.Settings().Auth.Sum() {
				t.Fatalf("seed %d: from version %d by a %s:\n%v\ninstead of\n%v", seed, (*f).Version, kind, now.ToPB(), s.Settings().ToPB())
			}
			*f = now
		}
		if kinds["difference"] < 50 || kinds["whole"] < 5 || kinds["nothing"] < 5 || s.Settings().Version < 100 {
			t.Fatalf("seed %d: told %v up to version %d", seed, kinds, s.Settings().Version)
		}
	}
}

// addUsers makes so many.
func addUsers(t testing.TB, s *State, prefix string, n int) {
	t.Helper()
	for i := range n {
		if res := applyNext(s, &pb.MetaEntry{Auth: &pb.MetaAuth{Change: uint32(auth.UserAdd), User: fmt.Sprint(prefix, i), NoPassword: true}}); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
}

// TestWhoIsToldAllOfTheSettings: who does not take differences, who goes by none, whose version nobody knows any more, who is ahead, and who would not be told less.
func TestWhoIsToldAllOfTheSettings(t *testing.T) {
	s := settled()
	addUsers(t, s, "user-", 20)
	now := s.Settings().Version
	addUsers(t, s, "another-", 5)
	ask := func(known uint64, differences bool) string {
		news := s.News(known, differences)
		resp := news.Response()
		users := len(resp.Settings.GetAuth().GetUsers()) + len(resp.SettingsDifference.GetAuth().GetNow().GetUsers())
		if users > news.Size() || resp.Empty != nil && news.Size() != 0 {
			t.Errorf("an answer of %d was to have %d", users, news.Size())
		}
		switch {
		case resp.Settings != nil:
			return "all"
		case resp.SettingsDifference != nil && resp.SettingsDifference.Base == known:
			return fmt.Sprint(users)
		case resp.Empty != nil:
			return "nothing"
		}
		return resp.String()
	}
	for _, c := range []struct {
		known       uint64
		differences bool
		want        string
	}{
		{now, true, "5"}, {now + 3, true, "2"}, {now + 5, true, "nothing"}, {now + 5, false, "nothing"},
		{now, false, "all"}, {0, true, "all"}, {now + 6, true, "all"}, {placement.FirstSettings, true, "all"},
	} {
		if got := ask(c.known, c.differences); got != c.want {
			t.Errorf("who goes by version %d, of which %d is known here, and takes differences: %v: is told %s, not %s", c.known, now+5, c.differences, got, c.want)
		}
	}
	applyNext(s, &pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: 1, Alarm: placement.AlarmNoSpace, Activate: true}})
	if got := ask(now+5, true); got != "0" {
		t.Errorf("of an alarm is told %s", got)
	}
	addUsers(t, s, "many-", touchedMax)
	if got := ask(now+6, true); got != fmt.Sprint(touchedMax) {
		t.Errorf("of as many changes as are kept is told %s", got)
	}
	if got := ask(now+5, true); got != "all" {
		t.Errorf("of more changes than are kept is told %s", got)
	}
}

// TestTouchedIsBounded in what the names of what was changed take, too; a change of more than may be kept is told as all there is.
func TestTouchedIsBounded(t *testing.T) {
	s := settled()
	long := string(make([]byte, touchedBytesMax/10))
	for i := range 30 {
		addUsers(t, s, fmt.Sprint(i, long), 1)
		if s.touched.weight > touchedBytesMax || len(s.touched.items) == 0 {
			t.Fatalf("%d changes that weigh %d", len(s.touched.items), s.touched.weight)
		}
	}
	if n := len(s.touched.items); n < 5 || n > 10 {
		t.Errorf("%d changes are kept", n)
	}
	addUsers(t, s, string(make([]byte, touchedBytesMax)), 1)
	news := s.News(s.Settings().Version-1, true)
	if resp := news.Response(); len(s.touched.items) != 0 || resp.Settings == nil {
		t.Errorf("of a change of more than may be kept, %d are kept", len(s.touched.items))
	}
}
