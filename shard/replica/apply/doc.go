// Package apply is the replicated state machine of a range: one entry of the log in, one change of the store
// and the outcome out.
//
// Machine owns what a range knows beside its versions: epoch, last revision, attached leases, prepared
// transactions and commit records. Decide evaluates an entry and changes nothing; Commit makes the decision
// the state, after the store has applied its change. A new kind of entry is a case in decideBody, and what
// it changes is a field of Decision.
//
// Both depend on nothing but the log and the state that it made, so every replica decides alike. The package
// has no goroutine, clock, lock or I/O; its imports are fixed by the architecture test. The caller of Commit is
// the only writer, and excludes readers meanwhile.
package apply
