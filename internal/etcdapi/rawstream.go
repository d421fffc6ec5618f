package etcdapi

import (
	"context"
	"encoding/binary"
	"reflect"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// This file is what knows gRPC's inside: how messages lie in a stream, and how to hand several of them
// to the connection at once. Where the gRPC that is linked has no such way any more, they are sent one by
// one; everything else is the same.

// messagePrefixBytes is what gRPC puts before each message: a flag and the length.
const messagePrefixBytes = 5

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
