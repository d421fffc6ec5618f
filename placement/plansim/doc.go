// Package plansim runs the planner against a simulated cluster: nodes fail, fill up, come, drain and go; ops take time and sometimes fail; loads follow a
// power law, are told late and with noise, move on, and one range may grow at its end. A second of the cluster is a step, and there is no
// clock, no goroutine and no source of chance but the seed: a run is a function of its Config, and an error says how to see it again.
//
// The world does not ask the planner whether it was right. It holds every op against rules that it knows by itself (checker): nothing goes to a node that is
// dead, full or to be empty, no range takes part in two ops, no op undoes another within its cooldown, no more ops than there may
// be, no majority is given away; and every minute it walks all ranges for replicas that have been missing, or too near to one
// another, for longer than a repair takes.
//
// It does not simulate logs, requests or snapshots: what an op does is done when its time is over.
package plansim
