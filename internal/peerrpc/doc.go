// Package peerrpc carries calls and links, which bring feeds, between nodes.
//
// A Mesh owns one stream of calls per pair of nodes and direction: requests that wait while
// the stream is busy travel in one frame, and so do answers. It bounds what is outstanding,
// notices peers that have gone silent, and says of every call that failed whether it may have
// been executed:
//
//   - shard.ErrUnavailable, shard.ErrTooManyRequests, shard.ErrTimeout: never sent.
//   - shard.ErrAmbiguous: sent, and no answer will come.
//   - any other error: the answer of the far side.
//
// It does not know what a call means, never repeats one, and routes nothing. A call to the
// node itself goes straight to the handler, unencoded.
//
// Callbacks and handlers must not block: they run on the goroutine that receives for everybody.
package peerrpc
