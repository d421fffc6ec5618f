// Package bench measures stores that speak etcd v3, through etcd's own Go client, and treats all of
// them alike: the same operations from the same seed, the same client settings, the same flags for
// servers that it starts itself.
//
// It owns: workloads, what they verify, starting and stopping servers under test, pairs of runs,
// results and their comparison. It does not own: the loops and histograms (bench/load), what the
// operating system tells (bench/machine), charts (bench/report), flags and output (cmd/bench). It
// knows nothing about how any of the stores works.
//
// Invariants: a figure is good only if every operation succeeded and what was acknowledged was
// found afterwards; a run that is not good carries its problems with it, and nothing here prints
// its figures without them. Servers that a run started have ended when it returns.
//
// # A new workload
//
// A file of its own has a function that returns its Definition, named in Workloads, and a type with
// the methods of workload. Spec gets the fields that decide what it does; an Option per field makes
// the flag and the part of the name, without which results of different runs would look alike.
// Defaults are those of etcd's benchmark tool where it has the same; Brief has short forms with which
// --check walks through every branch in a second or two; Standard has those of the standard set.
//
// Most workloads are rows of operations: do performs one and fails it on a wrong answer, base and
// ledger remember what was acknowledged and look for it afterwards. One that is more than that (it
// waits for events, ramps up, restarts servers) implements runner, too; it may call load.Run itself.
// What it measures besides latency goes into Run.Figures, .Kinds and .Series by report, which is
// called when the measured part is over, before verify. Figures of which more is better have names
// that say so: see higherIsBetter.
//
// The file's test runs it against the fake store: once against a good one, once for every fault that
// it has to notice. A workload that nothing can fail is not finished.
package bench
