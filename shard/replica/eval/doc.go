// Package eval is etcd's meaning of a request: what it reads, compares, refuses and changes.
//
// It owns the one Evaluator. Prediction before the log, apply, the plan of a transaction over several ranges,
// and reads at a past revision all use it. A new rule on a request belongs into Evaluator.Check, and nowhere
// else. The package owns as well what a request touches (Footprint), and the pages in which spans are read.
//
// It does not know the log, leases, locks, or how a store keeps anything: it reads through Reader and
// View, and passes effects to a Sink. It has no goroutine, clock, lock or I/O; its imports are fixed by the
// architecture test. Bytes of requests and of readers are shared, never copied and never written.
package eval
