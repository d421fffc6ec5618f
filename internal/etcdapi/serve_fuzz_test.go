package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/etcdapi/apitest"
)

// rawCodec sends bytes as they are: messages that no client library would write.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T", v)
	}
	return *b, nil
}
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// methods is the API that clients reach; those with an s take a stream.
var methods = []struct {
	name   string
	stream bool
	seed   proto.Message
}{
	{"KV/Range", false, &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte{0}, Limit: 3, SortOrder: 2, SortTarget: 1, Revision: 2}},
	{"KV/Put", false, &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 9, PrevKv: true}},
	{"KV/DeleteRange", false, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}},
	{"KV/Txn", false, &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{Key: []byte("k"), Target: etcdserverpb.Compare_VALUE, TargetUnion: &etcdserverpb.Compare_Value{Value: []byte("x")}}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte("k")}}}},
	}},
	{"KV/Compact", false, &etcdserverpb.CompactionRequest{Revision: 2, Physical: true}},
	{"KV/RangeStream", true, &etcdserverpb.RangeRequest{Key: []byte("k")}},
	{"Lease/LeaseGrant", false, &etcdserverpb.LeaseGrantRequest{TTL: 5, ID: 9}},
	{"Lease/LeaseRevoke", false, &etcdserverpb.LeaseRevokeRequest{ID: 9}},
	{"Lease/LeaseTimeToLive", false, &etcdserverpb.LeaseTimeToLiveRequest{ID: 9, Keys: true}},
	{"Lease/LeaseLeases", false, &etcdserverpb.LeaseLeasesRequest{}},
	{"Lease/LeaseKeepAlive", true, &etcdserverpb.LeaseKeepAliveRequest{ID: 9}},
	{"Watch/Watch", true, &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte{0}, StartRevision: 1, PrevKv: true, Fragment: true,
			Filters: []etcdserverpb.WatchCreateRequest_FilterType{0, 1}}}}},
	{"Watch/Watch", true, &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: 4}}}},
	{"Watch/Watch", true, &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}}},
	{"Cluster/MemberList", false, &etcdserverpb.MemberListRequest{Linearizable: true}},
	{"Cluster/MemberAdd", false, &etcdserverpb.MemberAddRequest{PeerURLs: []string{"x"}}},
	{"Maintenance/Status", false, &etcdserverpb.StatusRequest{}},
	{"Maintenance/Hash", false, &etcdserverpb.HashRequest{}},
	{"Maintenance/HashKV", false, &etcdserverpb.HashKVRequest{Revision: 1}},
	{"Maintenance/Alarm", false, &etcdserverpb.AlarmRequest{Action: 1, MemberID: 3, Alarm: 1}},
	{"Maintenance/Defragment", false, &etcdserverpb.DefragmentRequest{}},
	{"Maintenance/MoveLeader", false, &etcdserverpb.MoveLeaderRequest{TargetID: 3}},
	{"Maintenance/Downgrade", false, &etcdserverpb.DowngradeRequest{Version: "3.6"}},
	{"Maintenance/Snapshot", true, &etcdserverpb.SnapshotRequest{}},
	{"Auth/Authenticate", false, &etcdserverpb.AuthenticateRequest{Name: "root"}},
}

// FuzzServices sends arbitrary bytes to every method over a real connection. A panic in a handler
// ends the process; every call must be answered, and the store must serve afterwards.
func FuzzServices(f *testing.F) {
	for i, m := range methods {
		b, err := proto.Marshal(m.seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
		f.Add(uint8(i), b[:len(b)/2])
		if len(b) > 0 {
			bad := append([]byte{}, b...)
			bad[len(bad)/2] ^= 0x81
			f.Add(uint8(i), bad)
		}
	}
	_, addr := apitest.New().Serve(f, nil)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		m := methods[int(i)%len(methods)]
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var err error
		if m.stream {
			err = sendOn(ctx, conn, m.name, b)
		} else {
			var out []byte
			err = conn.Invoke(ctx, "/etcdserverpb."+m.name, &b, &out)
		}
		if c := status.Code(err); c == codes.DeadlineExceeded || c == codes.Internal && !malformed(err) {
			t.Fatalf("%s: %v", m.name, err)
		}
	})
}

// malformed: gRPC itself says Internal where a message cannot be decoded.
func malformed(err error) bool {
	return err != nil && len(status.Convert(err).Message()) > 0 && status.Code(err) == codes.Internal &&
		containsAny(status.Convert(err).Message(), "unmarshal", "decod")
}

// sendOn opens a stream, sends the bytes, closes its side and reads until the end. A watch goes on
// after its client has said all that it has to say: that stream is left.
func sendOn(ctx context.Context, conn *grpc.ClientConn, name string, b []byte) error {
	watch := name == "Watch/Watch"
	if watch {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/etcdserverpb."+name)
	if watch && status.Code(err) == codes.DeadlineExceeded {
		return nil // the machine is slow
	}
	if err != nil {
		return err
	}
	n := 1
	if watch || name == "Lease/LeaseKeepAlive" {
		n = 2
	}
	for range n {
		if s.SendMsg(&b) != nil {
			break // the answer says why
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		var out []byte
		switch err := s.RecvMsg(&out); {
		case err == nil:
		case errors.Is(err, io.EOF) || watch && status.Code(err) == codes.DeadlineExceeded:
			return nil
		default:
			return err
		}
	}
}

func containsAny(s string, parts ...string) bool {
	for _, p := range parts {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}
