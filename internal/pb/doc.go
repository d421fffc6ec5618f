// Package pb has the wire and log formats of Pontoon: what is in a range's Raft log, what is in the meta
// group's, and what travels between two nodes. There is a .proto file per concern; `make gen` writes types, stubs
// and codecs from them (internal/tools/genpb).
//
// Transport only. Code works on the Go types of its own package and converts at the edge, except that the
// operations of a client are carried unconverted from the gateway to the state machine, because every put passes there.
//
// Field numbers are never reused. Fields that only a later feature sets (splits) exist from the first format on, so
// that a mixed log replays. testdata/golden.txt has the bytes of every message as the first format has them.
//
// Every message is encoded deterministically, in the order of its fields' numbers, with what this version does not
// know at the end. Decoding ends with an error where messages lie too deep within one another, so that no sender ends
// the process. UnmarshalVT keeps no reference to its bytes; UnmarshalVTUnsafe, UnmarshalShared and whatever else says
// so does, and then they must not change any more.
package pb
