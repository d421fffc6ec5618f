package etcdapi

import (
	"fmt"
	"net"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

// TestTransportWrite: the gRPC that is linked still takes several messages at once.
func TestTransportWrite(t *testing.T) {
	const messages = 100
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		write := transportWrite(stream.Context())
		if write == nil {
			return fmt.Errorf("a stream of type %T has no such method", grpc.ServerTransportStreamFromContext(stream.Context()))
		}
		var o outbox
		o.begin(testHeader{})
		for i := range messages {
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
		return write(o.take(&outboxPool))
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
	stream, err := etcdserverpb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		r, err := stream.Recv()
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if r.WatchId != int64(i) || len(r.Events) != 2 || len(r.Events[1].Kv.Value) != copiedEventBytesMax+i {
			t.Fatalf("message %d: %v", i, r)
		}
	}
}
