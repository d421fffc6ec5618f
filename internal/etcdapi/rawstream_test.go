package etcdapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// rawCodec hands out messages as they came.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// plainStream is a stream of a gRPC that has nothing but its API.
type plainStream struct{ grpc.ServerStream }

func (s plainStream) Context() context.Context { return hidden{s.ServerStream.Context()} }

type hidden struct{ context.Context }

func (h hidden) Value(key any) any {
	v := h.Context.Value(key)
	if _, ok := v.(grpc.ServerTransportStream); ok {
		return nil
	}
	return v
}

// poolFunc hears when a buffer is free.
type poolFunc func()

func (poolFunc) Get(n int) *[]byte { return responsePool.Get(n) }
func (f poolFunc) Put(b *[]byte)   { responsePool.Put(b); f() }

const rawMessages = 100

// fill makes responses with events that are copied, and some that are referred to.
func fill(o *responseBuffer) error {
	o.begin(testHeader{})
	for i := range rawMessages {
		short, err := proto.Marshal(&mvccpb.Event{Kv: &mvccpb.KeyValue{Value: make([]byte, i)}})
		if err != nil {
			return err
		}
		long, err := proto.Marshal(&mvccpb.Event{Kv: &mvccpb.KeyValue{Value: make([]byte, copiedEventBytesMax+i)}})
		if err != nil {
			return err
		}
		if err := o.add(watchHead{id: int64(i)}, short, long); err != nil {
			return err
		}
	}
	return nil
}

// TestMessageWriters: the gRPC that is linked still takes several messages at once, and one that did not would
// send the same.
func TestMessageWriters(t *testing.T) {
	together := receive(t, func(s grpc.ServerStream) grpc.ServerStream {
		if transportWrite(s.Context()) == nil {
			t.Errorf("a stream of type %T takes one message at a time", grpc.ServerTransportStreamFromContext(s.Context()))
		}
		return s
	})
	single := receive(t, func(s grpc.ServerStream) grpc.ServerStream {
		if p := (plainStream{s}); transportWrite(p.Context()) == nil {
			return p
		}
		t.Error("the stream is not plain")
		return s
	})
	if len(together) != rawMessages || !slices.EqualFunc(together, single, bytes.Equal) {
		t.Errorf("%d messages together, %d one by one, and not the same", len(together), len(single))
	}
	for i, b := range together {
		r := &etcdserverpb.WatchResponse{}
		if err := proto.Unmarshal(b, r); err != nil || r.WatchId != int64(i) || len(r.Events) != 2 || len(r.Events[1].Kv.Value) != copiedEventBytesMax+i {
			t.Fatalf("message %d: %v, %v", i, r, err)
		}
	}
}

// receive returns what a client gets of a stream on which everything is written at once.
func receive(t *testing.T, as func(grpc.ServerStream) grpc.ServerStream) (got [][]byte) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(newCodec(nil)), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var o responseBuffer
		if err := fill(&o); err != nil {
			return err
		}
		free, failed := make(chan struct{}), make(chan error, 1)
		data := o.take(poolFunc(func() { close(free) }))
		err := newMessageWriter(as(stream), nil)(data, o.messages, func(err error) { failed <- err })
		data.Free()
		if err != nil {
			return err
		}
		select {
		case <-free:
			return nil
		case err := <-failed:
			return fmt.Errorf("later: %w", err)
		}
	}))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	defer func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(t.Context(), desc, "/any/thing", grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	for {
		var b []byte
		switch err := stream.RecvMsg(&b); err {
		case nil:
			got = append(got, b)
		case io.EOF:
			return got
		default:
			t.Fatal(err)
		}
	}
}
