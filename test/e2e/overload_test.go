package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/test/e2e/harness"
)

// What a node of TestOverload takes in.
const (
	overloadCount = 32
	overloadBytes = 8 << 20
)

// TestOverload: requests that find no room are refused at once, in etcd's words, however long those before them wait; nothing of what is refused is carried
// out; and when the reason is gone, everything is as before.
func TestOverload(t *testing.T) {
	pontoonOnly(t)
	lengthy(t)
	c := newCluster(t, harness.Options{Ranges: 4, Args: []string{
		"--placement=off", fmt.Sprintf("--requests-max=%d", overloadCount), fmt.Sprintf("--requests-max-bytes=%d", overloadBytes)}})
	ctx := testContext(t, limit(3*time.Minute))
	cl := newClient(t, c, c.Nodes[0].ClientURL)
	t.Run("count", func(t *testing.T) { pileUp(ctx, t, c, cl, 8*overloadCount, 16, overloadCount) })
	t.Run("bytes", func(t *testing.T) { pileUp(ctx, t, c, cl, 3*overloadBytes>>20, 1<<20, overloadBytes>>20) })
	t.Run("twice the load", func(t *testing.T) { twiceTheLoad(ctx, t, c) })
}

// pileUp begins many writes while two of three nodes stand still. No more than most find room, and the others are refused while these wait.
func pileUp(ctx context.Context, t *testing.T, c *harness.Cluster, cl *clientv3.Client, many, size, most int) {
	signal := func(s syscall.Signal) {
		for _, n := range c.Nodes[1:] {
			if err := n.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(syscall.SIGSTOP)
	t.Cleanup(func() { signal(syscall.SIGCONT) })
	value := strings.Repeat("v", size)
	var refused, let atomic.Int64
	var wg sync.WaitGroup
	var tooMany sync.Map // keys
	for i := range many {
		wg.Go(func() {
			key := fmt.Sprintf("%c/%d/%d", byte(i*7), size, i)
			_, err := cl.Put(ctx, key, value)
			if errors.Is(err, rpctypes.ErrTooManyRequests) {
				refused.Add(1)
				tooMany.Store(key, true)
			} else {
				let.Add(1)
			}
		})
	}
	eventually(t, limit(20*time.Second), "whoever finds no room is told", func() error {
		if n := refused.Load(); n < int64(many-most) {
			return fmt.Errorf("%d of %d are refused", n, many)
		}
		return nil
	})
	if let.Load() == 0 { // else some have been given up, and there is room again
		if _, err := etcdserverpb.NewKVClient(bareConn(t, c.Nodes[0])).Put(ctx, &etcdserverpb.PutRequest{Key: []byte("bare"), Value: make([]byte, size)}); status.Code(err) != codes.Unknown ||
			status.Convert(err).Message() != "etcdserver: too many requests" {
			t.Errorf("refused with %v", err)
		}
		s, err := metricsOf(ctx, c.Nodes[0])
		if err != nil {
			t.Fatal(err)
		}
		n, _ := s.Value("pontoon_requests_under_way", "at", "gateway")
		bytes, _ := s.Value("pontoon_requests_under_way_bytes", "at", "gateway")
		if n == 0 || n > overloadCount || bytes > overloadBytes {
			t.Errorf("%v requests of %v bytes are under way", n, bytes)
		}
	}
	signal(syscall.SIGCONT)
	wg.Wait()
	if n := let.Load(); n > int64(most) {
		t.Errorf("%d were let in, %d may be", n, most)
	}
	eventually(t, limit(5*time.Second), "the node serves as before", func() error { return errOf(cl.Put(ctx, "after", "v")) })
	tooMany.Range(func(key, _ any) bool {
		if resp, err := cl.Get(ctx, key.(string)); err != nil || len(resp.Kvs) > 0 {
			t.Errorf("%q, which was refused, is there: %v, %v", key, resp, err)
			return false
		}
		return true
	})
}

// twiceTheLoad asks for twice as much as there is room for, for a while, through every node.
func twiceTheLoad(ctx context.Context, t *testing.T, c *harness.Cluster) {
	loaded, cancel := context.WithTimeout(ctx, limit(4*time.Second))
	defer cancel()
	var good, refused atomic.Int64
	var wg sync.WaitGroup
	value := strings.Repeat("v", 256<<10)
	for i := range 2 * overloadCount * len(c.Nodes) {
		n := c.Nodes[i%len(c.Nodes)]
		cl := newClient(t, c, n.ClientURL)
		wg.Go(func() {
			for loaded.Err() == nil {
				switch _, err := cl.Put(ctx, fmt.Sprintf("%c/twice/%d", byte(i*7), i%40), value); {
				case err == nil:
					good.Add(1)
				case errors.Is(err, rpctypes.ErrTooManyRequests):
					refused.Add(1)
					pauseFor(loaded, 5*time.Millisecond)
				default:
					t.Errorf("neither carried out nor refused: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if good.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d writes, %d refused: the test tests nothing", good.Load(), refused.Load())
	}
	atLeaders := 0.0
	for i, n := range c.Nodes {
		cl := newClient(t, c, n.ClientURL)
		for j := range 50 {
			if _, err := cl.Put(ctx, fmt.Sprintf("%c/calm", byte(j*5)), "v"); err != nil {
				t.Errorf("after the load, through node %d: %v", i+1, err)
				break
			}
		}
		s, err := metricsOf(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		there, _ := s.Value("pontoon_requests_refused_total", "at", "leader")
		atLeaders += there
		for _, at := range []string{"gateway", "leader"} {
			if left, err := s.Value("pontoon_requests_under_way", "at", at); err != nil || left != 0 {
				t.Errorf("node %d, %s: %v requests are under way, %v", i+1, at, left, err)
			}
		}
	}
	if atLeaders == 0 {
		t.Error("no leader was asked for more than it has room for, by three nodes that had room for as much each")
	}
	t.Logf("%d writes of 256 KiB, %d refused, %v of them by leaders", good.Load(), refused.Load(), atLeaders)
}
