package placement

import (
	"cmp"
	"fmt"
	"slices"

	"pontoon/internal/auth"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// The kinds of alarms, with etcd's numbers.
const (
	AlarmNone    int32 = 0 // stands for all kinds in a request
	AlarmNoSpace int32 = 1 // a member has filled what it may: nothing that makes the store larger is taken in
	AlarmCorrupt int32 = 2 // a member's data is wrong: nothing is changed
)

// Alarm is a raised alarm of a member.
type Alarm struct {
	Member shard.NodeID
	Kind   int32
}

// AlarmsMax bounds the alarms that are raised: more than a cluster with as many members as there may be has.
const AlarmsMax = 4096

// FirstSettings is the version of the settings that a cluster begins with. 0 stands for settings that nobody has told yet.
const FirstSettings uint64 = 1

// Settings are what the cluster has agreed on about requests: it changes rarely, and is looked at with each of them. A value is
// immutable, whole, and the same on every node that has its version.
type Settings struct {
	// Version rises by one with every change. 0: nothing is known yet, and nothing may be judged by it.
	Version uint64
	// Alarms are those that are raised, by member, then kind.
	Alarms []Alarm
	// Auth is users and roles; nil where nothing is known.
	Auth *auth.View
}

// NewSettings returns those that a cluster begins with.
func NewSettings() *Settings {
	return &Settings{Version: FirstSettings, Auth: auth.NewView(auth.New())}
}

// SettingsFromPB reads settings, and compiles of them what requests are checked with. Version 0 is the first. Errors are shard.ErrCorrupt.
func SettingsFromPB(m *pb.SettingsState) (*Settings, error) {
	alarms, err := alarmsOf(m.GetAlarms())
	if err != nil {
		return nil, err
	}
	users, err := auth.Restore(m.GetAuth())
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	return &Settings{Version: max(m.GetVersion(), FirstSettings), Alarms: alarms, Auth: auth.NewView(users)}, nil
}

// alarmsOf reads alarms, in order.
func alarmsOf(list []*pb.MetaAlarmMember) (out []Alarm, err error) {
	for _, a := range list {
		out = append(out, Alarm{Member: shard.NodeID(a.MemberId), Kind: a.Alarm})
	}
	slices.SortFunc(out, compareAlarms)
	if len(slices.Compact(slices.Clone(out))) != len(out) {
		return nil, fmt.Errorf("%w: settings: an alarm stands twice", shard.ErrCorrupt)
	}
	return out, nil
}

// Difference renders what they have otherwise than those of a version before, of which changes have touched these names since.
func (s *Settings) Difference(base uint64, touched auth.Touched) *pb.SettingsDifference {
	return &pb.SettingsDifference{Base: base, Version: s.Version, Alarms: s.alarmsToPB(), Auth: s.Auth.Difference(touched)}
}

// Update returns the settings that a difference leads to from s. Nothing of it is seen before. It refuses, with shard.ErrCorrupt, what is not a difference to
// s: then whoever goes by s needs all of the settings.
func (s *Settings) Update(d *pb.SettingsDifference) (*Settings, error) {
	if s.Auth == nil || s.Version < d.Base || s.Version >= d.Version {
		return nil, fmt.Errorf("%w: settings: a difference of version %d to %d, for who has %d", shard.ErrCorrupt, d.Version, d.Base, s.Version)
	}
	alarms, err := alarmsOf(d.Alarms)
	if err != nil {
		return nil, err
	}
	if mutate.On(mutate.AlarmsStay) {
		alarms = s.Alarms
	}
	users, err := s.Auth.Update(d.Auth)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	return &Settings{Version: d.Version, Alarms: alarms, Auth: auth.NewView(users)}, nil
}

// ToPB renders them: the same bytes wherever the settings are the same.
func (s *Settings) ToPB() *pb.SettingsState {
	return &pb.SettingsState{Version: s.Version, Alarms: s.alarmsToPB(), Auth: s.authToPB()}
}

// authToPB is absent as long as nothing was ever changed: so it was before there were users.
func (s *Settings) authToPB() *pb.AuthState {
	if s.Auth == nil || s.Auth.Serial() == 0 {
		return nil
	}
	return s.Auth.Image()
}

func (s *Settings) alarmsToPB() (out []*pb.MetaAlarmMember) {
	for _, a := range s.Alarms {
		out = append(out, &pb.MetaAlarmMember{MemberId: uint64(a.Member), Alarm: a.Kind})
	}
	return out
}

// WithAlarm returns the alarms with one raised or cleared; changed is false where it was so before. The old ones are not written.
func (s *Settings) WithAlarm(a Alarm, raise bool) (alarms []Alarm, changed bool) {
	i, found := slices.BinarySearchFunc(s.Alarms, a, compareAlarms)
	switch {
	case raise && !found:
		return slices.Insert(slices.Clone(s.Alarms), i, a), true
	case !raise && found:
		return slices.Delete(slices.Clone(s.Alarms), i, i+1), true
	}
	return s.Alarms, false
}

// WithoutMember returns the alarms without those of a member.
func (s *Settings) WithoutMember(id shard.NodeID) (alarms []Alarm, changed bool) {
	kept := slices.DeleteFunc(slices.Clone(s.Alarms), func(a Alarm) bool { return a.Member == id })
	return kept, len(kept) != len(s.Alarms)
}

// Raised reports whether an alarm of a kind is raised for any member.
func (s *Settings) Raised(kind int32) bool {
	for _, a := range s.Alarms { // none, or very few
		if a.Kind == kind {
			return true
		}
	}
	return false
}

// Lends reports whether something that takes no revision is judged by the settings: then they are lent to nodes, and whoever has been lent
// them confirms a change before it is acknowledged.
func (s *Settings) Lends() bool { return s.Auth != nil && s.Auth.Enabled() }

// Allows says why a request of somebody is refused, nil if it is not: an error of package auth for what may not be done,
// shard.ErrNoSpace and shard.ErrClusterCorrupt under an alarm, shard.ErrUnavailable where no settings are known. It is the one check, at the gateway, at the door for routing clients, and again on a range's
// leader where the settings have changed on the way.
func (s *Settings) Allows(who shard.Who, op *pb.Op) error {
	if s.Version == 0 {
		return shard.ErrUnavailable
	}
	if s.Auth != nil {
		if err := s.Auth.May(who, op); err != nil {
			return err
		}
	}
	switch {
	case len(s.Alarms) == 0, !Writes(op):
		return nil
	case s.Raised(AlarmCorrupt):
		return shard.ErrClusterCorrupt
	case s.Raised(AlarmNoSpace) && Grows(op):
		return shard.ErrNoSpace
	}
	return nil
}

// Refuses reports whether what was checked under a version may have no revision now: the settings have changed, or an alarm forbids it. It is
// asked for every batch, so it compares two numbers and, while no alarm is raised, nothing else.
func (s *Settings) Refuses(version uint64, grows bool) bool {
	return version < s.Version || len(s.Alarms) > 0 && (s.Raised(AlarmCorrupt) || grows && s.Raised(AlarmNoSpace))
}

// Grows reports whether an op may make the store larger: it puts something, at any depth, in whichever branch.
func Grows(op *pb.Op) bool { return has(op, func(o *pb.Op) bool { return o.Put != nil }) }

// Writes reports whether an op may change something.
func Writes(op *pb.Op) bool {
	return has(op, func(o *pb.Op) bool { return o.Put != nil || o.Delete != nil })
}

func has(op *pb.Op, what func(*pb.Op) bool) bool {
	if op.GetTxn() == nil {
		return op != nil && what(op)
	}
	for _, branch := range [2][]*pb.Op{op.Txn.Success, op.Txn.Failure} {
		for _, o := range branch {
			if has(o, what) {
				return true
			}
		}
	}
	return false
}

func compareAlarms(a, b Alarm) int {
	return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Kind, b.Kind))
}
