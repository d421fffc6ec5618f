package meta

import (
	"context"
	"fmt"
	"time"

	"pontoon/internal/meta/state"
	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// learners sees that learners among the members hold replicas of the meta group that learn, and asks about them before a promotion. Its state is
// under the lock.
type learners struct {
	m      *Meta
	moving bool      // a move is on its way into the log
	after  time.Time // when the next may be begun
}

// learnersPause is the least time between two moves that are begun, which may end at once.
const learnersPause = time.Second

// tick begins the move that is due. Called with the lock held, on a leader.
func (l *learners) tick(now time.Time) {
	if l.moving || now.Before(l.after) {
		return
	}
	move := state.LearnerMove(l.m.state)
	if move == nil {
		return
	}
	l.after = now.Add(learnersPause)
	e, err := state.PlanMove(l.m.state, move, l.m.cfg.Wall().UnixMilli())
	if err != nil { // an op too many is under way, or the like
		l.m.mu.later(func() { l.m.cfg.Logger.Debug("the meta group does not follow the learners yet", "error", err) })
		return
	}
	l.moving = true
	l.m.log.propose(e, func(state.Result) { l.moving = false })
}

// promote has a learner promoted whose replica is in sync.
func (l *learners) promote(c *call, e *pb.MetaEntry) {
	term, group := l.m.lead.ownTerm, l.m.state.Meta()
	l.m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.m.ctx, l.m.cfg.ElectionTimeout)
		err := l.ready(ctx, term, &group, shard.NodeID(e.PromoteMember.Id))
		cancel()
		l.m.mu.Lock()
		defer l.m.mu.unlock()
		if err != nil {
			c.fail(err)
			return
		}
		c.proposeMember(e)
	})
}

// readyPoll is the pause before a learner is looked at again that is not in sync: one that has just started is soon.
const readyPoll = 50 * time.Millisecond

// ready refuses a learner whose replica of the meta group has not come, or lacks what the group has logged until ctx ends, as this replica sees it,
// which leads term.
func (l *learners) ready(ctx context.Context, term uint64, group *shard.Descriptor, member shard.NodeID) error {
	r, there := group.ReplicaOn(member)
	switch {
	case mutate.On(mutate.PromoteUnsynced):
		return nil
	case !there:
		return fmt.Errorf("%w: %v has no replica of the meta group yet", shard.ErrLearnerNotReady, member)
	}
	vote := moves.Next{In: r.ID, After: *group}
	for {
		why := raftgroup.LearnerLacks(ctx, l.m.cfg.Host, shard.MetaID, term, &vote)
		if why == "" {
			return nil
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", shard.ErrLearnerNotReady, why)
		}
	}
}
