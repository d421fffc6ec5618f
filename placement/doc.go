// Package placement decides where the cluster's data lives, in pure functions: Bootstrap lays out a new
// cluster, and Plan takes a snapshot of a running one and returns the ops that bring it nearer to what is
// wanted, each with its reason. The same snapshot gives the same ops on every node: there is no goroutine, no
// clock, no I/O, no source of chance and no dependence on map order.
//
// A round of Plan is two passes over columns and a few small choices. The first pass sums up what every node
// holds and notes the ranges that some rule has something to do for; the second looks, in ranges of nodes that
// carry too much, for what could be moved. What is noted is bounded, and drawn anew each round, so that a range
// for which nothing can be done does not stand in the way of the others for ever. A round allocates by the number of
// nodes and of busy ranges, never by that of all.
//
// Why it does not oscillate:
//
//   - Every op lowers one Potential: replicas that are missing before failure domains, these before the sizes and loads of
//     ranges, these before imbalance. A plan from a state that stands still is therefore finite. Two ops are steps on the way only: a cut of
//     a range that lacks replicas makes two that do, and a range that is brought to its neighbour for a merge may have to go elsewhere
//     if another merge is faster.
//   - Ops under way are counted as done, from columns alone: loads that nodes measure lag behind and decide
//     nothing but whether a split is worth it.
//   - A move never turns the order of two nodes round, and needs a node that is away from the mean by more
//     than the tolerance; its target stays on the other side of the mean.
//   - The inverse of an op is not planned within its cooldown, and ranges with unknown load count as hot.
//   - A node takes part in a few ops at a time, the cluster in some dozens.
//
// It does not carry an op out, does not watch the cluster, and does not remember what it has planned: who
// carries out the ops proposes them to the meta group, whose log decides, and states in the next snapshot what
// has become of them.
package placement
