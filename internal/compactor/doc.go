// Package compactor compacts the store by itself, on etcd's schedule: up to what was current a while ago, or up to so many
// revisions below what is current.
//
// It owns: when a compaction is due and at which revision. It does not own what a compaction does, nor who leads.
//
// Every node runs one and samples the current revision, so that whoever comes to lead has the past of the whole retention; the leader
// alone compacts. A sample that is too old, because nobody could be asked, lets more history stay and never less.
package compactor
