// Package mvcc is the versioned store of one range, kept in one bbolt file as a log and a base.
//
// It owns the range's versions, its opaque range state, and what is derived from both: the
// lease index, the number of live keys, hashes and snapshots. It does not know Raft, the
// network or the clock, and starts no goroutine: whoever owns a Store schedules its Maintenance.
//
// # Shape
//
// The log bucket holds revision -> record, the base bucket (user key, revision descending) ->
// record for everything up to the settle revision. In memory are the versions above the settle
// revision (the index) and, of those, the ones that are not in the file yet (the buffer).
// Apply writes to memory only; Flush writes the buffer, the range state and the position in
// one transaction; Maintain settles the log into the base and deletes what was compacted.
//
// A Store is made of three parts: the memtable is all that is in memory, the file is the way to
// bbolt, and Maintenance moves versions from the one to the other. What reads is a type with the
// state of one read, and looks at the first two: scanner, history, versionWalk, leaseWalk.
//
// A store is cut in two by a Split, which copies the right part into a file of its own while the
// store is written to, and by the Change with the Cut, behind which the store serves the left part
// only. What was cut off is garbage from then on, and Maintain trims it. A Merge copies what two neighbours serve into a
// file that is a store of both.
//
// # Invariants
//
//   - A reader takes index and buffer first and opens its bbolt transaction after; every step
//     of Flush and Maintain commits first and trims memory after. So a version is always in at
//     least one of the two places that a reader looks at.
//   - The settle revision never passes the hold-back floor, nor a version that is not yet in
//     the file. Start-up reads the log from there.
//   - A version that was compacted away leaves index and log only after the base's older
//     versions of its key are gone; a tombstone in particular.
//   - Nothing is deleted from the file for a compaction that the file does not yet record, nor
//     what a pinned snapshot or hash may still read.
//   - What lies outside of the extent is never shown: who asks for it by key or span is refused,
//     who walks over everything passes it by. It is deleted, or left out when the log is settled,
//     only when the file says that it was cut off and no pin is of a moment before. A reader
//     looks at what is kept after it has opened its transaction.
//   - No bbolt read transaction outlives one bounded step, and none is open while a caller's
//     function or writer runs.
//
// # Duties of the caller
//
// Apply has one caller at a time, in log order, one Change per log entry. Flush, Maintain and
// every reader may run beside it and beside each other. SetFloor is called before the first
// Maintain when the range state holds prepared transactions. Byte slices that go in or come
// out are shared and never written again by anybody.
package mvcc
