// Package quota holds processes that a benchmark starts to a fixed part of a processor each, by control groups (cgroups(7),
// version 1 or 2) of their own, so that a server's work and its clients' do not take processors from one another.
//
// It makes the groups where the hierarchy is mounted and starts processes inside of them. It does not end processes: its
// user does, and the groups go with Close, or as soon as its user's process has ended in whatever way.
package quota
