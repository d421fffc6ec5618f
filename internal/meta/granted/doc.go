// Package granted remembers to which ranges the revision oracle gave its latest revisions, as a pure value: no goroutine, no clock, no I/O. Its owner
// serialises the calls.
//
// Invariant: each revision above the floor was given to a range under borders that were there before a revision at or below the floor was given. So whoever
// was found final at or above the floor has seen those borders.
package granted
