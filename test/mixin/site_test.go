package mixin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/bench/quota"
	"pontoon/test/e2e/harness"
)

const (
	nodes = 3
	// quotaBytes lets a node be filled in some seconds, and still hold the 100 MiB from which on etcd's rule looks at fragmentation.
	quotaBytes = 320 << 20
	// slowWrites is how many writes a second a slow disk takes: a sync of the log then waits for more than a second behind those of files.
	slowWrites = 8
	// patience is how long an alert may take to fire or to resolve beyond its own time, on a busy machine.
	patience = 90 * time.Second
)

// site is a cluster with its Prometheus and its everyday load.
type site struct {
	*harness.Cluster
	w       *watcher
	disks   *quota.Groups // nil: disks cannot be made slow here
	why     error         // why not
	clients []*clientv3.Client
}

// nodeBinary is the program of a node.
func nodeBinary(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("MIXIN_NODE")
	if binary == "" {
		t.Skip("MIXIN_NODE names no node: make test-mixin builds one and does")
	}
	return binary
}

// newSite starts all of it, and ends it with the test.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	dir := t.TempDir()
	o := harness.Options{
		Kind: harness.Pontoon, Binary: nodeBinary(t), Dir: dir, Nodes: nodes, Ranges: 8,
		Args: []string{"--metrics=extensive", fmt.Sprint("--quota-backend-bytes=", quotaBytes)},
	}
	if s.disks, s.why = quota.Make(nodes, quota.Limits{Writes: slowWrites, Dir: dir}); s.why == nil {
		o.Within = s.disks.Command
		t.Cleanup(func() {
			if err := s.disks.Close(); err != nil {
				t.Error(err)
			}
		})
		s.setDisks(t, 0)
	}
	var err error
	if s.Cluster, err = harness.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.keepLogs(t); _ = s.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if s.w, err = watch(filepath.Join(dir, "prometheus"), s.Endpoints(), alerts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.w.close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range s.Nodes {
		s.clients = append(s.clients, s.client(t, n))
	}
	s.everyday(t)
	return s
}

// keepLogs keeps what the nodes have said of a test that has failed.
func (s *site) keepLogs(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, n := range slices.Concat(s.Nodes, s.Gateways) {
		t.Logf("%s:\n%s", n.Name, n.LogTail(25))
	}
}

func (s *site) client(t *testing.T, n *harness.Node) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{n.ClientURL}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// setDisks lets all nodes write so many times a second.
func (s *site) setDisks(t *testing.T, writes int) {
	t.Helper()
	for i := range nodes {
		if err := s.disks.SetWrites(i, writes); err != nil {
			t.Fatal(err)
		}
	}
}

// everyday puts, gets, watches and keeps a lease alive through every node, and compacts once a second, so that files
// are written; in all ranges. What becomes of it is not judged: faults come in between.
func (s *site) everyday(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i, c := range s.clients {
		c.Watch(ctx, "", clientv3.WithPrefix())
		wg.Go(func() { puts(ctx, c, i) })
	}
	wg.Go(func() { keepsAlive(ctx, s.clients[0]) })
	wg.Go(func() { compacts(ctx, s.clients[0]) })
}

// rest waits; false: ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// a client of a control plane gives up after some seconds.
const callTimeout = 5 * time.Second

func puts(ctx context.Context, c *clientv3.Client, i int) {
	for k := 0; rest(ctx, 50*time.Millisecond); k++ {
		key := string([]byte{byte(k * 7), byte(i), byte(k % 5)}) // every range has some
		call, cancel := context.WithTimeout(ctx, callTimeout)
		if _, err := c.Put(call, key, "everyday"); err == nil {
			_, _ = c.Get(call, key)
		}
		cancel()
	}
}

func keepsAlive(ctx context.Context, c *clientv3.Client) {
	for rest(ctx, 500*time.Millisecond) {
		grant, err := c.Grant(ctx, 5)
		if err != nil {
			continue
		}
		alive, err := c.KeepAlive(ctx, grant.ID)
		if err != nil {
			continue
		}
		for range alive {
		}
	}
}

func compacts(ctx context.Context, c *clientv3.Client) {
	for rest(ctx, time.Second) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		if r, err := c.Get(call, "\x01"); err == nil {
			_, _ = c.Compact(call, r.Header.Revision) // which every replica writes to its file
		}
		cancel()
	}
}

// metaLeader is the member that leads, and the index of its node.
func (s *site) metaLeader(ctx context.Context) (at int, others []uint64, err error) {
	list, err := s.clients[0].MemberList(ctx)
	if err != nil {
		return 0, nil, err
	}
	st, err := s.clients[0].Status(ctx, s.Nodes[0].ClientURL)
	if err != nil {
		return 0, nil, err
	}
	at = -1
	for _, m := range list.Members {
		if m.ID != st.Leader {
			others = append(others, m.ID)
			continue
		}
		at = slices.IndexFunc(s.Nodes, func(n *harness.Node) bool { return n.Name == m.Name })
	}
	if at < 0 {
		err = errors.New("nobody leads")
	}
	return at, others, err
}

// writers write through a node, as fast as they are answered, until the context ends.
func (s *site) writers(ctx context.Context, wg *sync.WaitGroup, node, n int) {
	for i := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, 10*time.Second) // longer than the node takes to give up
				if _, err := s.clients[node].Put(call, string([]byte{byte(i * 8), 'w'}), "v"); err != nil && !rest(ctx, 100*time.Millisecond) {
					cancel()
					return
				}
				cancel()
			}
		})
	}
}

// fillKey is where the bytes are that fill the disks: in every range, parted.
func fillKey(i int) string {
	return string([]byte{byte(i * 37), 'f', byte(i >> 16), byte(i >> 8), byte(i)})
}

// fill puts until there is no room left, and returns how many keys it has put.
func (s *site) fill(ctx context.Context) (keys int, err error) {
	const size = 64 << 10
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := 0
	for w := range 8 {
		wg.Go(func() {
			for {
				mu.Lock()
				i, over := next, err != nil
				next++
				mu.Unlock()
				if over {
					return
				}
				if _, failed := s.clients[w%nodes].Put(ctx, fillKey(i), string(value)); failed != nil {
					mu.Lock()
					err = failed
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return next, err
}

// everybody does it through every node.
func (s *site) everybody(do func(c *clientv3.Client, n *harness.Node) error) error {
	for i, n := range s.Nodes {
		if err := do(s.clients[i], n); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}
