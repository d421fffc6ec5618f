package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// underLoad is a cluster whose ranges are changed under 64 writers, while one watcher watches everything.
type underLoad struct {
	c        *harness.Cluster
	ctx      context.Context
	cl       *clientv3.Client
	rec      *recorder
	watching *watching
	w        *writers
	before   map[uint64]uint64 // the leaders' terms as the writers began
	forgot   int64             // compacted up to here
}

// newUnderLoad starts a cluster and the watcher. The test ends within that time.
func newUnderLoad(t *testing.T, o harness.Options, within time.Duration) *underLoad {
	t.Helper()
	pontoonOnly(t)
	u := &underLoad{c: newCluster(t, o), rec: newRecorder()}
	u.ctx = testContext(t, within)
	u.cl = newClient(t, u.c)
	watcher := newClient(t, u.c, u.c.Nodes[1].ClientURL)
	u.watching = u.rec.watch(u.ctx, watcher)
	go askProgress(u.ctx, watcher)
	return u
}

// write starts the writers, of keys below prefix.
func (u *underLoad) write(t *testing.T, prefix string) {
	t.Helper()
	u.before = termsByRange(t, u.c)
	u.w = startWriters(u.ctx, t, u.c, prefix)
}

// forget compacts what the watcher has long had.
func (u *underLoad) forget(t *testing.T) {
	t.Helper()
	u.rec.mu.Lock()
	rev := u.rec.last - 10_000
	u.rec.mu.Unlock()
	if rev <= u.forgot {
		return
	}
	if _, err := u.cl.Compact(u.ctx, rev); err != nil {
		t.Fatal(err)
	}
	u.forgot = rev
}

// finish ends the writers: no client has seen an error, no write is lost, the watcher has heard of each once and in order, and all nodes hold the
// same. No revision is left out, if no leader changed but as the test wanted it: after is what the terms are then, with before set to what they would
// be. It reports whether that was so.
func (u *underLoad) finish(t *testing.T, after map[uint64]uint64) (planned bool) {
	t.Helper()
	planned = keptLeaders(u.before, after)
	u.w.finish(u.ctx, t, u.cl, planned)
	last := u.w.revs[len(u.w.revs)-1]
	u.rec.waitFor(t, last, limit(30*time.Second))
	u.watching.stop(t)
	h := u.rec.snapshot()
	h.checkOrder(t)
	if planned {
		h.checkDense(t, last)
	}
	checkState(u.ctx, t, u.cl, h, last)
	sameHash(u.ctx, t, u.cl, u.c, last)
	return planned
}

// refused: who asks for an op that cannot be is told why.
func refused(t *testing.T, what string, op harness.Op, err error) {
	t.Helper()
	if no := (*harness.Refusal)(nil); !errors.As(err, &no) || no.Status/100 != 4 {
		t.Errorf("%s: %v %+v", what, err, op)
	} else {
		t.Logf("%s: %v", what, no)
	}
}
