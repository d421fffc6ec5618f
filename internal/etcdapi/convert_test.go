package etcdapi

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/internal/pb"
)

// TestKeysOnlyNamesNoLease: as etcd 3.7, which answers from its index then.
func TestKeysOnlyNamesNoLease(t *testing.T) {
	kvs := []*pb.KeyValue{{Key: []byte("k"), Value: []byte("v"), Lease: 7, Version: 1}}
	for _, tc := range []struct {
		r     *etcdserverpb.RangeRequest
		value string
		lease int64
	}{
		{&etcdserverpb.RangeRequest{}, "v", 7},
		{&etcdserverpb.RangeRequest{KeysOnly: true}, "", 0},
		{&etcdserverpb.RangeRequest{KeysOnly: true, SortTarget: etcdserverpb.RangeRequest_VALUE}, "", 7},
	} {
		if got := fromRangeKVs(kvs, tc.r)[0]; string(got.Value) != tc.value || got.Lease != tc.lease {
			t.Errorf("%v: %v", tc.r, got)
		}
	}
}
