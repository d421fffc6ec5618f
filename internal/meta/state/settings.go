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
type settings struct{ now *placement.Settings }

// Settings returns the present settings, which are immutable.
func (c *settings) Settings() *placement.Settings { return c.now }

// change puts next in the place of the present settings, under the version behind theirs. Nobody else changes settings. Under formats
// of a release that has no versions of settings all stay in the first: what that release would write as its state has none.
func (c *settings) change(formats clusterversion.Version, next placement.Settings) {
	next.Version = c.now.Version
	if formats.Active(clusterversion.Settings) {
		next.Version++
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
		c.change(formats, next)
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
	c.now = &next
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
	c.change(formats, next)
	return nil
}

// forgetAlarms clears those of a member that is no more.
func (c *settings) forgetAlarms(formats clusterversion.Version, id shard.NodeID) {
	next := *c.now
	var changed bool
	if next.Alarms, changed = next.WithoutMember(id); changed {
		c.change(formats, next)
	}
}

// image is the settings as a snapshot has them.
func (c *settings) image(m *pb.MetaState) {
	p := c.now.ToPB()
	m.SettingsVersion, m.Alarms, m.Auth = p.Version, p.Alarms, p.Auth
}

// restore reads them.
func (c *settings) restore(m *pb.MetaState) (err error) {
	if c.now, err = placement.SettingsFromPB(&pb.SettingsState{Version: m.SettingsVersion, Alarms: m.Alarms, Auth: m.Auth}); err != nil {
		return fmt.Errorf("meta state: %w", err)
	}
	return nil
}
