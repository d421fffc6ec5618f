package meta

import (
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/placement"
	"pontoon/shard"
)

// followHold is how long a follower waits at most for an answer: less than the patience of a call.
const followHold = 3 * time.Second

// settingsFollowers are processes that no member calls, as gateways are. Each waits in a call that says by which settings it goes, until there are newer
// ones; what it says is a confirmation, as a member's answer to a push is. Its events are calls, changes of the settings, ticks and the leadership.
// Methods are called with the lock held.
type settingsFollowers struct {
	held map[shard.NodeID]heldFollower // at most placement.LoansMax
}

type heldFollower struct {
	c     *call
	req   *pb.SettingsRequest
	until time.Time
}

// serve takes what a follower says, and answers it at once or later. Errors: shard.ErrTooManyRequests where too many wait.
func (f *settingsFollowers) serve(c *call, req *pb.SettingsRequest) {
	node, changes := shard.NodeID(req.Follower), &c.m.revisions.settings
	changes.loans.Confirm(node, req.KnownVersion)
	changes.settle()
	if req.KnownVersion != c.m.state.Settings().Version {
		f.answer(c, req)
		return
	}
	former, waits := f.held[node]
	switch {
	case waits:
		former.c.reply(&pb.PeerResponse{Empty: &pb.Empty{}}, nil) // it has given that one up
	case len(f.held) >= placement.LoansMax:
		c.fail(shard.ErrTooManyRequests)
		return
	case f.held == nil:
		f.held = make(map[shard.NodeID]heldFollower)
	}
	f.held[node] = heldFollower{c, req, c.m.cfg.Now().Add(followHold)}
}

// answer tells a follower the settings.
func (f *settingsFollowers) answer(c *call, req *pb.SettingsRequest) {
	if mutate.On(mutate.FollowerAnswered) {
		c.m.revisions.settings.loans.Confirm(shard.NodeID(req.Follower), c.m.state.Settings().Version)
	}
	tellSettings(c, req)
}

// changed tells all who wait.
func (f *settingsFollowers) changed() {
	for _, h := range f.held {
		f.answer(h.c, h.req)
	}
	f.held = nil
}

// tick answers those who have waited for long: they ask again.
func (f *settingsFollowers) tick(now time.Time) {
	for node, h := range f.held {
		if !now.Before(h.until) {
			delete(f.held, node)
			h.c.reply(&pb.PeerResponse{Empty: &pb.Empty{}}, nil)
		}
	}
}

// stepDown sends all who wait to the next leader.
func (f *settingsFollowers) stepDown() {
	for _, h := range f.held {
		h.c.fail(shard.ErrUnavailable)
	}
	f.held = nil
}
