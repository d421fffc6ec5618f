// Package raftlog is the shared, durable Raft log of a node: raftgroup.Log on Pebble.
//
// It owns the layout of the log (docs/format/raftlog.md) and a cache of recent entries, so that
// appending and applying read nothing from Pebble. It does not know what an entry means, nor
// when to truncate.
//
// The caller opens one store per node, calls Save from one goroutine at a time, and closes the
// store after the host. After Save has failed the store must not be used any more: what reached
// the disk is unknown. Options.OnFatal hears of failures in the background as well.
package raftlog
