// Package export makes a file of etcd's from the whole store, however many ranges it is cut into, while everything goes on: what a snapshot is.
//
// It owns the files that are made for that, below a directory of its own, and how many are made at a time. Where the cut through all ranges comes from
// is the router's business, and how the file looks etcdfile's. A file is whole before a client gets the first byte of it.
//
// Memory is bounded whatever the store's size: a run of the sorter, a transaction of the file, a few pages.
package export
