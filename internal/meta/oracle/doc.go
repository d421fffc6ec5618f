// Package oracle is the counter that allocates revisions on the meta group's leader, as a pure
// value: no goroutine, no clock, no I/O.
//
// Invariants:
//   - Nothing is allocated above a limit that has applied in the group's log in this leadership.
//   - A new leadership starts above the limit that the log holds, so nothing is allocated twice.
//   - Where the exact value was logged before the leadership ended, no gap remains.
//
// It does not know whether it still leads: the owner confirms that before every answer. The owner
// serialises the calls.
package oracle
