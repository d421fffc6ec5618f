package meta

import (
	"fmt"
	"testing"

	"pontoon/placement"
	"pontoon/shard"
)

// TestPlannerGroup: what is due for the meta group follows from the members as they are seen, while nothing is under way in it and nothing was tried in vain.
func TestPlannerGroup(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(in *planInput)
		want string
	}{
		"nothing is due": {func(*planInput) {}, "nothing"},
		"drained":        {func(in *planInput) { in.members[1].State = shard.MemberDraining }, "move 2 to 4"},
		"one is under way": {func(in *planInput) {
			in.members[1].State, in.ops = shard.MemberDraining, []shard.Op{{Range: shard.MetaID}}
		}, "nothing"},
		"dead": {func(in *planInput) { in.heard.pulses[3] = pulse{liveness: placement.Dead} }, "move 3 to 4"},
		"dead only just": {func(in *planInput) {
			in.heard.pulses[3] = pulse{liveness: placement.Dead, since: in.now - 1}
		}, "nothing"},
		"in vain": {func(in *planInput) {
			in.members[1].State = shard.MemberDraining
			in.past.failed(shard.MetaID, placement.KindMove, in.now)
		}, "nothing"},
		"in vain a while ago": {func(in *planInput) {
			in.members[1].State = shard.MemberDraining
			in.past.failed(shard.MetaID, placement.KindMove, in.now-vainMin)
		}, "move 2 to 4"},
		"it leads, and nobody is left": {func(in *planInput) {
			in.members[0].State, in.members[3].Learner = shard.MemberDraining, true
		}, "transfer 1 to 2"},
		"the same, in vain": {func(in *planInput) {
			in.members[0].State, in.members[3].Learner = shard.MemberDraining, true
			in.past.failed(shard.MetaID, placement.KindTransfer, in.now)
		}, "nothing"},
		"what learns is no voter": {func(in *planInput) {
			in.members[3].Learner = true
			in.group.Replicas = append(in.group.Replicas, shard.Replica{ID: 4, Node: 4, Role: shard.Learner})
			in.members[1].State = shard.MemberDraining
		}, "nothing"},
		"but where it is no member's fault it takes over": {func(in *planInput) {
			in.group.Replicas = append(in.group.Replicas, shard.Replica{ID: 4, Node: 4, Role: shard.Learner})
			in.members[1].State = shard.MemberDraining
		}, "move 2 to 4"},
		"nobody has been heard":   {func(in *planInput) { in.members[1].State, in.heard = shard.MemberDraining, nil }, "nothing"},
		"nothing is laid out yet": {func(in *planInput) { in.group = shard.Descriptor{} }, "nothing"},
	} {
		in := &planInput{now: 100_000, heard: &heard{pulses: map[shard.NodeID]pulse{}}, past: past{},
			group: shard.Descriptor{ID: shard.MetaID, Generation: 4, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}, {ID: 3, Node: 3}}}}
		for id := shard.NodeID(1); id <= 4; id++ {
			in.members = append(in.members, shard.Member{ID: id})
			in.heard.pulses[id] = pulse{liveness: placement.Up}
		}
		tc.edit(in)
		got := "nothing"
		if op := in.groupOp(1, placement.DefaultLimits()); op != nil {
			got = fmt.Sprintf("%v %d to %d", op.Kind, op.From, op.To)
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
