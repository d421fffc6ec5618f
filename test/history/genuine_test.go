package history

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/test/e2e/harness"
)

// clusterFor starts a cluster of what HISTORY_SERVER names, etcd if nothing: the judges must find
// nothing there.
func clusterFor(t *testing.T, nodes int) *harness.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("real processes")
	}
	o := harness.Options{Kind: harness.Etcd, Binary: "../../build/bin/etcd", Nodes: nodes, Dir: t.TempDir()}
	if os.Getenv("HISTORY_SERVER") == "pontoon" {
		o.Kind, o.Binary, o.SplitKeys = harness.Pontoon, "../../bin/node", prefixes[1:]
	}
	var err error
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(o.Binary); err != nil {
		t.Skipf("not built: %v (make build etcd-tools)", err)
	}
	c, err := harness.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

var prefixes = []string{"a/", "b/", "c/", "d/", "e/", "f/", "g/", "h/"}

func connect(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	cl, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// TestGenuine runs the load against a real cluster, kills and restarts a node on the way, and
// wants every judge to be content.
func TestGenuine(t *testing.T) {
	c := clusterFor(t, 3)
	rec := NewRecorder()
	var clients, watching []*clientv3.Client
	for i := range 9 {
		clients = append(clients, connect(t, c.Nodes[i%3].ClientURL, c.Nodes[(i+1)%3].ClientURL))
	}
	for _, n := range c.Nodes {
		watching = append(watching, connect(t, n.ClientURL))
	}
	multi := c.Kind == harness.Etcd || os.Getenv("HISTORY_MULTI") != ""
	l := NewLoad(rec, clients, LoadConfig{Prefixes: prefixes, MultiRange: multi, Compact: 2 * time.Second, Seed: 1})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	l.Start(ctx, watching)
	pause(ctx, 5*time.Second)
	if err := c.Nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	pause(ctx, 3*time.Second)
	if err := c.Nodes[1].Start(); err != nil {
		t.Fatal(err)
	}
	pause(ctx, 5*time.Second)
	if err := l.Stop(ctx); err != nil {
		t.Error(err)
	}
	h := rec.History()
	name := filepath.Join(t.TempDir(), "history.jsonl")
	if err := h.Save(name); err != nil {
		t.Fatal(err)
	}
	again, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := Check(again, Options{PartsExpiry: !multi})
	t.Logf("%v: %d ops checked, %d writes, %d refused, %d unknown of which %d happened, %d expired, %d revisions, %d gaps, %d watches, %d events",
		time.Since(began), r.Ops, r.Writes, r.Refused, r.Unknown, r.Happened, r.Expired, r.Revisions, r.Gaps, r.Watches, r.Events)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	began = time.Now()
	lin := Linearizable(again, Limits{})
	t.Logf("porcupine: %v, %d keys, %d ops", time.Since(began), lin.Keys, lin.Ops)
	if err := lin.Err(); err != nil {
		t.Error(err)
	}
}
