// Command devcluster runs a cluster of three nodes on this machine, to play with: `make run`.
// Ctrl-C, SIGTERM, and even the death of this program stop all of it.
package main
