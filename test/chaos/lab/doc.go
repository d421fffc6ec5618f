// Package lab gives processes machines of their own on this one: a network namespace and a mount
// namespace each, joined by a switch that runs in the test program.
//
// The switch owns every packet between two hosts. So it can drop them in one direction, between
// some, at random, late, or at a bounded rate, with nothing but root and /dev/net/tun: neither
// iproute2 nor any module of the kernel's traffic control is used. A host can be given a small
// disk, which can be filled.
//
// Nothing is left behind, however the program ends: namespaces have no name and end with the last
// process in them, and the kernel ends the processes with their parent.
package lab
