package etcdapi

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestServedByLearners: recipes ask for keys, which a learner does not serve; what is not etcd's goes by its own rules.
func TestServedByLearners(t *testing.T) {
	for method, want := range map[string]bool{
		"/v3lockpb.Lock/Lock": false, "/v3electionpb.Election/Observe": false, "/etcdserverpb.KV/Put": false, "/grpc.health.v1.Health/Check": false,
		"/etcdserverpb.Maintenance/Status": true, "/pontoon.Routing/Discover": true,
	} {
		if got := servedByLearners(method, nil); got != want {
			t.Errorf("%s: %v", method, got)
		}
	}
	for _, serializable := range []bool{false, true} {
		if got := servedByLearners("/etcdserverpb.KV/Range", &etcdserverpb.RangeRequest{Serializable: serializable}); got != serializable {
			t.Errorf("a range, serializable %v: %v", serializable, got)
		}
	}
}
