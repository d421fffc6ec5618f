package raftgroup

import (
	"go.etcd.io/raft/v3"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

const (
	// campaignEvery is how many ticks lie between two voters that campaign.
	campaignEvery = 3
	// campaignAfterStart is how many ticks a node that was started again gives leaders to be heard,
	// and the other nodes to be reached, before the delay of its voters is counted. One that is opened later
	// waits for one tick. A vote lease may end meanwhile.
	campaignAfterStart = 3
)

// campaign is when a voter campaigns although Raft does not make it do so yet: in the order of their ranks,
// so that voters do not split the votes. It belongs to the step worker.
type campaign struct {
	fresh bool // nothing was ever written or voted here
	born  bool // the state has just been made of another group's, and nobody has led yet
	delay int  // ticks until this voter campaigns without a leader; 0: as Raft decides
	wait  int  // ticks before these are counted
}

// start is for a voter that has just been started.
func (c *campaign) start(g *group) {
	conf := g.members.conf()
	voters := len(conf.voters.IDs())
	c.born = g.cfg.Born
	if voters == 1 || (c.fresh || c.born) && g.cfg.CampaignNow {
		_ = g.rn.Campaign() // refused only where it cannot be elected
	}
	if voters > 1 && !c.fresh && !c.born {
		c.wait = max(campaignAfterStart-int(g.h.clock.ticks.Load()), 1)
		c.delay = 1 + campaignEvery*conf.campaignRank(0) // nobody there is out of the count
	}
}

// leaderGone makes a follower campaign soon. The node that held the leader has been
// silent for an election timeout already, has lost the lead by starting anew, or runs no more: it
// is not waited for any longer.
func (c *campaign) leaderGone(g *group, node shard.NodeID) {
	conf := g.members.conf()
	if conf.nodeOf(g.role.Leader) != node {
		return
	}
	_ = g.rn.ForgetLeader() // never refused with safe reads
	c.wait, c.delay = 0, 1+campaignEvery*conf.campaignRank(node)
}

// tick counts down to this voter's turn, unless a leader is heard meanwhile. The vote lease is waited for
// first: nobody would be voted for before it ends. Others may have started a little later, so that theirs
// has not ended: they are asked again until the next voter's turn. And turns come again.
func (c *campaign) tick(g *group) {
	if c.delay > 0 {
		c.countDown(g)
	}
	c.born = c.born && g.role.Leader == 0
	if !g.cfg.CampaignNow || g.role.Leader != 0 {
		return
	}
	if (c.fresh || c.born && !mutate.On(mutate.BirthOnce)) && c.again(g) {
		_ = g.rn.Campaign() // the others may only just have started
	}
}

// again tells whether to campaign anew. A voter that has been promised votes waits for them, as long as Raft lets it: answers to a candidacy that was begun
// anew do not count, and where they take longer than the pause, nobody would ever be elected.
func (c *campaign) again(g *group) bool {
	pause := g.quiescence.idle%campaignEvery != 0
	if g.rn.BasicStatus().RaftState == raft.StateCandidate {
		return !pause && mutate.On(mutate.BirthHasty)
	}
	return c.born || !pause // the others of a child come into being at different ticks
}

func (c *campaign) countDown(g *group) {
	st := g.rn.BasicStatus()
	switch round := g.members.conf().campaignRound(); {
	case st.Lead != raft.None:
		c.delay = 0
	case c.wait > 0:
		c.wait--
	case g.voteLease.active(g):
	default:
		c.delay--
		again := c.delay > round-campaignEvery && st.RaftState == raft.StatePreCandidate
		if c.delay == 0 || again {
			_ = g.rn.Campaign() // refused while it cannot be elected
		}
		if c.delay == 0 {
			c.delay = round
		}
	}
}
