package link

import (
	"cmp"
	"slices"

	"pontoon/shard"
)

// Rank puts nodes that have a range into the order in which a process asks them for its feed: by chance, so that the feeds of a process, and the
// listeners of a range, spread over them, and always the same, so that few feeds move when one more comes or goes. nodes is reordered.
func Rank(self shard.NodeID, id shard.RangeID, nodes []shard.NodeID) {
	slices.SortFunc(nodes, func(a, b shard.NodeID) int {
		return cmp.Or(cmp.Compare(weight(self, id, b), weight(self, id, a)), cmp.Compare(a, b))
	})
}

// weight mixes three numbers, as splitmix64 does.
func weight(self shard.NodeID, id shard.RangeID, node shard.NodeID) uint64 {
	h := mix(uint64(self))
	h = mix(h ^ uint64(id))
	return mix(h ^ uint64(node))
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
