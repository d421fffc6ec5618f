package etcdapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"reflect"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// This file is what knows gRPC's inside: how messages lie in a stream, and how to hand several of them
// to the connection at once. Where the gRPC that is linked has no such way any more, they are sent one by
// one; everything else is the same.

// messagePrefixBytes is what gRPC puts before each message: a flag and the length.
const messagePrefixBytes = 5

// compressedFlag is the flag of a message that is compressed.
const compressedFlag = 1

// messageWriter hands messages with their prefixes to the connection of a stream. It does not block, if
// what it was given before has been freed, which happens when the connection has taken it. The caller
// frees data after the call. failed gets an error that arises later.
type messageWriter func(data mem.BufferSlice, messages int, failed func(error)) error

// newMessageWriter returns the fastest writer that there is.
func newMessageWriter(rpc grpc.ServerStream, m *metrics) messageWriter {
	write := transportWrite(rpc.Context())
	if write == nil {
		return writeOneByOne(rpc)
	}
	return func(data mem.BufferSlice, messages int, _ func(error)) error {
		n := data.Len()
		if err := write(data); err != nil {
			return err
		}
		m.addBytesOut(n - messages*messagePrefixBytes)
		m.addWatchResponses(messages)
		return nil
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

// connectionStream is what gRPC's stream has beside its API: it reads a message's prefix and its bytes, and ends with a status that any goroutine may write;
// what reads returns then, with the stream's context.
type connectionStream interface {
	ReadMessageHeader(head []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(st *status.Status) error
}

// requestSource is where a watch stream's requests come from. RecvMsg would take three times as much of a stack, and a goroutine beside it that waits for
// what else ends a stream.
type requestSource struct {
	ctx      context.Context // done when the stream is
	rpc      watchRPC
	stream   connectionStream // nil: gRPC has none any more
	cancel   func()           // in its place
	bytesMax int
	metrics  *metrics
	head     [messagePrefixBytes]byte
}

func newRequestSource(api *API, rpc watchRPC) requestSource {
	s := requestSource{ctx: rpc.Context(), rpc: rpc, bytesMax: api.MessageBytesMax(), metrics: api.metrics}
	s.stream, _ = grpc.ServerTransportStreamFromContext(s.ctx).(connectionStream)
	if s.stream == nil {
		s.ctx, s.cancel = context.WithCancel(s.ctx)
	}
	return s
}

// interruptible reports whether end has who reads return.
func (s *requestSource) interruptible() bool { return s.stream != nil }

// close is called when the handler returns.
func (s *requestSource) close() {
	if s.cancel != nil {
		s.cancel()
	}
}

// end ends the stream: the client is told why, or will be when the handler has returned, which waits for the context.
func (s *requestSource) end(err error) {
	if s.stream == nil {
		s.cancel()
		return
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	_ = s.stream.WriteStatus(st) // the connection is gone, and with it the stream
}

// bare reports whether next can be used: not where a client compresses.
func (s *requestSource) bare() bool {
	if s.stream == nil {
		return false
	}
	c := s.stream.RecvCompress()
	return c == "" || c == encoding.Identity
}

// next waits for a message, which is to be freed. The errors are RecvMsg's.
func (s *requestSource) next() (mem.BufferSlice, error) {
	if err := s.stream.ReadMessageHeader(s.head[:]); err != nil {
		return nil, errReceive(err)
	}
	if err := s.refuse(); err != nil {
		return nil, err
	}
	data, err := s.stream.Read(int(binary.BigEndian.Uint32(s.head[1:])))
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, errReceive(err)
	}
	s.metrics.addWatchRequest(data.Len())
	return data, nil
}

// refuse judges a message by its prefix.
func (s *requestSource) refuse() error {
	switch n := binary.BigEndian.Uint32(s.head[1:]); {
	case int64(n) > int64(s.bytesMax):
		return errRequestTooLong(n, s.bytesMax)
	case s.head[0] == compressedFlag:
		return errCompressed
	case s.head[0] != 0:
		return errPayloadFormat(s.head[0])
	}
	return nil
}

// message is one that is encoded already.
type message []byte

// Encoded is for the codec.
func (m message) Encoded() []byte { return m }

// writeOneByOne returns a writer that only uses gRPC's API, whose SendMsg blocks while the client does
// not read: it is waited for on a goroutine of its own, of which a stream has one at most. It ends with
// the stream's context at the latest.
func writeOneByOne(rpc grpc.ServerStream) messageWriter {
	return func(data mem.BufferSlice, messages int, failed func(error)) error {
		data.Ref()
		go func() {
			defer data.Free()
			for _, m := range splitMessages(data, messages) {
				if err := rpc.SendMsg(m); err != nil {
					failed(err)
					return
				}
			}
		}()
		return nil
	}
}

// splitMessages copies messages out of data, without their prefixes.
func splitMessages(data mem.BufferSlice, messages int) []message {
	b := data.Materialize()
	out := make([]message, 0, messages)
	for len(b) >= messagePrefixBytes {
		end := messagePrefixBytes + int(binary.BigEndian.Uint32(b[1:]))
		out = append(out, message(b[messagePrefixBytes:end]))
		b = b[end:]
	}
	return out
}
