package placement

// processors is how much processor time nodes have left.
type processors struct {
	s    *Snapshot
	l    *Limits
	news []bool // per node: a range on it is untold
}

// used is the share of a node's processors that it uses, as it says itself, or as its ranges say, which need so many ns a second: they have told of
// a lead that it has got since.
func (p processors) used(n int16, ranges float64) float32 {
	node := &p.s.Nodes[n]
	if node.Cores <= 0 {
		return node.CPU
	}
	return max(node.CPU, float32(ranges/1e9)/node.Cores)
}

// none tells whether a node has no time left.
func (p processors) none(n int16) bool { return p.s.Nodes[n].exhausted(p.l) }

// forCopies tells whether a node that takes part in so many ops can copy something for balance: one that has no time left does two things at a time,
// and first what takes work off it. Whether that is due is not known while there are news of its ranges.
func (p processors) forCopies(n int16, ops int) bool {
	return !p.none(n) || ops < fullOps && !p.news[n]
}

// fullOps is in how many ops a node that has no time left takes part at a time, where one of them copies something for balance.
const fullOps = 2
