// Package placement plans where the cluster's data lives: Plan takes a snapshot of the cluster and
// returns the steps that bring it nearer to what is wanted. The same snapshot gives the same steps on
// every node: there is no goroutine, no clock, no I/O, no randomness and no dependence on map order.
//
// Today it plans one thing, the layout of a new cluster. What else decides on the map of ranges has its
// place here, each a kind of Op and a rule of its own: to split a range, to merge two, to balance
// replicas and leaders over nodes, to repair what has lost a replica for good.
//
// It does not carry a step out, does not watch the cluster, and does not remember what it has planned:
// who carries out the steps proposes them to the meta group, whose log decides.
package placement
