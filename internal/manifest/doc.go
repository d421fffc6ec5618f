// Package manifest is what a restore leaves in a data directory for a node's first start: a database of etcd's, and who the node is to be.
//
// It owns that directory's form, and the check of whether a database can be held at all. It does not know how a node begins with it.
package manifest
