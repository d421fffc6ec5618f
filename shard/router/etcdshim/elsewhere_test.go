package etcdshim

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

// TestElsewhere: a write that may have been applied is never sent again, although its error reads like
// that of one which certainly was not.
func TestElsewhere(t *testing.T) {
	for _, tc := range []struct {
		fail         error
		text         error
		write, reads bool
	}{
		{shard.ErrTimeout, rpctypes.ErrGRPCTimeout, true, true},
		{shard.ErrAmbiguousTimeout, rpctypes.ErrGRPCTimeout, false, true},
		{fmt.Errorf("%w: %w", shard.ErrAmbiguousConnection, shard.ErrStopped), rpctypes.ErrGRPCTimeoutDueToConnectionLost, false, true},
		{shard.ErrAmbiguous, rpctypes.ErrGRPCTimeoutDueToLeaderFail, false, true},
		{shard.ErrUnavailable, rpctypes.ErrGRPCNoLeader, true, true},
		{shard.ErrLeaseNotFound, rpctypes.ErrGRPCLeaseNotFound, false, false},
	} {
		s := apitest.New()
		s.Fail = func(string) error { return tc.fail }
		kv, err := etcdapi.NewKV(s.Config())
		if err != nil {
			t.Fatal(err)
		}
		_, err = kv.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("a")})
		if status.Code(err) != status.Code(tc.text) || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(tc.text) {
			t.Errorf("%v: answered %v, want %v", tc.fail, err, tc.text)
		}
		if w, r := elsewhere(t.Context(), err, false), elsewhere(t.Context(), err, true); w != tc.write || r != tc.reads {
			t.Errorf("%v: a write goes elsewhere: %v, a read: %v", tc.fail, w, r)
		}
		if got := errors.Is(err, rpctypes.ErrGRPCTimeout); got != (tc.fail == shard.ErrTimeout) {
			t.Errorf("%v: passes for one that was not sent: %v", tc.fail, got)
		}
	}
}
