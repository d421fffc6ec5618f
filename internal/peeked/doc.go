// Package peeked has connections of which the beginning was read before it was known who serves them, and the way in which gRPC reads a
// connection without holding a buffer while there is nothing to read.
//
// gRPC's transport takes its read buffer, of 32 KiB, from a pool when a connection has become readable, and gives it back once that is read. It
// does so with a bare socket, and with whatever has the method ReadOnReady; with any other connection each holds a buffer for as long as
// it lives. So every wrapper that a connection passes through on its way to gRPC has that method, by way of ReaderOf.
package peeked
