package etcdapi

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"pontoon/internal/pb"
)

const (
	// copiedEventBytesMax is up to where the bytes of an event are copied into a response; longer
	// ones are referred to, shared by all watchers that get them.
	copiedEventBytesMax = 1024
	// responseCopiedMax and responseBytesMax are when a response buffer is full: by what it holds of its own,
	// and by what it refers to, too.
	responseCopiedMax = 32 << 10
	responseBytesMax  = 256 << 10
)

// Fields of a WatchResponse and its header on the wire.
const (
	fieldHeader          protowire.Number = 1
	fieldWatchID         protowire.Number = 2
	fieldCreated         protowire.Number = 3
	fieldCanceled        protowire.Number = 4
	fieldCompactRevision protowire.Number = 5
	fieldCancelReason    protowire.Number = 6
	fieldFragment        protowire.Number = 7
	fieldEvents          protowire.Number = 11

	fieldClusterID protowire.Number = 1
	fieldMemberID  protowire.Number = 2
	fieldRevision  protowire.Number = 3
	fieldRaftTerm  protowire.Number = 4
)

// watchHead is a WatchResponse without its events.
type watchHead struct {
	id              int64
	revision        int64 // the header's; 0: the newest one that this node knows, -1: none
	created         bool
	canceled        bool
	fragment        bool
	compactRevision int64
	cancelReason    string
}

// responseBuffer gathers responses of a watch stream, so that they go to the connection together: what
// gRPC does for every message it is given costs more than the response to one event.
type responseBuffer struct {
	header      Header
	front, back []byte // of a header, encoded: what is before the revision, and behind it

	buf      []byte // messages with their prefixes
	refs     []reference
	refBytes int
	messages int
}

// reference is an event that belongs into the buffer at a place.
type reference struct {
	at int
	ev []byte
}

// begin makes an empty response buffer ready.
func (o *responseBuffer) begin(h Header) {
	o.header = h
	o.front = pb.AppendUint(pb.AppendUint(o.front[:0], fieldClusterID, h.ClusterID()), fieldMemberID, h.MemberID())
	o.back = pb.AppendUint(o.back[:0], fieldRaftTerm, h.Term())
}

// reset empties it.
func (o *responseBuffer) reset() {
	clear(o.refs)
	if cap(o.buf) > bufferSizes[len(bufferSizes)-1] {
		o.buf = nil
	}
	o.buf, o.refs, o.refBytes, o.messages = o.buf[:0], o.refs[:0], 0, 0
}

// size is what is in it.
func (o *responseBuffer) size() int { return len(o.buf) + o.refBytes }

// full reports whether it should be sent first.
func (o *responseBuffer) full() bool {
	return len(o.buf) >= responseCopiedMax || o.size() >= responseBytesMax
}

// add appends a response.
func (o *responseBuffer) add(h watchHead, events ...[]byte) error {
	at := len(o.buf)
	b := append(o.buf, make([]byte, messagePrefixBytes)...)
	b = o.appendHead(b, h)
	size := len(b) - at - messagePrefixBytes
	for _, ev := range events {
		size += eventSize(ev)
	}
	if size > math.MaxInt32 {
		return errResponseTooLong(size)
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(size))
	for _, ev := range events {
		b = protowire.AppendTag(b, fieldEvents, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(ev)))
		if len(ev) <= copiedEventBytesMax {
			b = append(b, ev...)
			continue
		}
		o.refs = append(o.refs, reference{at: len(b), ev: ev})
		o.refBytes += len(ev)
	}
	o.buf = b
	o.messages++
	return nil
}

func (o *responseBuffer) appendHead(b []byte, h watchHead) []byte {
	rev := max(h.revision, 0)
	if h.revision == 0 {
		rev = o.header.Revision()
	}
	b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
	at := len(b)
	b = append(b, 0) // the length: four numbers take less than 128 bytes
	b = append(b, o.front...)
	b = pb.AppendUint(b, fieldRevision, uint64(rev))
	b = append(b, o.back...)
	b[at] = byte(len(b) - at - 1)
	b = pb.AppendUint(b, fieldWatchID, uint64(h.id))
	b = pb.AppendUint(b, fieldCreated, protowire.EncodeBool(h.created))
	b = pb.AppendUint(b, fieldCanceled, protowire.EncodeBool(h.canceled))
	b = pb.AppendUint(b, fieldCompactRevision, uint64(h.compactRevision))
	if h.cancelReason != "" {
		b = protowire.AppendTag(b, fieldCancelReason, protowire.BytesType)
		b = protowire.AppendString(b, h.cancelReason)
	}
	return pb.AppendUint(b, fieldFragment, protowire.EncodeBool(h.fragment))
}

// take returns a copy of what is in the response buffer. pool gets back its buffer when nobody refers to any
// part of it any more.
func (o *responseBuffer) take(pool mem.BufferPool) mem.BufferSlice {
	buf := pool.Get(len(o.buf))
	copy(*buf, o.buf)
	data := make(mem.BufferSlice, 0, 1+2*len(o.refs))
	rest, cut := mem.NewBuffer(buf, pool), 0
	for _, r := range o.refs {
		var before mem.Buffer
		before, rest = mem.SplitUnsafe(rest, r.at-cut)
		data = append(data, before, mem.SliceBuffer(r.ev))
		cut = r.at
	}
	return append(data, rest)
}

// eventSize is what an encoded event takes in a response.
func eventSize(ev []byte) int {
	return protowire.SizeTag(fieldEvents) + protowire.SizeBytes(len(ev))
}

// buffers is a pool of buffers for what leaves a response buffer.
type buffers [len(bufferSizes)]sync.Pool

// bufferSizes are those of the buffers in the pool. gRPC gives back none that is below 1 KiB. A full response buffer takes
// responseCopiedMax and a little more.
var bufferSizes = [...]int{2 << 10, 8 << 10, 16 << 10, 32 << 10, responseCopiedMax + joinedBytesMax, 64 << 10, 128 << 10}

var responsePool buffers

// Get returns a buffer of n bytes.
func (p *buffers) Get(n int) *[]byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if b, ok := p[i].Get().(*[]byte); ok {
			*b = (*b)[:n]
			return b
		}
		b := make([]byte, n, size)
		return &b
	}
	b := make([]byte, n)
	return &b
}

// Put takes back a buffer that nobody refers to any more.
func (p *buffers) Put(b *[]byte) {
	if i := slices.Index(bufferSizes[:], cap(*b)); i >= 0 {
		p[i].Put(b)
	}
}
