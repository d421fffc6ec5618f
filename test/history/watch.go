package history

import (
	"context"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watcher is a recorded watch under way.
type Watcher struct {
	c *Client
	w *Watch

	cancel context.CancelFunc
	ask    context.Context // of its stream: requests for progress travel on the same
	done   chan struct{}

	mu      sync.Mutex
	next    int64 // the revision from which on nothing is certain yet; 0: not known
	grown   chan struct{}
	compact int64 // the watch ended for that reason
}

// Watch begins a watch and records what it brings until Stop, the end of ctx, or the server's
// refusal. clientv3 resumes it by itself when it loses the connection.
func (c *Client) Watch(ctx context.Context, key, end string, rev int64) *Watcher {
	ctx, cancel := context.WithCancel(ctx)
	w := &Watcher{c: c, cancel: cancel, done: make(chan struct{}), next: rev, grown: make(chan struct{})}
	w.w = &Watch{ID: c.rec.ids.Add(1), Client: c.id, Call: c.rec.Now(), Key: key, End: end, Rev: rev, Prev: true}
	opts := []clientv3.OpOption{clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify(), clientv3.WithRev(rev)}
	if end == "\x00" {
		opts = append(opts, clientv3.WithFromKey())
	} else if end != "" {
		opts = append(opts, clientv3.WithRange(end))
	}
	c.rec.mu.Lock()
	c.rec.h.Watches = append(c.rec.h.Watches, w.w)
	c.rec.mu.Unlock()
	w.ask = clientv3.WithRequireLeader(ctx)
	go func() {
		defer close(w.done)
		w.follow(c.cl.Watch(w.ask, key, opts...)) // which waits for the server
	}()
	return w
}

func (w *Watcher) follow(ch clientv3.WatchChan) {
	for resp := range ch {
		out := WatchResponse{
			Watch: w.w.ID, At: w.c.rec.Now(), Rev: resp.Header.GetRevision(), Created: resp.Created, Compact: resp.CompactRevision,
		}
		if err := resp.Err(); err != nil {
			out.Err = err.Error()
		}
		for _, e := range resp.Events {
			out.Events = append(out.Events, Event{
				Del: e.Type == mvccpb.DELETE, KV: fromKV(e.Kv), Prev: fromKVOrNil(e.PrevKv),
			})
		}
		w.c.rec.mu.Lock()
		w.w.Responses = append(w.w.Responses, out)
		w.c.rec.mu.Unlock()
		w.note(&out)
	}
}

func (w *Watcher) note(r *WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case r.Err != "":
		w.compact = r.Compact
	case r.Created:
		if w.next == 0 {
			w.next = r.Rev + 1
		}
	case len(r.Events) > 0:
		w.next = max(w.next, r.Events[len(r.Events)-1].KV.Mod+1)
	default:
		w.next = max(w.next, r.Rev+1)
	}
	close(w.grown)
	w.grown = make(chan struct{})
}

// Next is the revision from which a further watch would continue this one, 0 when it has not
// begun.
func (w *Watcher) Next() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// Done is closed when the watch has ended.
func (w *Watcher) Done() <-chan struct{} { return w.done }

// WaitFor waits until everything up to a revision has come; false when the watch or ctx ends
// before.
func (w *Watcher) WaitFor(ctx context.Context, rev int64) bool {
	for {
		w.mu.Lock()
		next, grown := w.next, w.grown
		w.mu.Unlock()
		if next > rev {
			return true
		}
		select {
		case <-grown:
		case <-w.done:
			return w.Next() > rev
		case <-ctx.Done():
			return false
		}
	}
}

// Stop ends the watch.
func (w *Watcher) Stop() {
	w.cancel()
	<-w.done
}
