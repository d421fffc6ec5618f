package headers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Options of Run. Zero fields have defaults.
type Options struct {
	// Prefixes are where keys are put: one for each part of the key space. Default: four that any cut of
	// it by letters tells apart.
	Prefixes []string
	// Workers make calls at the same time. Default two for each client.
	Workers int
	// Rounds is how often each of them makes each kind of call. Default 10.
	Rounds int
}

// call is one call with what the client was told, and when.
type call struct {
	kind     *kind
	client   int
	from, to time.Duration // since the run began
	rev      int64         // of the header
	wrote    []event       // what it must have done at rev; empty: it only looked
	saw      *content      // what it was shown as the state at rev; nil: nothing
	after    int64         // another revision, which must lie above rev; 0: none
}

// event is one change of one key.
type event struct {
	key, value string
	del        bool
}

// content is what a read has shown of the keys under a prefix: values with the revisions of their change.
type content struct {
	prefix string
	keys   map[string]version
}

type version struct {
	rev   int64
	value string
}

// run is the state of one Run.
type run struct {
	tag     string
	clients []*clientv3.Client
	opt     Options
	began   time.Time
	values  atomic.Int64
	leases  atomic.Int64

	history *history

	mu    sync.Mutex
	calls []*call
	lost  map[string]int // calls whose outcome is not known, by kind
}

// Run makes calls of every kind through the clients, of which each should have one endpoint of its own, and
// fails the test for every header that the model does not allow. Nobody else may write to the cluster, and
// no leader should change.
func Run(t *testing.T, clients []*clientv3.Client, o Options) {
	if o.Prefixes == nil {
		o.Prefixes = []string{"/order/4", "a", "h", "q"}
	}
	if o.Workers == 0 {
		o.Workers = 2 * len(clients)
	}
	if o.Rounds == 0 {
		o.Rounds = 10
	}
	r := &run{tag: fmt.Sprintf("/headers%x/", rand.Uint32()), clients: clients, opt: o, began: time.Now(), lost: map[string]int{}}
	r.leases.Store(rand.Int64N(1 << 60))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	h := r.follow(ctx, t)
	r.history = h
	r.work(ctx)
	r.quiet(ctx, t)
	h.wait(ctx, t, r.marker(ctx, t))
	r.judge(t, h)
}

// work lets all workers make all kinds of calls, each in an order of its own.
func (r *run) work(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range r.opt.Workers {
		wg.Go(func() {
			w := r.worker(i, i%len(r.clients))
			for range r.opt.Rounds {
				for _, k := range rand.Perm(len(kinds)) {
					w.make(ctx, kinds[k])
				}
			}
		})
	}
	wg.Wait()
}

// quiet makes each kind of call alone, on every member, where its header is determined.
func (r *run) quiet(ctx context.Context, t *testing.T) {
	for i := range r.clients {
		w := r.worker(1000+i, i)
		for k := range kinds {
			base := r.marked(ctx, t, i)
			made := w.make(ctx, kinds[k])
			if made == nil {
				t.Logf("%s: its outcome is not known", kinds[k].name)
				continue
			}
			want := base + int64(w.prepared)
			if len(made.wrote) > 0 {
				want++
			}
			// A serializable read is of what its own ranges have closed: the mark may lie in another.
			if made.rev != want && !(kinds[k].stale && made.rev < want) {
				t.Errorf("%s on member %d, alone: header %d, want %d", kinds[k].name, i, made.rev, want)
			}
		}
	}
}

// marked writes a key through a member and returns its revision.
func (r *run) marked(ctx context.Context, t *testing.T, client int) int64 {
	t.Helper()
	resp, err := r.clients[client].Put(ctx, r.opt.Prefixes[0]+r.tag+"mark", r.value())
	if err != nil {
		t.Fatalf("a mark: %v", err)
	}
	return resp.Header.Revision
}

// marker is the last revision of the run.
func (r *run) marker(ctx context.Context, t *testing.T) int64 { return r.marked(ctx, t, 0) }

func (r *run) value() string { return fmt.Sprintf("v%d", r.values.Add(1)) }

// worker makes calls through one client, on keys that nobody else writes.
type worker struct {
	r      *run
	id     int
	client int
	rounds int
	// prepared counts the writes that the last call has made before the one that it is about.
	prepared int
}

func (r *run) worker(id, client int) *worker { return &worker{r: r, id: id, client: client} }

