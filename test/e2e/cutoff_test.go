package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"pontoon/test/chaos/lab"
	"pontoon/test/e2e/harness"
)

// apart is a cluster each node of which has a host of its own, as its clients have: wires between them can be cut.
type apart struct {
	*harness.Cluster
	lab *lab.Lab
}

// newApart starts a cluster; spare is how many more hosts there are, for nodes that come later. Where hosts cannot be had the test is skipped.
func newApart(t *testing.T, o harness.Options, spare int) *apart {
	t.Helper()
	if err := lab.Available(); err != nil {
		t.Skip(err)
	}
	l, err := lab.New(o.Nodes + spare + 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	for _, h := range l.Hosts[:o.Nodes] {
		o.Places = append(o.Places, harness.Place{IP: h.String(), Do: h.Do})
	}
	return &apart{newCluster(t, o), l}
}

// dial reaches a node from where clients are.
func (a *apart) dial(ctx context.Context, address string) (net.Conn, error) {
	return a.lab.Hosts[len(a.lab.Hosts)-1].Dial(ctx, strings.TrimPrefix(address, "http://"))
}

func (a *apart) client(t *testing.T, n *harness.Node) *clientv3.Client {
	t.Helper()
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{n.ClientURL}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(a.dial)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() }) // nothing can be lost
	return cl
}

func (a *apart) ops(n *harness.Node) harness.Ops {
	way := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return a.dial(ctx, address) }}
	return harness.Ops{ClientURL: n.ClientURL, HTTP: &http.Client{Transport: way}}
}

// joins adds a node, on the host behind those of the nodes that there are.
func (a *apart) joins(ctx context.Context, t *testing.T, name string, args ...string) *harness.Node {
	t.Helper()
	h := a.lab.Hosts[len(a.Nodes)]
	via := a.client(t, a.Nodes[0])
	n, err := a.AddNodeAt(harness.Place{IP: h.String(), Do: h.Do}, name)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(time.Minute), "a member can be added", func() error {
		_, err := via.MemberAdd(ctx, []string{n.PeerURL})
		return err
	})
	n.Joins(harness.InitialCluster(a.Nodes...))
	n.Args = append(n.Args, args...)
	startReady(t, n)
	return n
}

// cut drops everything between a node and some others.
func (a *apart) cut(n *harness.Node, others ...*harness.Node) {
	at := slices.Index(a.Nodes, n)
	for _, o := range others {
		a.lab.Set(at, slices.Index(a.Nodes, o), lab.Link{Cut: true})
		a.lab.Set(slices.Index(a.Nodes, o), at, lab.Link{Cut: true})
	}
}

// TestOnlyALeavingMemberReaches: the leader of a range reaches nobody but a follower on a member that was removed and is about to leave. It has a majority by that
// one, and so it goes on to lead, and what is asked of it, and what it asks of the oracle, goes by way of that member.
func TestOnlyALeavingMemberReaches(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	byHand := byHand()
	a := newApart(t, harness.Options{Nodes: 3, Args: byHand.Args}, 1)
	ctx := testContext(t, limit(time.Minute))
	n1, n2, n3 := a.Nodes[0], a.Nodes[1], a.Nodes[2]
	guest := a.joins(ctx, t, "guest", byHand.Args...)

	ops, cl := a.ops(n2), a.client(t, n2)
	all, err := ops.Ranges(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := all[len(all)/2]
	var op harness.Op
	eventually(t, limit(20*time.Second), "the guest is known by its name, and gets a replica", func() (err error) {
		op, err = ops.BeginMove(ctx, r.ID, n3.Name, guest.Name, "test")
		return err
	})
	carriedOut(ctx, t, ops, op)
	key := string(r.Start) + "-"
	eventually(t, limit(20*time.Second), fmt.Sprintf("%s leads r%d", n1.Name, r.ID), func() error {
		_, err := ops.Lead(ctx, r.ID, n1.Name)
		if err != nil && strings.Contains(err.Error(), "already") {
			err = nil
		}
		return err
	})
	leadMetaBy(ctx, t, a.Cluster, n3, func(n *harness.Node) *clientv3.Client { return a.client(t, n) })
	if _, err := cl.Put(ctx, key, "before"); err != nil {
		t.Fatal(err)
	}

	for _, n := range []*harness.Node{n1, guest} { // a range that rests has no leader to speak of
		goOn(ctx, t, a.client(t, n), key+n.Name)
	}
	a.cut(n1, n2, n3)
	writes := func(when string) {
		t.Helper()
		eventually(t, limit(20*time.Second), when+", a write", func() error {
			try, cancel := context.WithTimeout(ctx, limit(5*time.Second))
			defer cancel()
			_, err := cl.Put(try, key, when)
			return err
		})
	}
	writes("cut off from all but the guest")
	var id uint64
	for member, n := range memberIDs(ctx, t, cl, a.Cluster) {
		if n == guest {
			id = member
		}
	}
	removed := make(chan error, 1)
	go func() { // answered when no group needs it
		_, err := cl.MemberRemove(ctx, id)
		for errors.Is(err, rpctypes.ErrUnhealthy) && ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			_, err = cl.MemberRemove(ctx, id)
		}
		removed <- err
	}()
	eventually(t, limit(20*time.Second), "the guest is leaving", func() error {
		list, err := cl.MemberList(ctx)
		if err == nil && len(list.Members) > 3 {
			err = errors.New("it is a member yet")
		}
		return err
	})
	for range 3 {
		writes("cut off from all but a guest that leaves")
	}
	a.lab.Heal()
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if code, err := guest.WaitExit(ctx); err != nil || code != 0 {
		t.Errorf("the guest has ended with %d, %v", code, err)
	}
	writes("without the guest")
}

// goOn puts a key over and over until the test ends, whatever comes of it.
func goOn(ctx context.Context, t *testing.T, cl *clientv3.Client, key string) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = cl.Put(try, key, "")
			cancel()
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}
