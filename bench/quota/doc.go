// Package quota holds processes that a benchmark starts to a fixed part of a processor each, or to so many writes to their disk a second,
// by control groups (cgroups(7), version 1 or 2) of their own: a server's work and its clients' do not take processors from one another then,
// and a disk is as slow as is asked for.
//
// It makes the groups where the hierarchy is mounted and starts processes inside of them. It does not end processes: its
// user does, and the groups go with Close, or as soon as its user's process has ended in whatever way.
package quota
