// Package moves says how who holds a group changes: one replica comes, one leaves, or both, step by step.
//
//	voters a, b, c --> a, b, c and learner d --> joint {a, b, d | a, b, c} --> a, b, d
//	                          |
//	                          +--> a, b, c: given up
//
// The meta group has replicas besides that go on learning: one comes or goes in a single step, and gets a vote without learning once more.
//
// Each step is a change of the group's configuration by an entry of its own log, and what it makes of the descriptor travels as its
// context: a replica has both or neither. What the group knows of the op says how far it is, so whoever leads goes on from there. Ranges
// and the meta group move in the same way.
//
// The package is pure: a shape in, the next step out. Who proposes it, and when, is its leader's business.
package moves
