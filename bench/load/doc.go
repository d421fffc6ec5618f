// Package load runs operations in a closed or an open loop and records how long they took.
//
// In the closed loop every worker begins its next operation when the one before has ended. In the
// open loop operations are due at a fixed rate whatever becomes of those before: one that begins
// late because all workers were busy counts from when it was due, so that a server that stands
// still for a second is charged for everybody who would have come in that second (what is known as
// coordinated omission). Operations that could not even begin are counted, and are no success.
//
// It owns: workers, pace, latency histograms, counts of errors, figures second by second. It does
// not own: what an operation is, and whether what it did is right.
//
// Run returns after its last worker has ended. An operation is cancelled when it exceeds its time;
// a run ends early when its context does or when too many operations have failed.
package load
