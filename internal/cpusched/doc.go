// Package cpusched asks the operating system to treat the process as one that works in batches.
//
// A node hands messages from thread to thread and from process to process. Where threads outnumber
// processors, the system lets each one that wakes take the processor from the one that woke it, so that
// a message leaves before a second one could join it. As a batch process a node gets as much time as
// before, but in fewer pieces (docs/decisions/0018). Relax, which only an operator's flag calls, lets timers wake
// it less often (0022).
package cpusched
