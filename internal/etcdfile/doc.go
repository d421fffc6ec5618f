// Package etcdfile writes and reads the file in which etcd keeps its state, and which its snapshots are: a bbolt database of ten buckets
// (docs/format/etcdfile.md).
//
// It owns the form of that file: rows of the key bucket, the other buckets, the checksum behind a snapshot. It knows nothing of ranges, of
// revisions being handed out, or of how a snapshot is agreed on.
//
// A Writer takes rows in ascending order and is bbolt with settings that suit a file which is written once. A File is read page by page, without
// bbolt and without mapping it: whatever a file holds, reading it ends with what it says or with an error.
package etcdfile
