package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
	"pontoon/test/history"
)

const (
	backupPause    = 2 * time.Second // between two snapshots
	backupPatience = 15 * time.Second
)

// backups saves snapshots while the cluster is hurt, through one node after the other, and holds each against all events that a watch of everything has
// brought: it must be the state at one revision.
type backups struct {
	s    *site
	rng  *rand.Rand
	stop context.CancelFunc
	wg   sync.WaitGroup

	saved  []backup
	failed int

	mu     sync.Mutex
	events []history.Row
	lost   error // why the events are not whole
}

// backup is a snapshot that was saved, and what was known before it was asked for.
type backup struct {
	path string
	low  int64
}

// begin watches and saves until ctx ends.
func (b *backups) begin(ctx context.Context, cl *clientv3.Client) {
	ctx, b.stop = context.WithCancel(ctx)
	b.wg.Go(func() { b.watch(ctx, cl) })
	b.wg.Go(func() {
		for pause(ctx, backupPause) {
			n := b.s.c.Nodes[b.rng.IntN(len(b.s.c.Nodes))]
			if !n.Running() {
				continue
			}
			if err := b.save(ctx, n); err != nil && ctx.Err() == nil {
				b.failed++
			}
		}
	})
}

// watch takes in every event, from the first on.
func (b *backups) watch(ctx context.Context, cl *clientv3.Client) {
	var last, sub int64
	for resp := range cl.Watch(clientv3.WithRequireLeader(ctx), "\x00", clientv3.WithFromKey(), clientv3.WithRev(1)) {
		b.mu.Lock()
		if err := resp.Err(); err != nil && ctx.Err() == nil {
			b.lost = err
		}
		for _, ev := range resp.Events {
			if sub++; ev.Kv.ModRevision != last {
				last, sub = ev.Kv.ModRevision, 0
			}
			b.events = append(b.events, history.RowOf(ev.Type == clientv3.EventTypeDelete, ev.Kv, sub))
		}
		b.mu.Unlock()
	}
}

func (b *backups) save(ctx context.Context, n *harness.Node) error {
	ctx, cancel := context.WithTimeout(ctx, backupPatience)
	defer cancel()
	cl, err := b.s.connect(n)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // nothing can be lost
	before, err := cl.Get(ctx, "revision?")
	if err != nil {
		return err
	}
	resp, err := cl.SnapshotWithVersion(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Snapshot.Close() }()
	path := filepath.Join(b.s.dir, fmt.Sprintf("backup-%d", len(b.saved)+b.failed))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Snapshot)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(path)
		return err
	}
	b.saved = append(b.saved, backup{path, before.Header.Revision})
	return nil
}

// finish ends both, once the watch has brought what was there at the end, and judges.
func (b *backups) finish(ctx context.Context, last int64, f *findings) {
	_ = eventually(ctx, 30*time.Second, func(context.Context) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := len(b.events); b.lost == nil && (n == 0 || b.events[n-1].Main < last) {
			return fmt.Errorf("the watch is not at revision %d yet", last)
		}
		return nil
	})
	b.stop()
	b.wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	var rows, judged int
	seen := int64(0)
	if n := len(b.events); n > 0 {
		seen = b.events[n-1].Main
	}
	for _, s := range b.saved {
		snap, err := history.OpenSnapshot(s.path)
		if err == nil && snap.Revision() > seen {
			if b.lost == nil {
				f.found("snapshot %s is at revision %d, and the last event at %d", s.path, snap.Revision(), seen)
			}
			continue
		}
		if err == nil {
			err = snap.Check(b.events, s.low, seen)
			rows += len(snap.Rows)
		}
		if judged++; err != nil {
			f.found("snapshot %s: %v", s.path, err)
		}
	}
	f.say("%d snapshots saved, %d failed; %d judged, with %d rows, by %d events (%v)", len(b.saved), b.failed, judged, rows, len(b.events), b.lost)
}