func (w *worker) cli() *clientv3.Client { return w.r.clients[w.client] }

// key names a key of this worker's, in one of the parts of the key space, never used by another kind.
func (w *worker) key(part int, name string) string {
	p := w.r.opt.Prefixes
	return fmt.Sprintf("%s%sw%d/%s", p[part%len(p)], w.r.tag, w.id, name)
}

// make makes one call and notes it; nil: its outcome is not known.
func (w *worker) make(ctx context.Context, k *kind) *call {
	w.rounds++
	w.prepared = 0
	c := &call{kind: k, client: w.client}
	err := k.call(ctx, w, c)
	if err != nil {
		w.r.mu.Lock()
		w.r.lost[fmt.Sprintf("%s: %v", k.name, err)]++
		w.r.mu.Unlock()
		return nil
	}
	w.r.note(c)
	return c
}

// note keeps a call for the judge.
func (r *run) note(c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, c)
}

// do times a call.
func (w *worker) do(c *call, fn func() (int64, error)) error {
	c.from = time.Since(w.r.began)
	rev, err := fn()
	c.to, c.rev = time.Since(w.r.began), rev
	return err
}

// prepare makes a put that a call needs, and notes it as one of its own.
func (w *worker) prepare(ctx context.Context, key string, opts ...clientv3.OpOption) error {
	c := &call{kind: putKind, client: w.client, wrote: []event{{key: key, value: w.r.value()}}}
	err := w.do(c, func() (int64, error) {
		resp, err := w.cli().Put(ctx, key, c.wrote[0].value, opts...)
		if err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	})
	if err != nil {
		return err
	}
	w.prepared++
	w.r.note(c)
	return nil
}

// lowest is the highest revision that a member had acknowledged, to anybody or through itself alone, before
// a time.
func (r *run) lowest(before time.Duration, client int, own bool) (rev int64) {
	for _, c := range r.calls {
		if c.to < before && (!own || c.client == client) {
			rev = max(rev, c.rev)
		}
	}
	return rev
}

// highest is below every revision of a write that was begun after a time; 0: there is none.
func (r *run) highest(after time.Duration) (rev int64) {
	for _, c := range r.calls {
		if len(c.wrote) > 0 && c.from > after && (rev == 0 || c.rev <= rev) {
			rev = c.rev - 1
		}
	}
	return rev
}

// judge holds every call against the history.
func (r *run) judge(t *testing.T, h *history) {
	count := map[string]int{}
	for _, c := range r.calls {
		count[c.kind.name]++
		if why := r.wrong(c, h); why != "" {
			t.Errorf("%s through member %d, header %d: %s", c.kind.name, c.client, c.rev, why)
		}
	}
	for what, n := range r.lost {
		t.Logf("%d times: %s", n, what)
	}
	for i := range kinds {
		if n := count[kinds[i].name]; n < r.opt.Workers {
			t.Errorf("%s: only %d calls were answered", kinds[i].name, n)
		}
	}
	t.Logf("%d answers over %d revisions", len(r.calls), len(h.revs))
}

// wrong says what the model has against a header; nothing if it is right.
func (r *run) wrong(c *call, h *history) string {
	if len(c.wrote) > 0 {
		if got := h.revs[c.rev]; !same(got, c.wrote) {
			return fmt.Sprintf("it wrote %v, and there the history has %v", c.wrote, got)
		}
	}
	if c.saw != nil {
		if why := h.differs(c.saw, c.rev); why != "" {
			return why
		}
	}
	if low := r.lowest(c.from, c.client, c.kind.local); c.rev < low && !c.kind.stale {
		return fmt.Sprintf("%d had been acknowledged before", low)
	}
	if high := r.highest(c.to); high > 0 && c.rev > high {
		return fmt.Sprintf("%d was begun after it", high+1)
	}
	if c.after > 0 && c.after <= c.rev {
		return fmt.Sprintf("what can only come behind it has revision %d", c.after)
	}
	return ""
}

func same(a, b []event) bool {
	if len(a) != len(b) {
		return false
	}
	have := map[event]bool{}
	for _, e := range a {
		have[e] = true
	}
	for _, e := range b {
		if !have[e] {
			return false
		}
	}
	return true
}

// mine tells whether a key belongs to this run.
func (r *run) mine(key string) bool { return strings.Contains(key, r.tag) }
