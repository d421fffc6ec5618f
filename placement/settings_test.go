package placement

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"pontoon/internal/auth"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// opsOf are requests by what they do.
func opsOf() map[string]*pb.Op {
	put := &pb.Op{Put: &pb.PutOp{Key: []byte("k")}}
	del := &pb.Op{Delete: &pb.DeleteOp{Key: []byte("k")}}
	get := &pb.Op{Range: &pb.RangeOp{Key: []byte("k")}}
	return map[string]*pb.Op{
		"put": put, "delete": del, "get": get,
		"txn that may put":    {Txn: &pb.TxnOp{Success: []*pb.Op{get}, Failure: []*pb.Op{{Txn: &pb.TxnOp{Failure: []*pb.Op{put}}}}}},
		"txn that may delete": {Txn: &pb.TxnOp{Success: []*pb.Op{get, del}}},
		"txn that reads":      {Txn: &pb.TxnOp{Success: []*pb.Op{get}, Failure: []*pb.Op{get}}},
	}
}

// TestAlarmsForbid: what an alarm refuses, and what goes on under it.
func TestAlarmsForbid(t *testing.T) {
	for _, tt := range []struct {
		settings Settings
		refused  map[string]error
	}{
		{Settings{Version: 1}, nil},
		{Settings{Version: 2, Alarms: []Alarm{{1, AlarmNoSpace}}}, map[string]error{"put": shard.ErrNoSpace, "txn that may put": shard.ErrNoSpace}},
		{Settings{Version: 2, Alarms: []Alarm{{1, AlarmNoSpace}, {2, AlarmCorrupt}}}, map[string]error{"put": shard.ErrClusterCorrupt, "delete": shard.ErrClusterCorrupt,
			"txn that may put": shard.ErrClusterCorrupt, "txn that may delete": shard.ErrClusterCorrupt}},
	} {
		for what, op := range opsOf() {
			if err := tt.settings.Allows(shard.Who{}, op); !errors.Is(err, tt.refused[what]) {
				t.Errorf("%s under %v: %v", what, tt.settings.Alarms, err)
			}
			// The oracle, which knows of a batch only whether it grows, lets nothing through that the check refuses.
			if refused := tt.settings.Refuses(tt.settings.Version, Grows(op)); tt.refused[what] != nil && !refused {
				t.Errorf("%s under %v gets a revision", what, tt.settings.Alarms)
			}
			if !tt.settings.Refuses(tt.settings.Version-1, Grows(op)) {
				t.Errorf("%s that was checked under older settings gets a revision", what)
			}
		}
	}
	if err := (&Settings{}).Allows(shard.Who{}, opsOf()["get"]); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("before anything is known: %v", err)
	}
}

// TestSettingsOnTheWire: what is read is what was written, and what no settings can be is refused.
func TestSettingsOnTheWire(t *testing.T) {
	s := &Settings{Version: FirstSettings}
	for _, a := range []Alarm{{2, AlarmNoSpace}, {1, AlarmCorrupt}, {1, AlarmNoSpace}} {
		next := *s
		var changed bool
		next.Alarms, changed = s.WithAlarm(a, true)
		if _, again := next.WithAlarm(a, true); !changed || again {
			t.Errorf("%v: changed %v, and again %v", a, changed, again)
		}
		next.Version++
		s = &next
	}
	got, err := SettingsFromPB(s.ToPB())
	if err != nil || !proto.Equal(got.ToPB(), s.ToPB()) || got.Version != 4 || len(got.Alarms) != 3 {
		t.Errorf("%+v became %+v, %v", s, got, err)
	}
	if kept, changed := s.WithoutMember(1); !changed || len(kept) != 1 || len(s.Alarms) != 3 {
		t.Errorf("without member 1: %v of %v", kept, s.Alarms)
	}
	twice := s.ToPB()
	twice.Alarms = append(twice.Alarms, twice.Alarms[0])
	if _, err := SettingsFromPB(twice); !errors.Is(err, shard.ErrCorrupt) {
		t.Errorf("an alarm that stands twice: %v", err)
	}
	if got, err := SettingsFromPB(nil); err != nil || got.Version != FirstSettings {
		t.Errorf("of a release without settings: %+v, %v", got, err)
	}
}

