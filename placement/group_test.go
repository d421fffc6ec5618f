package placement

import (
	"fmt"
	"testing"
	"time"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

// groupOf is a group on nodes of a cluster, one node a letter: its failure domain. A capital is one that may not have a voter yet.
func groupOf(zones string, voters ...shard.NodeID) (*Group, []Node) {
	var nodes []Node
	for i, z := range zones {
		n := Node{ID: shard.NodeID(i + 1), Locality: fmt.Sprintf("zone=%c", z), Since: 1}
		if z < 'a' {
			n.Learner = true
		}
		nodes = append(nodes, n)
	}
	return &Group{Generation: 4, Voters: voters, Leader: voters[0]}, nodes
}

// TestPlanGroup: the meta group has an odd number of voters, apart from each other, on nodes that live and stay.
func TestPlanGroup(t *testing.T) {
	mutate.Set(*mutatetest.Mutant)
	type edit func(g *Group, nodes []Node, l *Limits)
	none := func(*Group, []Node, *Limits) {}
	dead := func(id int) edit {
		return func(_ *Group, nodes []Node, _ *Limits) { nodes[id-1].Liveness = Dead }
	}
	for _, c := range []struct {
		name, zones string
		voters      []shard.NodeID
		edit        edit
		want        string
	}{
		{"all is well", "abc", []shard.NodeID{1, 2, 3}, none, ""},
		{"a fourth member changes nothing", "abcd", []shard.NodeID{1, 2, 3}, none, ""},
		{"with five members there are five, one after the other", "abcde", []shard.NodeID{1, 2, 3}, none, "move r1 to 4 (grow): 3 voters, and 5 are wanted"},
		{"and the second", "abcde", []shard.NodeID{1, 2, 3, 4}, none, "move r1 to 5 (grow): 4 voters, and 5 are wanted"},
		{"but no even number is begun for good", "abcde", []shard.NodeID{1, 2, 3}, dead(5), ""},
		{"nor are learners taken", "abcDE", []shard.NodeID{1, 2, 3}, none, ""},
		{"from one to three", "abc", []shard.NodeID{1}, none, "move r1 to 2 (grow): 1 voters, and 3 are wanted"},
		{"who learns first", "abcde", []shard.NodeID{1, 2, 3}, func(g *Group, _ []Node, _ *Limits) { g.Learners = []shard.NodeID{5} }, "move r1 to 5 (grow): 3 voters, and 5 are wanted"},
		{"who was promoted, though nothing is done by itself", "abcde", []shard.NodeID{1, 2, 3}, func(g *Group, _ []Node, l *Limits) {
			g.Learners, l.Mode = []shard.NodeID{4, 5}, ModeOff
		}, "move r1 to 4 (grow): 3 voters, and 5 are wanted"},
		{"and the second of them", "abcde", []shard.NodeID{1, 2, 3, 4}, func(g *Group, _ []Node, l *Limits) {
			g.Learners, l.Mode = []shard.NodeID{5}, ModeOff
		}, "move r1 to 5 (grow): 4 voters, and 5 are wanted"},
		{"but no even number, nor one that does not learn", "abcde", []shard.NodeID{1, 2, 3}, func(g *Group, _ []Node, l *Limits) {
			g.Learners, l.Mode = []shard.NodeID{5}, ModeOff
		}, ""},
		{"nor one that was not promoted", "abcdeF", []shard.NodeID{1, 2, 3, 4}, func(g *Group, _ []Node, l *Limits) {
			g.Learners, l.Mode = []shard.NodeID{6}, ModeOff
		}, ""},
		{"with two members one is enough", "ab", []shard.NodeID{1}, none, ""},
		{"or two", "ab", []shard.NodeID{1, 2}, none, ""},
		{"but not four", "abcd", []shard.NodeID{1, 2, 3, 4}, none, "move r1 from 2 (shrink): 4 voters, and 3 are wanted"},
		{"nothing by itself where that is not wanted", "abcde", []shard.NodeID{1, 2, 3}, func(_ *Group, _ []Node, l *Limits) { l.Mode = ModeOff }, ""},
		{"none less", "abcd", []shard.NodeID{1, 2, 3, 4}, func(_ *Group, _ []Node, l *Limits) { l.Mode = ModeOff }, ""},
		{"nor apart", "aabc", []shard.NodeID{1, 2, 3}, func(_ *Group, _ []Node, l *Limits) { l.Mode = ModeOff }, ""},
		{"nor while one is silent", "abcde", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) { nodes[1].Liveness, nodes[1].Since = Dead, testNow }, ""},
		{"apart", "aabc", []shard.NodeID{1, 2, 3}, none, "move r1 from 2 to 4 (domain): two of its voters would fail together, and need not"},
		{"and not two in two of four domains where one has none", "abcabcd", []shard.NodeID{1, 2, 3, 4, 5}, none, "move r1 from 2 to 7 (domain): two of its voters would fail together, and need not"},
		{"the leader stays", "aabc", []shard.NodeID{2, 1, 3}, none, "move r1 from 1 to 4 (domain): two of its voters would fail together, and need not"},
		{"where no other domain has room they stay together", "aab", []shard.NodeID{1, 2, 3}, none, ""},
		{"dead", "abcd", []shard.NodeID{1, 2, 3}, dead(3), "move r1 from 3 to 4 (replace): node 3 is gone"},
		{"dead, in the domain that has none", "abcbc", []shard.NodeID{1, 2, 3}, dead(3), "move r1 from 3 to 5 (replace): node 3 is gone"},
		{"dead, and nobody else is there", "abc", []shard.NodeID{1, 2, 3}, dead(3), ""},
		{"dead, and nothing is planned", "abcd", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, l *Limits) { nodes[2].Liveness, l.Mode = Dead, ModeOff }, ""},
		{"drained", "abcd", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, l *Limits) { nodes[1].Draining, l.Mode = true, ModeOff }, "move r1 from 2 to 4 (drain): node 2 is to be empty"},
		{"drained, and nobody can take it", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) { nodes[1].Draining = true }, ""},
		{"drained, and it leads", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) { nodes[0].Draining = true }, "transfer the lead of r1 from 1 to 2 (drain-lead): node 1 is to be empty"},
		{"and none other may lead", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Draining, nodes[1].Liveness, nodes[2].Liveness = true, Suspect, Suspect
		}, ""},
		{"it leads, and its node has no time left", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].CPU, nodes[1].CPU, nodes[2].CPU = 0.95, 0.55, 0.5
		}, "transfer the lead of r1 from 1 to 3 (lead): node 1 has no processor time left, node 3 uses 50 % of it"},
		{"nor have the others", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].CPU, nodes[1].CPU, nodes[2].CPU = 0.95, 0.6, 0.9
		}, ""},
		{"it has only come to lead", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].CPU, nodes[0].Since = 0.95, testNow-29
		}, ""},
		{"it has no time left, and nothing is planned", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, l *Limits) { nodes[0].CPU, l.Mode = 0.95, ModeRepair }, ""},
		{"removed", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) { nodes[1].Removed = true }, "move r1 from 2 (drain): its member was removed"},
		{"two removed, and one of them is dead: that one first", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Removed, nodes[1].Removed, nodes[1].Liveness = true, true, Dead
		}, "move r1 from 2 (drain): its member was removed"},
		{"two removed, and one of them is silent", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Removed, nodes[1].Removed, nodes[1].Liveness = true, true, Suspect
		}, "move r1 from 2 (drain): its member was removed"},
		{"two removed: the first one first", "abc", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Removed, nodes[0].Left, nodes[1].Removed, nodes[1].Left = true, 9, true, 8
		}, "move r1 from 2 (drain): its member was removed"},
		{"removed, while one that stays is silent", "abc", []shard.NodeID{3, 1, 2}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Removed, nodes[1].Liveness = true, Suspect
		}, ""},
		{"removed, and a majority is dead", "abcd", []shard.NodeID{1, 2, 3}, func(_ *Group, nodes []Node, _ *Limits) {
			nodes[0].Removed, nodes[1].Liveness, nodes[2].Liveness = true, Dead, Dead
		}, ""},
		{"removed, and the last", "a", []shard.NodeID{1}, func(_ *Group, nodes []Node, _ *Limits) { nodes[0].Removed = true }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, nodes := groupOf(c.zones, c.voters...)
			l := DefaultLimits()
			c.edit(g, nodes, &l)
			got := ""
			if op, due := PlanGroup(g, nodes, l, testNow); due {
				got = op.String()
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestMutants: a move that the group could not end, and one that others might not survive, are noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, []string{mutate.PlanGroupStuck, mutate.PlanAnyFirst}, time.Minute, mutatetest.NoticedBy, "-test.run=^(TestPlanGroup|TestRules)$")
}

