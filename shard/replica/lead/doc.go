// Package lead is one term of leadership over a range, as a pure core: events in, actions out.
//
// Leader owns the table of requests in flight, their batches, fences, the attachment of leases, and the
// transactions over several ranges that are coordinated or locked here. Its methods are events. What is to
// be done comes out of Take as actions, in order; whoever carries them out answers with the event that the
// action names. It reads the machine and the store, and changes neither.
//
// Invariants:
//
//   - A revision belongs to the term that asked for it; a leader dies with its term.
//   - Batches are proposed in the order of their revisions.
//   - A request leaves the table only by being applied, or by certainly never being proposed.
//   - Whoever gives up leaves every list of waiters at the next tick.
//
// It has no goroutine, clock, lock or I/O; its imports are fixed by the architecture test. The caller
// serializes all calls.
package lead
