package e2e

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/test/e2e/harness"
)

// TestOrphanStreams: a gateway that has lost the cluster keeps no stream open in silence: those that require a leader end as etcd's do, the others a while later, and it says that
// it is not ready; a watcher goes on once the cluster is back.
func TestOrphanStreams(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(2*time.Minute))
	const patience = 5 * time.Second
	g := startGateway(t, c, "g1", "--orphan-streams=5s")
	recv := standingWatch(ctx, t, etcdserverpb.NewWatchClient(bareConn(t, g)))
	cl := newClient(t, c, g.ClientURL)
	requires := cl.Watch(clientv3.WithRequireLeader(ctx), "paced", clientv3.WithCreatedNotify())
	goesOn := newClient(t, c, g.ClientURL).Watch(ctx, "paced", clientv3.WithCreatedNotify())
	for _, ch := range []clientv3.WatchChan{requires, goesOn} {
		if r := <-ch; !r.Created {
			t.Fatalf("%+v", r)
		}
	}
	if err := c.KillAll(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	select {
	case r := <-requires:
		if !errors.Is(r.Err(), rpctypes.ErrNoLeader) {
			t.Errorf("one that requires a leader: %v", r.Err())
		}
		t.Logf("one that requires a leader ended after %v", time.Since(began))
	case <-ctx.Done():
		t.Fatal("one that requires a leader stays")
	}
	err := recv()
	took := time.Since(began)
	if status.Code(err) != codes.Unavailable || errors.Is(rpctypes.Error(err), rpctypes.ErrNoLeader) || took < patience || took > limit(2*patience) {
		t.Errorf("one that does not ended with %v after %v", err, took)
	}
	t.Logf("one that does not ended after %v", took)
	if code, body, err := httpGet(ctx, g.ClientURL+"/readyz"); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d %s, %v", code, body, err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(30*time.Second), "the gateway serves again", func() error {
		_, err := cl.Put(ctx, "paced", "again")
		return err
	})
	r := <-goesOn
	if r.Err() != nil || len(r.Events) == 0 || string(r.Events[0].Kv.Value) != "again" {
		t.Errorf("the watcher goes on with %+v", r)
	}
}
