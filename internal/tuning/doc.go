// Package tuning is where a node adapts to the machine that it runs on: everything that it asks of the operating system and of Go's
// runtime for speed alone, under one switch, --tuning=auto|off.
//
// A node hands messages from thread to thread and from process to process. Where threads outnumber processors, the system
// lets each one that wakes take the processor from the one that woke it, so that a message leaves before a second one
// could join it. As a batch process a node gets as much time as before, but in fewer pieces (docs/decisions/0018). Package
// heap below lets it collect garbage less often, package linger lets writes wait for company where processors are
// short (0021). Relax, which only an operator's flag calls, lets timers wake the node less often (0022).
//
// Nothing here changes what a node promises, and each part does nothing where the system refuses it. Package processors is the only
// one that looks at processors and their load, so that a container's limit counts wherever they matter.
package tuning
