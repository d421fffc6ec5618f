package router

import (
	"errors"
	"sync"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// fencedRead is the first thing that a range's leader is asked for a linearizable read: a fence at the
// oracle's revision, which carries the read of a page. It is one piece of memory.
type fencedRead struct {
	req   pb.PeerRequest
	fence pb.FenceRequest
	read  pb.ReadRequest
	span  pb.Span
}

// fencedReads are reused by reads of one key. A request to another node has been encoded when the call returns.
var fencedReads = sync.Pool{New: func() any { return new(fencedRead) }}

// errNoRead is an answer that breaks the protocol.
var errNoRead = errors.New("router: a fence was answered without its read")

// request asks for the keys of span at rev, fenced in epoch. What bounds the page stands in read, and is
// the caller's to set.
func (f *fencedRead) request(id shard.RangeID, gen shard.Generation, span shard.Span, rev int64, epoch shard.Epoch) *pb.PeerRequest {
	f.span.Start, f.span.End = span.Start, span.End
	f.read.RangeId, f.read.Generation, f.read.Span, f.read.Revision = uint64(id), uint64(gen), &f.span, rev
	f.fence.RangeId, f.fence.Generation, f.fence.Span, f.fence.Read = uint64(id), uint64(gen), &f.span, &f.read
	f.fence.Revision, f.fence.Epoch = rev, uint64(epoch)
	f.req.Fence = &f.fence
	return &f.req
}
