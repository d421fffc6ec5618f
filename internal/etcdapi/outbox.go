package etcdapi

import (
	"context"
	"encoding/binary"
	"math"
	"reflect"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"pontoon/watchfanout"
)

const (
	// messagePrefixBytes is what gRPC puts before each message: a flag and the length.
	messagePrefixBytes = 5
	// copiedEventBytesMax is up to where the bytes of an event are copied into a response; longer
	// ones are referred to, shared by all watchers that get them.
	copiedEventBytesMax = 1024
	// outboxCopiedMax and outboxBytesMax are when an outbox is full: by what it holds of its own,
	// and by what it refers to, too.
	outboxCopiedMax = 32 << 10
	outboxBytesMax  = 256 << 10
	// outboxKeptMax is the largest buffer that is kept for later.
	outboxKeptMax = 4 * outboxCopiedMax
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
	revision        int64 // the header's; 0: the newest one that this node knows
	created         bool
	canceled        bool
	fragment        bool
	compactRevision int64
	cancelReason    string
}

// outbox gathers responses of a watch stream, so that they go to the connection together: what
// gRPC does for every message it is given costs more than the response to one event. One
// goroutine owns it.
type outbox struct {
	header  Header
	metrics *metrics
	sent    *methodMetrics
	write   func(mem.BufferSlice) error // takes several messages, with prefixes
	send    func(any) error             // takes one, without; used where write is nil

	buf      *[]byte // from outboxPool; nil: nothing is waiting
	refs     []reference
	bytes    int // of refs
	messages int
}

// reference is an event that belongs into the buffer at a place.
type reference struct {
	at int
	ev []byte
}

func newOutbox(api *API, rpc watchRPC) *outbox {
	return &outbox{
		header: api.cfg.Header, metrics: api.metrics, sent: api.metrics.watching(),
		write: transportWrite(rpc.Context()), send: rpc.SendMsg,
	}
}

// transportWrite returns what hands bytes to the connection of a stream; nil if gRPC has no such
// thing any more. Its API sends one message at a time, while the method below takes any bytes of
// a stream; its last parameter, which has a type that cannot be named, is not looked at.
func transportWrite(ctx context.Context) func(mem.BufferSlice) error {
	stream := grpc.ServerTransportStreamFromContext(ctx)
	if stream == nil {
		return nil
	}
	write := reflect.ValueOf(stream).MethodByName("Write")
	if !write.IsValid() {
		return nil
	}
	t := write.Type()
	fits := t.NumIn() == 3 && t.In(0) == reflect.TypeFor[[]byte]() && t.In(1) == reflect.TypeFor[mem.BufferSlice]() &&
		t.In(2).Kind() == reflect.Pointer && t.NumOut() == 1 && t.Out(0) == reflect.TypeFor[error]()
	if !fits {
		return nil
	}
	in := []reflect.Value{reflect.Zero(t.In(0)), {}, reflect.New(t.In(2).Elem())}
	return func(data mem.BufferSlice) error {
		in[1] = reflect.ValueOf(data)
		err, _ := write.Call(in)[0].Interface().(error)
		in[1] = reflect.Value{}
		return err
	}
}

// add appends a response; it sends what is there when that is much.
func (o *outbox) add(h watchHead, events ...[]byte) error {
	if o.buf == nil {
		o.buf = outboxPool.Get(0)
	}
	b := *o.buf
	at := len(b)
	b = append(b, make([]byte, messagePrefixBytes)...)
	b = o.appendHead(b, h)
	size := len(b) - at - messagePrefixBytes
	for _, ev := range events {
		size += eventSize(ev)
	}
	if size > math.MaxInt32 {
		return status.Errorf(codes.ResourceExhausted, "a watch response of %d bytes is longer than a message may be", size)
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
		o.bytes += len(ev)
	}
	*o.buf = b
	o.messages++
	if o.write == nil || len(b) >= outboxCopiedMax || len(b)+o.bytes >= outboxBytesMax {
		return o.flush()
	}
	return nil
}

// flush sends what is there. It blocks while the client does not read.
func (o *outbox) flush() error {
	if o.buf == nil {
		return nil
	}
	data := o.take()
	defer data.Free()
	n, messages := data.Len(), o.messages
	o.messages = 0
	if o.write == nil {
		return o.send(encodedMessage(data.Materialize()[messagePrefixBytes:]))
	}
	if err := o.write(data); err != nil {
		return err
	}
	o.metrics.addBytesOut(n - messages*messagePrefixBytes)
	o.sent.addSent(messages)
	return nil
}

// take empties the outbox.
func (o *outbox) take() mem.BufferSlice {
	data := make(mem.BufferSlice, 0, 1+2*len(o.refs))
	rest, cut := mem.NewBuffer(o.buf, &outboxPool), 0
	for i, r := range o.refs {
		var before mem.Buffer
		before, rest = mem.SplitUnsafe(rest, r.at-cut)
		data = append(data, before, mem.SliceBuffer(r.ev))
		cut = r.at
		o.refs[i] = reference{}
	}
	o.buf, o.refs, o.bytes = nil, o.refs[:0], 0
	return append(data, rest)
}

func (o *outbox) appendHead(b []byte, h watchHead) []byte {
	rev := h.revision
	if rev == 0 {
		rev = o.header.Revision()
	}
	b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
	at := len(b)
	b = append(b, 0) // the length: four numbers take less than 128 bytes
	b = appendUint(b, fieldClusterID, o.header.ClusterID())
	b = appendUint(b, fieldMemberID, o.header.MemberID())
	b = appendUint(b, fieldRevision, uint64(rev))
	b = appendUint(b, fieldRaftTerm, o.header.Term())
	b[at] = byte(len(b) - at - 1)
	b = appendUint(b, fieldWatchID, uint64(h.id))
	b = appendUint(b, fieldCreated, protowire.EncodeBool(h.created))
	b = appendUint(b, fieldCanceled, protowire.EncodeBool(h.canceled))
	b = appendUint(b, fieldCompactRevision, uint64(h.compactRevision))
	if h.cancelReason != "" {
		b = protowire.AppendTag(b, fieldCancelReason, protowire.BytesType)
		b = protowire.AppendString(b, h.cancelReason)
	}
	return appendUint(b, fieldFragment, protowire.EncodeBool(h.fragment))
}

// appendUint leaves out zeros, as proto3 does.
func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func eventSize(ev []byte) int {
	return protowire.SizeTag(fieldEvents) + protowire.SizeBytes(len(ev))
}

// encodedMessage is a message that is encoded already.
type encodedMessage []byte

// Encoded implements encoded.
func (m encodedMessage) Encoded() []byte { return m }

// buffers is a pool of buffers for outboxes.
type buffers struct{ pool sync.Pool }

var outboxPool buffers

// Get returns an empty buffer, whatever the length.
func (p *buffers) Get(int) *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, outboxCopiedMax/2)
	return &b
}

// Put takes back a buffer that nobody refers to any more.
func (p *buffers) Put(b *[]byte) {
	if cap(*b) <= outboxKeptMax {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}

// encodeEvent returns the wire form of an event, made once for all watchers that get it.
func encodeEvent(e *watchfanout.Event, prev bool) ([]byte, error) {
	variant := watchfanout.EncodedPlain
	if prev && e.Prev != nil {
		variant = watchfanout.EncodedPrev
	}
	var err error
	b := e.Encoded(variant, func() []byte {
		var out []byte
		out, err = marshalEvent(e, variant)
		return out
	})
	return b, err
}