// TestPlanGroupEnds: from any state the group comes to rest, with an odd number of voters, or two of two, and as far apart as there are domains.
func TestPlanGroupEnds(t *testing.T) {
	for seed := range uint64(3000) {
		draw := func(n uint64, i int32) int { return int(mix(seed, i) % n) }
		zones := ""
		for i := range int32(1 + draw(8, 0)) {
			zones += string(rune('a' + draw(4, i+1)))
		}
		var voters []shard.NodeID
		for i := range zones {
			if len(voters) < 5 && draw(2, int32(i+50)) == 0 {
				voters = append(voters, shard.NodeID(i+1))
			}
		}
		if len(voters) == 0 {
			voters = []shard.NodeID{1}
		}
		g, nodes := groupOf(zones, voters...)
		for i := range nodes {
			nodes[i].Removed = i > 0 && draw(6, int32(i+100)) == 0
		}
		l := DefaultLimits()
		steps := 0
		for ; ; steps++ {
			op, due := PlanGroup(g, nodes, l, testNow)
			if !due {
				break
			}
			if steps > 20 {
				t.Fatalf("seed %d: no end: %v", seed, op)
			}
			if op.Kind != KindMove {
				g.Leader = op.To
				continue
			}
			var next []shard.NodeID
			for _, v := range g.Voters {
				if v != op.From {
					next = append(next, v)
				}
			}
			if op.To != 0 {
				next = append(next, op.To)
			}
			if g.Voters = next; g.Leader == op.From {
				g.Leader = next[0]
			}
		}
		serve, most := 0, map[string]int{}
		for i := range nodes {
			if !nodes[i].Removed {
				serve++
				most[nodes[i].Locality]++
			}
		}
		n := len(g.Voters)
		if want := shard.MetaVoters(serve); n != want && !(n == 2 && serve == 2) {
			t.Errorf("seed %d: %d voters of %d members of %q, %v", seed, n, serve, zones, g.Voters)
		}
		on := map[string]int{}
		for _, v := range g.Voters {
			if nodes[v-1].Removed {
				t.Errorf("seed %d: a voter on a node that was removed", seed)
			}
			on[nodes[v-1].Locality]++
		}
		for zone, have := range most {
			for _, v := range g.Voters {
				if here := nodes[v-1].Locality; on[here] > on[zone]+1 && have > on[zone] {
					t.Errorf("seed %d: %d in %s and %d in %s, of %q", seed, on[here], here, on[zone], zone, zones)
				}
			}
		}
	}
}
