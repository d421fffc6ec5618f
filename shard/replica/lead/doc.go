// Package lead is one term of leadership over a range, as a pure core: events in, actions out.
//
// Leader owns the table of requests in flight, their batches, fences, the attachment of leases, and the
// transactions over several ranges that are coordinated or locked here, and the barrier behind which the range is
// changed or handed over. Its methods are events. TakeActions
// returns what is to be done, in order. The driver answers each action with the event that the action names.
// The core reads the machine and the store, and changes neither.
//
// Invariants:
//
//   - A revision belongs to the term that allocated it. A leader ends with its term.
//   - Batches are proposed in the order of their revisions.
//   - A request leaves the table only by being applied, or by certainly never being proposed.
//   - What has timed out leaves every list of waiters at the next tick.
//
// It has no goroutine, clock, lock or I/O; its imports are fixed by the architecture test. The caller
// serializes all calls.
package lead
