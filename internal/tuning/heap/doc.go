// Package heap sets how far the heap of a process may grow between two garbage collections, and gives
// memory back to the system when a load has ended.
//
// Go collects when the heap has grown by GOGC percent of what is alive. A node that holds little
// and serves much then collects several times a second, and pays for it more than for anything of
// its own. Here the heap may grow by what is allocated in two seconds, up to a bound in bytes, and in any case
// by as much as a collection has to go through: then it pays. Go's default rule would also count what is
// alive and holds no pointers, which costs a collection nothing: values, and bbolt's tables of pages. So a
// busy process collects seldom, and one with little to do stays small, whatever it holds. Where a load has ended, what it has left behind is collected and
// given back.
//
// It owns the garbage collector's percentage while it is kept, unless GOGC is in the environment:
// then the operator has decided. A memory limit (GOMEMLIMIT) is obeyed by the runtime in any case.
package heap
