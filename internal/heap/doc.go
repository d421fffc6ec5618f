// Package heap sets how far the heap of a process may grow between two garbage collections, and gives
// memory back to the system when a load has ended.
//
// Go collects when the heap has grown by GOGC percent of what is alive. A node that holds little
// and serves much then collects several times a second, and pays for it more than for anything of
// its own. Here the heap may grow by what is allocated in two seconds, up to a bound in bytes; above it,
// Go's default rule counts. So a busy process collects seldom, and one with little to do stays small.
//
// It owns the garbage collector's percentage while it is kept, unless GOGC is in the environment:
// then the operator has decided. A memory limit (GOMEMLIMIT) is obeyed by the runtime in any case.
package heap
