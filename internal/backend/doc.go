// Package backend is what a front serves clients from: a host in the same process, or nodes elsewhere.
//
// It owns the interfaces between the two, the view of the cluster that both share (Cluster), and the
// backend of a process that holds no data (Remote): the same calls, with nothing at hand.
//
// It does not know how data is held, nor how clients are served. Whoever composes a process hands a Backend
// to a front; nothing of it is nil and nothing is given later.
package backend
