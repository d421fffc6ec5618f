// Package clusterversion says from which version of the formats on each kind of log entry, meta entry or
// peer message may be written, so that nodes of two builds can work together.
//
// A Version stands for everything that a build can read and write. Every node announces the newest one that
// it speaks; the meta group holds the cluster's version, which its leader raises to the lowest that all
// members announce, and never lowers. What a later version has introduced is a Feature, and nobody writes
// it before the cluster's version is Active for it: a node that does not know it may still be there, and
// would have to stop.
//
// It knows numbers only: who announces, who raises and who asks are others.
package clusterversion
