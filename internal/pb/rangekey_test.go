package pb_test

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"pontoon/internal/pb"
)

// TestAppendRangeKey: etcd's own code reads from it what went in.
func TestAppendRangeKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 7}}
		var encoded []byte
		for range rapid.IntRange(0, 4).Draw(t, "keys") {
			kv := &pb.KeyValue{
				Key: rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "key"), Value: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"),
				CreateRevision: rapid.Int64().Draw(t, "create"), ModRevision: rapid.Int64().Draw(t, "mod"),
				Version: rapid.Int64().Draw(t, "version"), Lease: rapid.Int64().Draw(t, "lease"),
			}
			encoded = pb.AppendRangeKey(encoded, kv)
			want.Kvs = append(want.Kvs, &mvccpb.KeyValue{Key: kv.Key, Value: kv.Value, Lease: kv.Lease,
				CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version})
		}
		head, err := proto.Marshal(&etcdserverpb.RangeResponse{Header: want.Header})
		if err != nil {
			t.Fatal(err)
		}
		got := &etcdserverpb.RangeResponse{}
		if err := proto.Unmarshal(append(head, encoded...), got); err != nil {
			t.Fatal(err)
		}
		for i := range want.Kvs { // an empty value is not told from none
			if len(want.Kvs[i].Value) == 0 {
				want.Kvs[i].Value = nil
			}
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}
