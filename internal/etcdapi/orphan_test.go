package etcdapi_test

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
)

// TestOrphanStreams: streams that do not ask for a leader end with Unavailable once there has been none for long, but not with "no leader", by which
// a client ends a watch for good; those that began before a short pause, and where nothing is said of orphans, stay.
func TestOrphanStreams(t *testing.T) {
	const patience = 150 * time.Millisecond
	f := start(t, func(c *etcdapi.Config) { c.OrphanStreams = patience })
	conn := f.conn(t)
	for _, watch := range []bool{true, false} {
		f.store.SetLeader(true)
		recv := keptOpen(f.ctx, t, conn, watch)
		eventually(t, func() bool { return f.api.Streams() == 1 })
		f.store.SetLeader(false)
		began := time.Now()
		err := recv()
		if status.Code(err) != codes.Unavailable || errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took < patience*9/10 {
			t.Errorf("ended after %v", took)
		}
		eventually(t, func() bool { return f.api.Streams() == 0 })
	}

	silent := start(t, nil)
	recv := keptOpen(silent.ctx, t, silent.conn(t), true)
	silent.store.SetLeader(false)
	ended := make(chan error, 1)
	go func() { ended <- recv() }()
	select {
	case err := <-ended:
		t.Errorf("a stream that may stay ended with %v", err)
	case <-time.After(3 * patience):
	}
	silent.api.Close()
	<-ended
}
