// Package replicatest has what tests of a range share: a store in memory that keeps mvcc's contract, and
// short ways to write requests and to render their answers.
package replicatest
