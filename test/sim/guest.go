package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// guestURL is where the guest is to be found, as the members have it.
const guestURL = "http://guest:2380"

// guest is a node that is added to the cluster when it runs, and joins it with nothing.
type guest struct {
	w      *world
	asked  bool
	node   *node // nil: it is no member yet, as far as anybody knows
	leaves bool  // it is removed
}

// join has the guest added, once.
func (c changes) join(time.Duration) {
	if g := &c.w.guest; !g.asked {
		g.asked = true
		g.add()
	}
}

// add asks until the guest is a member. What was added by a request whose answer was lost is found among the members.
func (g *guest) add() {
	w := g.w
	again := func() { w.after(time.Second, "add a member", g.add) }
	l := w.someLife()
	switch {
	case w.faults.over:
		return // nobody misses it
	case l == nil:
		again()
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		ms, err := l.client.ChangeMember(ctx, &pb.ChangeMemberRequest{Change: uint32(shard.MemberAdd), PeerUrls: []string{guestURL}})
		id := ms.Changed
		if err != nil {
			if ms, merr := l.client.Membership(ctx); merr == nil {
				id = memberAt(ms.Members, guestURL)
			}
		}
		w.post(fmt.Sprintf("added %d", l.n.id), 0, func() {
			w.note("a member is added by node %d: %v: %v", l.n.id, id, err)
			switch {
			case g.node != nil:
			case id == 0:
				again()
			default:
				g.come(id)
			}
		})
	}()
}

func memberAt(members []shard.Member, url string) shard.NodeID {
	i := slices.IndexFunc(members, func(m shard.Member) bool { return slices.Contains(m.PeerURLs, url) })
	if i < 0 {
		return 0
	}
	return members[i].ID
}

// come starts the guest a while later.
func (g *guest) come(id shard.NodeID) {
	w := g.w
	w.stats.Joined++
	g.node = newNode(w, id)
	w.nodes = append(w.nodes, g.node)
	w.net.add(id)
	g.node.restart(w.scaled(time.Millisecond, 5*time.Second))
}

// leave has the guest removed. It stays until nothing is on it any more, and then ends for good.
func (c changes) leave(time.Duration) {
	if g := &c.w.guest; g.node != nil && !g.leaves {
		g.leaves = true
		g.remove()
	}
}

// remove asks until the guest is no member, and takes away what is on it meanwhile, as the planner does.
func (g *guest) remove() {
	w := g.w
	again := func() { w.after(time.Second, "remove a member", g.remove) }
	l := w.someLife()
	if l == nil || l.n == g.node {
		again()
		return
	}
	changes{w}.empty(g.node)
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		_, rerr := l.client.ChangeMember(ctx, &pb.ChangeMemberRequest{Change: uint32(shard.MemberRemove), Id: uint64(g.node.id)})
		ms, err := l.client.Membership(ctx)
		w.post(fmt.Sprintf("removed by %d", l.n.id), 0, func() {
			w.note("the guest is removed by node %d: %v, %v", l.n.id, rerr, err)
			if err != nil || shard.FindMember(ms.Members, g.node.id) >= 0 {
				again()
				return
			}
			w.note("the guest is gone")
			w.stats.Left++
			g.node.crash()
			g.node.gone = true
		})
	}()
}

// drain takes everything off a node, as the planner does with one that an operator has marked, and lets it have replicas again some time later.
func (c changes) drain(d time.Duration) {
	w := c.w
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	c.mark(n.id, shard.MemberDrain, func() { // a request that is still under way would come behind it
		w.after(d, "undrain", func() { c.mark(n.id, shard.MemberUndrain, func() {}) })
	})
	c.empty(n)
}

// empty moves everything off a node.
func (c changes) empty(n *node) {
	for _, d := range append(slices.Collect(c.w.newest().All()), c.w.meta()) {
		if _, there := d.ReplicaOn(n.id); there {
			c.away(d, n.id)
		}
	}
}

// mark says that a member is to be drained, or not any more, which is asked for until it is so. Then then is called; of draining, also where that has failed.
func (c changes) mark(id shard.NodeID, how shard.MemberChange, then func()) {
	w := c.w
	l := w.someLife()
	if l == nil {
		w.after(time.Second, "mark", func() { c.mark(id, how, then) })
		return
	}
	w.asked++
	no := w.asked
	go func() {
		ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
		defer cancel()
		_, err := l.client.ChangeMember(ctx, &pb.ChangeMemberRequest{Change: uint32(how), Id: uint64(id)})
		w.post(fmt.Sprintf("marked %d/%d", l.n.id, no), 0, func() {
			w.note("member %v: change %d: %v", id, how, err)
			switch {
			case how == shard.MemberDrain && err == nil:
				w.stats.Drained++
			case how == shard.MemberUndrain && err != nil && !errors.Is(err, shard.ErrMemberNotFound):
				w.after(time.Second, "undrain", func() { c.mark(id, how, then) })
				return
			}
			then()
		})
	}()
}

// away moves a range's replica from a node to where none is, or takes it away where the range has enough.
func (c changes) away(d shard.Descriptor, from shard.NodeID) {
	mv := &pb.MoveOp{RangeId: uint64(d.ID), From: uint64(from), Reason: "simulated"}
	var free []shard.NodeID
	for _, n := range c.w.nodes {
		if _, there := d.ReplicaOn(n.id); !there && !n.gone {
			free = append(free, n.id)
		}
	}
	switch {
	case len(free) > 0:
		mv.To = uint64(free[c.w.rng.IntN(len(free))])
	case len(d.Replicas) < 3:
		return
	}
	c.beginMove(d, mv)
}
