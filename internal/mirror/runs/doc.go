// Package runs is a mirror of the keys of a span: what they are at present, and what they were a while ago, as the bytes that a list of them answers with.
//
// A State is what there is at its newest revision, in runs of about 16 KiB each: pieces of etcd's RangeResponse, which a list refers to and copies nothing
// of. A run is never changed: a change puts another in its place, and copies the way to it in a small tree, which knows how many keys and bytes lie below each
// of its nodes. Beside that stand the changes that have led there, each with what was there before: the state at an older revision is the newest one without
// the changes behind it, which touches only the runs in which these lie.
//
// It owns: order, counts, and the exactness of every revision from State.Floor to State.Last. It does not own: which revisions are final, when history is
// forgotten, feeds, time. It is pure: no goroutine, clock or lock. A View may be read by any goroutine, beside further changes of the State that it was taken
// of; everything else is the caller's to keep apart.
package runs
