package state

import (
	"fmt"

	"pontoon/internal/auth"
	"pontoon/internal/clusterversion"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// settings is the part of the state that is looked at with every request. It is replaced, never written.
type settings struct {
	now     *placement.Settings
	touched recent[touched] // what has led to it
}

// What is kept of changes, so that who goes by older settings is told the difference. Beyond either bound the oldest go, and who is further behind gets all.
const (
	touchedMax      = 1000
	touchedBytesMax = 1 << 20
)

// touched is what one version of the settings has otherwise than the one before, but for alarms, of which there are few.
type touched struct{ auth.Touched }

// weight is about what it takes in memory.
func (t touched) weight() int {
	n := 48
	for _, names := range [2][]string{t.Users, t.Roles} {
		for _, name := range names {
			n += 16 + len(name)
		}
	}
	return n
}

// News is what somebody is told of the settings, as they were at one moment. It is immutable: taking it costs nothing, and rendering it needs no lock.
type News struct {
	now   *placement.Settings
	known uint64
	since []touched // to it
	whole bool      // all is told
}

// News returns it for an asker who goes by the settings of a version, 0: by none. With differences he takes what has changed since.
func (c *settings) News(known uint64, differences bool) News {
	n := News{now: c.now, known: known}
	since, ok := c.touched.since(known, c.now.Version)
	n.since, n.whole = since, !differences || !ok
	return n
}

// Size bounds the number of users and roles that Response looks at.
func (n *News) Size() int {
	switch {
	case n.known == n.now.Version:
		return 0
	case n.whole:
		return n.now.Auth.Len()
	}
	size := 0
	for _, t := range n.since {
		size += len(t.Users) + len(t.Roles)
	}
	return size
}

// Response renders the answer: that nothing is new, all there is, or the difference if that is known and less.
func (n *News) Response() *pb.PeerResponse {
	if n.known == n.now.Version {
		return &pb.PeerResponse{Empty: &pb.Empty{}}
	}
	if !n.whole {
		var all auth.Touched
		for _, t := range n.since {
			all.Users, all.Roles = append(all.Users, t.Users...), append(all.Roles, t.Roles...)
		}
		if d := n.now.Difference(n.known, all); len(d.Auth.Now.Users)+len(d.Auth.Now.Roles) < n.now.Auth.Len() {
			return &pb.PeerResponse{SettingsDifference: d}
		}
	}
	return &pb.PeerResponse{Settings: n.now.ToPB()}
}

// Settings returns the present settings, which are immutable.
func (c *settings) Settings() *placement.Settings { return c.now }

// change puts next in the place of the present settings, under the version behind theirs. Nobody else changes settings. Under formats
// of a release that has no versions of settings all stay in the first: what that release would write as its state has none.
func (c *settings) change(formats clusterversion.Version, next placement.Settings, what auth.Touched) {
	next.Version = c.now.Version
	if formats.Active(clusterversion.Settings) {
		next.Version++
		c.touched.add(touched{what}, touchedMax, touchedBytesMax)
	}
	c.now = &next
}

// forbids says why an alarm forbids what a client wants of the meta group; grows: it makes its state larger. What the cluster does by itself is
// never forbidden. Nodes of a release before alarms had an effect would apply the same entry otherwise.
func (c *settings) forbids(formats clusterversion.Version, grows bool) error {
	switch {
	case len(c.now.Alarms) == 0, !formats.Active(clusterversion.Settings):
		return nil
	case c.now.Raised(placement.AlarmCorrupt):
		return shard.ErrClusterCorrupt
	case grows && c.now.Raised(placement.AlarmNoSpace):
		return shard.ErrNoSpace
	}
	return nil
}

// applyAlarm raises an alarm or clears it.
func (c *settings) applyAlarm(formats clusterversion.Version, a *pb.MetaAlarm) error {
	next := *c.now
	if a.Activate && len(next.Alarms) >= placement.AlarmsMax {
		return shard.ErrTooManyRequests
	}
	var changed bool
	if next.Alarms, changed = next.WithAlarm(placement.Alarm{Member: shard.NodeID(a.MemberId), Kind: a.Alarm}, a.Activate); changed {
		c.change(formats, next, auth.Touched{})
	}
	return nil
}

// restoreUsers takes the users with which a cluster begins that is made of a snapshot. They have a version of their own: some may have heard of the first
// settings already, in which there is nobody. There is no member that knows no versions.
func (c *settings) restoreUsers(users *pb.AuthState) error {
	if users == nil {
		return nil
	}
	s, err := auth.Restore(users)
	if err != nil {
		return err
	}
	next := *c.now
	next.Auth = auth.NewView(s)
	next.Version++
	c.now, c.touched = &next, recent[touched]{}
	return nil
}

// applyAuth makes a change of users and roles.
func (c *settings) applyAuth(formats clusterversion.Version, e *pb.MetaAuth) error {
	next := *c.now
	users, err := next.Auth.Apply(e)
	if err != nil || users == next.Auth.State {
		return err
	}
	next.Auth = auth.NewView(users)
	c.change(formats, next, users.Touched())
	return nil
}

// forgetAlarms clears those of a member that is no more.
func (c *settings) forgetAlarms(formats clusterversion.Version, id shard.NodeID) {
	next := *c.now
	var changed bool
	if next.Alarms, changed = next.WithoutMember(id); changed {
		c.change(formats, next, auth.Touched{})
	}
}

// restore reads them.
func (c *settings) restore(m *pb.MetaState) (err error) {
	c.touched = recent[touched]{}
	if c.now, err = placement.SettingsFromPB(&pb.SettingsState{Version: m.SettingsVersion, Alarms: m.Alarms, Auth: m.Auth}); err != nil {
		return fmt.Errorf("meta state: %w", err)
	}
	return nil
}
