// Package server composes a process of its parts: a node is a host, which holds data, and a front, which serves
// clients over it.
//
// It owns the order: parts are opened one after the other, run beside one another, and stop in the reverse
// order, gently where that helps others. It knows nothing else: what a part does is the part's.
package server
