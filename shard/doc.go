// Package shard holds the nouns of Pontoon: ids, spans, descriptors, the versioned
// range map, keys and their changes, and the errors that one part of the system tells another.
//
// It owns names and pure functions over them. It knows nothing else of ours, no
// Raft, no storage and no network, so that everything may import it.
package shard
