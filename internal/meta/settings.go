package meta

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/meta/state"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// Pusher calls nodes, this one included. cb is called once, perhaps before it returns.
type Pusher interface {
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// settingsWaitersMax bounds the calls that wait until a change of the settings may be acknowledged.
const settingsWaitersMax = 1 << 12

// settingsChanges tells nodes of changes of the settings, and lets a change be acknowledged when nothing begins anywhere any more under what was
// before. Its events are the leadership, entries, answers of nodes and ticks.
type settingsChanges struct {
	m       *Meta
	loans   placement.Loans
	told    uint64 // the version that the last round of pushes has told of
	lends   bool   // those of that version are lent to members
	lending bool   // some were, when the leadership began or since: who goes by those is waited for
	waiting []settingsWaiter
	pushing map[shard.NodeID]bool // a push is under way

	followers settingsFollowers
}

// settingsWaiter is a change that is in the log, and is acknowledged when it is settled.
type settingsWaiter struct {
	version uint64
	done    func(error) // called with the lock held
}

// lead begins a leadership.
func (s *settingsChanges) lead(now time.Time) {
	settings := s.m.state.Settings()
	s.lends, s.told, s.pushing = settings.Lends(), settings.Version, make(map[shard.NodeID]bool)
	s.lending = s.lends
	s.loans.Lead(now, s.m.cfg.ElectionTimeout, s.m.cfg.Mode != ModeQuorum)
	if s.lends && !mutate.On(mutate.LendsUntold) { // a predecessor may have got no further than the log, and some go by what was before without a loan
		s.tell()
	}
}

// stepDown ends it: what is in the log and was not acknowledged is in force, or will be.
func (s *settingsChanges) stepDown() {
	waiting := s.waiting
	s.waiting, s.pushing = nil, nil
	s.loans.Follow()
	s.followers.stepDown()
	for _, w := range waiting {
		w.done(shard.ErrAmbiguous)
	}
}

// lend lends the settings to a node, 0: to nobody, whose question is answered now. It returns for how long, 0: they are not lent. A process that is no
// member hears of a change by its own questions alone, or waits for one (settingsFollowers), so that it goes by nothing that is not lent, whatever the settings are.
func (s *settingsChanges) lend(node shard.NodeID) time.Duration {
	if node == 0 {
		return 0
	}
	if !s.m.state.Settings().Lends() {
		if _, member := s.m.state.Member(node); member {
			return 0
		}
	}
	return s.loans.Lend(node, s.m.state.Settings().Version, s.m.cfg.Now())
}

// applied looks whether an entry has changed the settings, on a leader that serves.
func (s *settingsChanges) applied() {
	now := s.m.state.Settings()
	if now.Version == s.told {
		return
	}
	s.told = now.Version
	if now.Lends() && !s.lends { // whoever goes by older ones without a loan is to hear first
		s.lending = true
		s.loans.Everybody(s.nodes(), s.m.cfg.Now())
	}
	s.lends = now.Lends() || s.lends && mutate.On(mutate.LendsOnce)
	s.tell()
	s.followers.changed()
}

// tell tells all members of the newest settings, also those without a loan: they would hear with their next question only.
func (s *settingsChanges) tell() {
	for _, node := range s.nodes() {
		s.push(node)
	}
}

// nodes are the members that have started.
func (s *settingsChanges) nodes() (out []shard.NodeID) {
	for _, m := range s.m.state.Members() {
		if m.Name != "" {
			out = append(out, m.ID)
		}
	}
	return out
}

// push tells a node of the newest settings, unless it is being told already: then it is told again where it has not got them by that.
func (s *settingsChanges) push(node shard.NodeID) {
	if s.m.cfg.Push == nil || s.pushing == nil || s.pushing[node] {
		return
	}
	s.pushing[node] = true
	term, version := s.m.lead.ownTerm, s.m.state.Settings().Version
	req := &pb.PeerRequest{Epoch: term, SettingsPush: &pb.SettingsPush{Version: version}}
	s.m.mu.later(func() {
		ctx, cancel := context.WithTimeout(s.m.ctx, s.m.cfg.ElectionTimeout)
		s.m.cfg.Push.CallFunc(ctx, node, req, func(resp *pb.PeerResponse, err error) {
			cancel()
			s.m.mu.Lock()
			s.pushed(term, node, version, resp.GetSettingsPush(), err)
			s.m.mu.unlock()
		})
	})
}

// pushed takes a node's answer. A node that has not answered is told again with the next tick, as long as somebody waits for it.
func (s *settingsChanges) pushed(term uint64, node shard.NodeID, version uint64, confirmed *pb.SettingsPush, err error) {
	if s.pushing == nil || s.m.lead.ownTerm != term {
		return
	}
	delete(s.pushing, node)
	if err != nil || confirmed == nil {
		return
	}
	s.loans.Confirm(node, confirmed.Version)
	if confirmed.Version >= version && version < s.m.state.Settings().Version {
		s.push(node)
	}
	s.settle()
}

// await calls done, with the lock held, when the version may be acknowledged: nothing begins under an older one.
func (s *settingsChanges) await(version uint64, done func(error)) {
	if len(s.waiting) >= settingsWaitersMax {
		done(shard.ErrAmbiguous) // it is in force, or will be
		return
	}
	s.waiting = append(s.waiting, settingsWaiter{version, done})
	s.settle()
}

// settle acknowledges what may be.
func (s *settingsChanges) settle() {
	now := s.m.cfg.Now()
	kept := s.waiting[:0]
	var settled []settingsWaiter
	for _, w := range s.waiting {
		ok, _ := s.loans.Settled(w.version, now)
		if !s.lending || ok || mutate.On(mutate.SettledAtOnce) {
			settled = append(settled, w)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.waiting[len(kept):])
	s.waiting = kept
	for _, w := range settled {
		w.done(nil)
	}
}

// tick tells those again who are waited for.
func (s *settingsChanges) tick(now time.Time) {
	s.followers.tick(now)
	if len(s.waiting) == 0 {
		return
	}
	for _, node := range s.loans.Unconfirmed(s.m.state.Settings().Version, now) {
		s.push(node)
	}
	s.settle()
}

// serveSettings tells the settings, to a follower once there are newer ones.
func serveSettings(c *call, req *pb.SettingsRequest) {
	if req.Follower != 0 {
		c.m.revisions.settings.followers.serve(c, req)
		return
	}
	tellSettings(c, req)
}

// tellSettings answers a call with what is new in the settings.
func tellSettings(c *call, req *pb.SettingsRequest) {
	news := c.m.state.News(req.KnownVersion, req.Differences)
	render(c.m, news.Size(), func() { c.answer(news.Response()) })
}

// changeSettings logs a change of the settings, which build may refuse, and calls done, with the lock held, when it may be acknowledged.
func changeSettings(c *call, build func() (*pb.MetaEntry, error), done func(state.Result)) {
	c.write(build, func(r state.Result) {
		c.m.revisions.settings.await(c.m.state.Settings().Version, func(err error) {
			if err != nil {
				c.fail(err)
				return
			}
			done(r)
		})
	})
}

// serveAlarm lists alarms, or raises or clears one.
func serveAlarm(c *call, req *pb.AlarmRequest) {
	if req.Action == pb.AlarmList {
		c.read(c.status)
		return
	}
	changeSettings(c, func() (*pb.MetaEntry, error) {
		if req.Action != pb.AlarmRaise && req.Action != pb.AlarmClear {
			return nil, fmt.Errorf("%w: alarm action %d", shard.ErrInvalid, req.Action)
		}
		if !c.m.state.ClusterVersion().Active(clusterversion.Settings) {
			return nil, fmt.Errorf("%w: an alarm, as long as a member of the cluster does not speak version %d of the formats", shard.ErrUnimplemented, clusterversion.Settings.Since)
		}
		return &pb.MetaEntry{Alarm: &pb.MetaAlarm{MemberId: req.MemberId, Alarm: req.Alarm, Activate: req.Action == pb.AlarmRaise}}, nil
	}, func(state.Result) { c.status() })
}
