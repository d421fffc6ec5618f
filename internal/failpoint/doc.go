// Package failpoint lets tests with real processes break what a process cannot be made to suffer
// from outside: its clock jumps, its fsyncs fail, its leads are handed away.
//
// It exists only in builds with the tag `failpoints`; without it every function does nothing and
// costs nothing, and Enabled is false. With it, the process listens on a Unix socket named after
// its id in the directory that PONTOON_FAILPOINTS names, and does what is posted there:
//
//	POST /clock?by=-2s    the clock of leases jumps
//	POST /sync?fail=true  every fsync of the shared log fails from now on
//	POST /transfer        what Handle has registered under that name
//
// Nothing that is released may be built with the tag.
package failpoint
