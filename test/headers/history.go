package headers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// history is what a watch over all keys has told of this run's.
type history struct {
	mu   sync.Mutex
	revs map[int64][]event
	last int64
	err  error
	more chan struct{} // one when something came

	keys map[string][]change // by key, ascending; made once all is there
}

type change struct {
	rev int64
	event
}

// follow watches everything from now on.
func (r *run) follow(ctx context.Context, t *testing.T) *history {
	t.Helper()
	h := &history{revs: map[int64][]event{}, more: make(chan struct{}, 1)}
	events := r.clients[0].Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCreatedNotify())
	if resp := <-events; resp.Err() != nil || !resp.Created {
		t.Fatalf("the watch: %v", resp.Err())
	}
	go func() {
		for resp := range events {
			h.take(r, resp)
		}
	}()
	return h
}

func (h *history) take(r *run, resp clientv3.WatchResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := resp.Err(); err != nil {
		h.err = err
	}
	for _, e := range resp.Events {
		if key := string(e.Kv.Key); r.mine(key) {
			del := e.Type == clientv3.EventTypeDelete
			h.revs[e.Kv.ModRevision] = append(h.revs[e.Kv.ModRevision], event{key: key, value: string(e.Kv.Value), del: del})
		}
		h.last = max(h.last, e.Kv.ModRevision)
	}
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// seen is the last revision that the watch has told of: below it nobody reads any more.
func (h *history) seen() (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.err
}

// wait returns when the history reaches rev, and orders it.
func (h *history) wait(ctx context.Context, t *testing.T, rev int64) {
	t.Helper()
	for {
		last, err := h.seen()
		if err != nil {
			t.Fatalf("the watch: %v", err)
		}
		if last >= rev {
			break
		}
		select {
		case <-h.more:
		case <-ctx.Done():
			t.Fatalf("the watch has come to revision %d of %d", last, rev)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = map[string][]change{}
	for at := int64(0); at <= h.last; at++ {
		for _, e := range h.revs[at] {
			h.keys[e.key] = append(h.keys[e.key], change{at, e})
		}
	}
}

// differs compares what was shown as the state at rev with the state at rev.
func (h *history) differs(c *content, rev int64) string {
	n := 0
	for key, changes := range h.keys {
		if !strings.HasPrefix(key, c.prefix) {
			continue
		}
		var last *change
		for i := range changes {
			if changes[i].rev <= rev {
				last = &changes[i]
			}
		}
		got, shown := c.keys[key]
		there := last != nil && !last.del
		switch {
		case there != shown:
			return fmt.Sprintf("at that revision %s is there: %v; shown: %v", key, there, shown)
		case !there:
			continue
		case got != version{last.rev, last.value}:
			return fmt.Sprintf("at that revision %s is %s since %d; shown: %v", key, last.value, last.rev, got)
		}
		n++
	}
	if n != len(c.keys) {
		return fmt.Sprintf("%d keys were shown, and there were %d", len(c.keys), n)
	}
	return ""
}