// FuzzSettings: whatever is read is refused, or comes back the same.
func FuzzSettings(f *testing.F) {
	b, err := (&Settings{Version: 7, Alarms: []Alarm{{1, 1}, {2, 2}}}).ToPB().MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pb.SettingsState{}
		if m.UnmarshalVT(b) != nil {
			return
		}
		s, err := SettingsFromPB(m)
		if err != nil {
			return
		}
		again, err := SettingsFromPB(s.ToPB())
		if err != nil || !proto.Equal(again.ToPB(), s.ToPB()) {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
	})
}

// FuzzSettingsDifference: whatever is read is refused, or leads to settings that come back the same; those of before are as they were.
func FuzzSettingsDifference(f *testing.F) {
	s := &Settings{Version: 7, Alarms: []Alarm{{1, 1}, {2, 2}}, Auth: NewSettings().Auth}
	users, err := s.Auth.Apply(&pb.MetaAuth{Change: uint32(auth.UserAdd), User: "alice"})
	if err != nil {
		f.Fatal(err)
	}
	next := &Settings{Version: 9, Alarms: []Alarm{{1, 1}}, Auth: auth.NewView(users)}
	for _, d := range []*pb.SettingsDifference{next.Difference(7, users.Touched()), next.Difference(8, users.Touched()), s.Difference(6, auth.Touched{})} {
		b, err := d.MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	before := s.ToPB()
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &pb.SettingsDifference{}
		if d.UnmarshalVT(b) != nil {
			return
		}
		got, err := s.Update(d)
		if !proto.Equal(s.ToPB(), before) {
			t.Fatalf("%v became %v", before, s.ToPB())
		}
		if err != nil {
			if !errors.Is(err, shard.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := SettingsFromPB(got.ToPB())
		if err != nil || got.Version <= s.Version || d.Base > s.Version || again.Auth.Sum() != got.Auth.Sum() || len(again.Alarms) != len(got.Alarms) {
			t.Fatalf("%v became %+v, %v", d, again, err)
		}
	})
}

// TestSettingsUpdate: a difference leads to the settings of which it is from those that it names, and from later ones before them; from no others.
func TestSettingsUpdate(t *testing.T) {
	s := NewSettings()
	for i, name := range []string{"a", "b", "c"} {
		users, err := s.Auth.Apply(&pb.MetaAuth{Change: uint32(auth.UserAdd), User: name})
		if err != nil {
			t.Fatal(err)
		}
		s = &Settings{Version: s.Version + 1, Alarms: []Alarm{{shard.NodeID(i + 1), AlarmNoSpace}}, Auth: auth.NewView(users)}
	}
	whole := func(version uint64, names ...string) *Settings {
		now := &Settings{Version: version, Auth: NewSettings().Auth}
		for _, name := range names {
			users, err := now.Auth.Apply(&pb.MetaAuth{Change: uint32(auth.UserAdd), User: name})
			if err != nil {
				t.Fatal(err)
			}
			now.Auth = auth.NewView(users)
		}
		return now
	}
	d := s.Difference(2, auth.Touched{Users: []string{"b", "c", "b"}})
	for _, c := range []struct {
		from *Settings
		fits bool
	}{
		{whole(2, "a"), true}, {whole(3, "a", "b"), true},
		{whole(1), false}, {whole(1, "a"), false}, {whole(4, "a", "b", "c"), false}, {whole(5, "a", "b"), false}, {whole(3, "b"), false}, {&Settings{}, false},
	} {
		got, err := c.from.Update(d)
		switch {
		case c.fits && (err != nil || !proto.Equal(got.ToPB(), s.ToPB())):
			t.Errorf("from version %d: %v, %v", c.from.Version, got, err)
		case !c.fits && !errors.Is(err, shard.ErrCorrupt):
			t.Errorf("from version %d with users %v: %v", c.from.Version, c.from.Auth, err)
		}
	}
}
