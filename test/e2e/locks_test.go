package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"pontoon/test/e2e/harness"
)

// TestLockService: many callers at all nodes have a lock one after the other, and each finds what the one before has left.
func TestLockService(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(60*time.Second))
	clients := make([]*clientv3.Client, len(c.Nodes))
	for i, n := range c.Nodes {
		clients[i] = newClient(t, c, n.ClientURL)
	}
	const callers, turns = 12, 3
	var wg sync.WaitGroup
	for i := range callers {
		cl := clients[i%len(clients)]
		locks := v3lockpb.NewLockClient(cl.ActiveConnection())
		wg.Go(func() {
			for range turns {
				if err := oneTurn(ctx, locks, cl); err != nil {
					t.Errorf("caller %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	resp, err := clients[0].Get(ctx, "k/turns")
	if err != nil || string(resp.Kvs[0].Value) != strings.Repeat("x", callers*turns) {
		t.Errorf("the callers have left %v, %v", resp, err)
	}
}

// oneTurn adds a letter to what is written down, while it has the lock: without that some would be lost.
func oneTurn(ctx context.Context, locks v3lockpb.LockClient, cl *clientv3.Client) error {
	got, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("/order/lock")})
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	resp, err := cl.Get(ctx, "k/turns")
	if err != nil {
		return err
	}
	before := ""
	if len(resp.Kvs) > 0 {
		before = string(resp.Kvs[0].Value)
	}
	if _, err := cl.Put(ctx, "k/turns", before+"x"); err != nil {
		return err
	}
	if _, err := locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: got.Key}); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// TestElectionService: who was elected at one node is known at another, and succeeded when it resigns or its lease ends.
func TestElectionService(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, limit(60*time.Second))
	cl, other := newClient(t, c, c.Nodes[0].ClientURL), newClient(t, c, c.Nodes[1].ClientURL)
	here, there := v3electionpb.NewElectionClient(cl.ActiveConnection()), v3electionpb.NewElectionClient(other.ActiveConnection())
	name := []byte("/page/07/election")
	seen, err := there.Observe(ctx, &v3electionpb.LeaderRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	first, err := here.Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Value: []byte("first")})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := other.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	var mu sync.Mutex
	won := make(chan error, 1)
	go func() {
		_, err := there.Campaign(ctx, &v3electionpb.CampaignRequest{Name: name, Value: []byte("second"), Lease: int64(lease.ID)})
		mu.Lock()
		order = append(order, "won")
		mu.Unlock()
		won <- err
	}()
	for last := ""; last != "first"; {
		last = observed(t, seen)
	}
	mu.Lock()
	order = append(order, "resigns")
	mu.Unlock()
	if _, err := here.Resign(ctx, &v3electionpb.ResignRequest{Leader: first.Leader}); err != nil {
		t.Fatal(err)
	}
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []string{"resigns", "won"}) {
		t.Errorf("%q", order)
	}
	for last := ""; last != "second"; {
		last = observed(t, seen)
	}
	if _, err := cl.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	if l, err := here.Leader(ctx, &v3electionpb.LeaderRequest{Name: name}); err == nil || !strings.Contains(err.Error(), "election: no leader") {
		t.Errorf("leader %v, %v", l, err)
	}
}

func observed(t *testing.T, seen v3electionpb.Election_ObserveClient) string {
	t.Helper()
	r, err := seen.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Kv.Value)
}

// TestLocksAsJSON: the recipes are there for curl too.
func TestLocksAsJSON(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1})
	n := c.Nodes[0]
	status, locked := jsonCall(t, n, "/v3/lock/lock", `{"name":"`+inBase64("l")+`"}`)
	key, _ := field(locked, "key").(string)
	if status != "200" || key == "" {
		t.Fatalf("lock: %s, %v", status, locked)
	}
	if status, unlocked := jsonCall(t, n, "/v3/lock/unlock", `{"key":"`+key+`"}`); status != "200" || field(unlocked, "header", "revision") != "3" {
		t.Errorf("unlock: %s, %v", status, unlocked)
	}
	if status, none := jsonCall(t, n, "/v3/election/leader", `{"name":"`+inBase64("e")+`"}`); status != "500" || field(none, "code") != 2.0 || field(none, "message") != "election: no leader" {
		t.Errorf("leader: %s, %v", status, none)
	}
	_, won := jsonCall(t, n, "/v3/election/campaign", `{"name":"`+inBase64("e")+`","value":"`+inBase64("one")+`"}`)
	leader, _ := field(won, "leader", "key").(string)
	if leader == "" {
		t.Fatalf("campaign: %v", won)
	}
	if seen := jsonStream(t, n, "/v3/election/observe", `{"name":"`+inBase64("e")+`"}`)(); field(seen, "result", "kv", "value") != inBase64("one") {
		t.Errorf("observed: %v", seen)
	}
	if status, refused := jsonCall(t, n, "/v3/election/proclaim", `{"value":"`+inBase64("two")+`"}`); status != "500" || field(refused, "message") != `"leader" field must be provided` {
		t.Errorf("proclaim: %s, %v", status, refused)
	}
	body := fmt.Sprintf(`{"leader":{"name":%q,"key":%q,"rev":%q,"lease":%q}}`, inBase64("e"), leader, field(won, "leader", "rev"), field(won, "leader", "lease"))
	if status, resigned := jsonCall(t, n, "/v3/election/resign", body); status != "200" {
		t.Errorf("resign: %s, %v", status, resigned)
	}
}
