package meta

import (
	"fmt"
	"testing"

	"pontoon/placement"
	"pontoon/shard"
)

// TestTheMetaGroupIsMovedAway from members that are to be emptied and from dead ones, to one that lives and has none of it, one replica at a time.
func TestTheMetaGroupIsMovedAway(t *testing.T) {
	limits := placement.DefaultLimits()
	group := shard.Descriptor{ID: shard.MetaID, Generation: 4, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}, {ID: 3, Node: 3}}}
	for name, tc := range map[string]struct {
		edit func(in *planInput, group *shard.Descriptor, l *placement.Limits)
		want string
	}{
		"nothing is due": {func(*planInput, *shard.Descriptor, *placement.Limits) {}, "nothing"},
		"drained": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.members[1].State = shard.MemberDraining
		}, "2 to 4"},
		"drained, also where nothing else is planned": {func(in *planInput, _ *shard.Descriptor, l *placement.Limits) {
			in.members[1].State, l.Mode = shard.MemberDraining, placement.ModeOff
		}, "2 to 4"},
		"drained, and nobody is left": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.members[1].State, in.members[3].Learner = shard.MemberDraining, true
		}, "nothing"},
		"removed, and nobody is left": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.members[1].State, in.heard.pulses = shard.MemberLeaving, nil
		}, "2 to 0"},
		"removed, and it is the only one": {func(in *planInput, g *shard.Descriptor, _ *placement.Limits) {
			in.members[0].State, in.heard.pulses, g.Replicas = shard.MemberLeaving, nil, g.Replicas[:1]
		}, "nothing"},
		"one is under way": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.members[1].State, in.ops = shard.MemberDraining, []shard.Op{{Range: shard.MetaID}}
		}, "nothing"},
		"dead": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.heard.pulses[3] = pulse{liveness: placement.Dead}
		}, "3 to 4"},
		"dead only just": {func(in *planInput, _ *shard.Descriptor, _ *placement.Limits) {
			in.heard.pulses[3] = pulse{liveness: placement.Dead, since: in.now - 1}
		}, "nothing"},
		"dead, and nothing is planned": {func(in *planInput, _ *shard.Descriptor, l *placement.Limits) {
			in.heard.pulses[3], l.Mode = pulse{liveness: placement.Dead}, placement.ModeOff
		}, "nothing"},
	} {
		in := &planInput{now: 100_000, heard: &heard{pulses: map[shard.NodeID]pulse{}}}
		for id := shard.NodeID(1); id <= 4; id++ {
			in.members = append(in.members, shard.Member{ID: id, Formats: 2})
			in.heard.pulses[id] = pulse{liveness: placement.Up}
		}
		g, l := group, limits
		tc.edit(in, &g, &l)
		got := "nothing"
		if op := in.metaMove(g, l); op != nil {
			got = fmt.Sprintf("%d to %d", op.From, op.To)
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
