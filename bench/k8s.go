package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
)

var (
	optK8sNodes = Option{
		Name: "k8s-nodes", Usage: "nodes of the Kubernetes cluster with which the measured part runs and the ramp begins",
		Field: func(s *Spec) any { return &s.K8sNodes }, In: always(func(s Spec) int { return s.K8sNodes }),
	}
	optK8sNodesMax = Option{
		Name: "k8s-nodes-max", Usage: "where the ramp ends at the latest; 0: there is no ramp",
		Field: func(s *Spec) any { return &s.K8sNodesMax }, In: always(func(s Spec) int { return s.K8sNodesMax }),
	}
	optPods = Option{
		Name: "pods-per-node", Usage: "pods on each node",
		Field: func(s *Spec) any { return &s.PodsPerNode }, In: always(func(s Spec) int { return s.PodsPerNode }),
	}
	optChurn = Option{
		Name: "pod-churn", Usage: "changes of pods per node and second",
		Field: func(s *Spec) any { return &s.PodChurn }, In: always(func(s Spec) float64 { return s.PodChurn }),
	}
	optStep = Option{
		Name: "step", Usage: "how long each step of the ramp is measured",
		Field: func(s *Spec) any { return &s.Step }, In: always(func(s Spec) time.Duration { return s.Step }),
	}
	optLimit = Option{
		Name: "limit", Usage: "p99 above which a number of nodes is not held",
		Field: func(s *Spec) any { return &s.Limit }, In: always(func(s Spec) time.Duration { return s.Limit }),
	}
)

func k8sWorkload() Definition {
	defaults := common("k8s-nodes", func(s *Spec) {
		s.Prefix, s.Clients, s.Conns, s.ValueSize, s.KeySize = "/registry/", 512, 8, 2048, 12
		s.Operations, s.Duration = 0, 20*time.Second
		s.K8sNodes, s.K8sNodesMax, s.PodsPerNode, s.PodChurn = 100, 100_000, 30, 0.1
		s.Step, s.Limit = 10*time.Second, time.Second
	})
	return Definition{
		Name:  "k8s-nodes",
		Short: "The control plane of a Kubernetes cluster, and how many nodes it can have",
		Long: `Keys and requests are those of kube-apiserver. Each node renews its lease every 10 s and tells its status every
300 s; its pods change --pod-churn times a second together, and one change in 20 deletes a pod, which is created anew by
the next. Every change is a transaction that compares the revision of one key. All pods are listed every 10 s, in pages of
500 at the revision of the first. A watch with previous versions follows each resource, and is asked for its progress every
100 ms, as reads from the watch cache need it. What is older than 30 s is compacted; a list that takes longer begins anew.

First it measures so for --duration with --k8s-nodes nodes, at the rate that they make up, latency from when requests are
due. Then it adds nodes (twice as many, a quarter more once p99 has come near the limit) and measures --step each time,
until in two attempts requests fail, or p99 of a kind of request, of the delivery of events or of progress exceeds
--limit: most-nodes is the highest number that was held. Every event must be delivered once, in order, with its previous
version, none after progress that covers it; every object must be there afterwards. Pods have --val-size bytes.`,
		Options:  []Option{optK8sNodes, optK8sNodesMax, optPods, optChurn, optStep, optLimit, optValueSize},
		Defaults: defaults,
		Brief: []Spec{func(s Spec) Spec {
			s.Clients, s.Duration, s.ValueSize, s.K8sNodes, s.K8sNodesMax, s.PodsPerNode = 64, 2*time.Second, 256, 200, 400, 5
			s.Step, s.Limit = time.Second, 30*time.Second // it is not about how fast the machine is
			return s
		}(defaults)},
		Standard: []Spec{defaults},
		check:    checkK8s,
		splits:   k8sSplits,
		args:     k8sQuota,
		open:     func(e *env) workload { return newK8s(e) },
	}
}

func checkK8s(s Spec) error {
	switch {
	case s.K8sNodes < 1 || s.K8sNodesMax != 0 && s.K8sNodesMax < s.K8sNodes || s.K8sNodesMax > 1_000_000:
		return errors.New("--k8s-nodes must be at least 1, and --k8s-nodes-max not less, nor above a million")
	case s.PodsPerNode < 1 || s.PodsPerNode > 1000 || s.PodChurn < 0 || s.PodChurn > 1000:
		return errors.New("--pods-per-node must be between 1 and 1000, --pod-churn between 0 and 1000")
	case s.Step < time.Second/10 || s.Limit < time.Millisecond:
		return errors.New("--step must be at least 100ms, and --limit 1ms")
	case s.WarmUp > 0 || s.Rate > 0:
		return errors.New("the number of nodes makes the rate, and each is warmed up: neither --rate nor --warm-up has a meaning")
	case s.Duration == 0:
		return errors.New("--duration must be given")
	}
	return nil
}

// k8sQuota leaves room for all objects, several times over.
func k8sQuota(s Spec, kind string) []string {
	nodes := max(s.K8sNodes, s.K8sNodesMax)
	s.KeySpace, s.ValueSize = nodes*(s.PodsPerNode+2), s.ValueSize+100
	return raisedQuota(s, kind)
}

// What the load is made of.
const (
	leaseEvery  = 10.0 // seconds
	statusEvery = 300.0
	listEvery   = 10.0
	listPage    = 500
	deleteOneIn = 20
)

// The kinds of requests, and the tables that they are about.
const (
	onLeases = iota
	onNodes
	onPods
	onList
)

// The two things that are measured besides requests.
const (
	kindDeliver  = "deliver"
	kindProgress = "progress"
)

// shares are the rates of the kinds of requests for so many nodes, per second.
func k8sRates(s Spec, nodes int) (rates [4]float64) {
	n := float64(nodes)
	rates[onLeases], rates[onNodes], rates[onPods] = n/leaseEvery, n/statusEvery, n*s.PodChurn
	pages := (nodes*s.PodsPerNode + listPage - 1) / listPage
	rates[onList] = float64(pages) / listEvery
	return rates
}

// pickKind chooses the kind of an operation by those rates; at is between 0 and 1.
func pickKind(rates [4]float64, at float64) int {
	var sum float64
	for _, r := range rates {
		sum += r
	}
	at *= sum
	for kind, r := range rates {
		if at < r {
			return kind
		}
		at -= r
	}
	return onLeases
}

type k8s struct {
	*env
	tables [3]*table
	feeds  [3]*feed
	lists  chan *podList // those that nobody works on
	nodes  int           // as many as there are
	rates  [4]float64
	turn   [2]atomic.Int64 // whose lease, whose status comes next
	writes atomic.Uint64   // numbers of writes
	latest atomic.Int64    // highest revision that was acknowledged
	lag    atomic.Pointer[lags]
	stop   context.CancelFunc // of the goroutines beside
	beside sync.WaitGroup

	mu    sync.Mutex
	wrong problems
}

// lags are how late watches were.
type lags struct{ deliver, progress load.Stopwatch }

func newK8s(e *env) *k8s {
	w := &k8s{env: e, lists: make(chan *podList, listsMax), stop: func() {}}
	p := e.spec.Prefix
	w.tables = [3]*table{
		newTable(e.spec, p+"leases/kube-node-lease/node-", 300, 1),
		newTable(e.spec, p+"minions/node-", 4*e.spec.ValueSize, 2),
		newTable(e.spec, p+"pods/", e.spec.ValueSize, 3),
	}
	w.tables[onPods].scattered = true
	for range listsMax {
		w.lists <- &podList{}
	}
	w.lag.Store(&lags{})
	return w
}

// k8sSplits cuts the two resources with many objects and many changes into equal parts.
func k8sSplits(s Spec, n int) []string {
	if n < 2 {
		return nil
	}
	w := newK8s(&env{spec: s})
	leases := (n - 1) / 2 // the status of nodes goes with the leases' last part
	out := append(w.tables[onLeases].splits(leases), w.tables[onPods].prefix)
	return append(out, w.tables[onPods].splits(n-2-leases)...)
}

func (w *k8s) kinds() []string { return []string{"lease", "node", "pod", "list"} }

// prepare makes the objects and watches all resources.
func (w *k8s) prepare(ctx context.Context) error {
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	for i, t := range w.tables {
		f, err := openFeed(ctx, w, t, w.clients[i%len(w.clients)])
		if err != nil {
			return err
		}
		w.feeds[i] = f
		w.beside.Go(func() { f.askAlways(beside) })
	}
	w.beside.Go(func() { w.compactAlways(beside) })
	return w.grow(ctx, w.spec.K8sNodes)
}

// grow makes the objects of more nodes and waits until their watches have caught up.
func (w *k8s) grow(ctx context.Context, nodes int) error {
	w.say(fmt.Sprintf("making objects of %d nodes", nodes))
	for i, n := range [3]int{nodes, nodes, nodes * w.spec.PodsPerNode} {
		if err := w.create(ctx, w.tables[i], n); err != nil {
			return fmt.Errorf("make objects of %d nodes: %w", nodes, err)
		}
	}
	w.nodes, w.rates = nodes, k8sRates(w.spec, nodes)
	return w.caughtUp(ctx)
}

// create makes a table's missing objects, many in a transaction.
func (w *k8s) create(ctx context.Context, t *table, n int) error {
	from := t.grow(n)
	batch := max(1, min(100, (512<<10)/(t.values.size+len(t.prefix)+20)))
	batches := (n - from + batch - 1) / batch
	return forEach(ctx, 32, batches, func(ctx context.Context, worker, b int) error {
		var ops []clientv3.Op
		first, end := from+b*batch, min(from+(b+1)*batch, n)
		for i := first; i < end; i++ {
			ops = append(ops, clientv3.OpPut(t.key(i), t.values.of(preparedBit|uint64(i))))
		}
		resp, err := w.kv(worker).Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return err
		}
		for i := first; i < end; i++ {
			o := t.at(i)
			o.mu.Lock()
			o.rev, o.last, o.op = resp.Header.Revision, resp.Header.Revision, preparedBit|uint64(i)
			o.mu.Unlock()
		}
		w.acknowledged(resp.Header.Revision)
		return nil
	})
}

func (w *k8s) acknowledged(rev int64) {
	for {
		old := w.latest.Load()
		if rev <= old || w.latest.CompareAndSwap(old, rev) {
			return
		}
	}
}

// caughtUp waits until all watches have come to what was acknowledged.
func (w *k8s) caughtUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setUpPatience)
	defer cancel()
	for _, f := range w.feeds {
		if err := f.await(ctx, w.latest.Load()); err != nil {
			return err
		}
	}
	return nil
}

// do is one request of the kind whose turn it is.
func (w *k8s) do(ctx context.Context, worker int, seq int64) (int, error) {
	const resolution = 1 << 32
	draw := mix(mix(w.spec.Seed^11) + uint64(seq))
	kind := pickKind(w.rates, float64(draw%resolution)/resolution)
	var err error
	switch kind {
	case onList:
		err = w.list(ctx, w.kv(worker))
	case onPods:
		i := int(mix(draw) % uint64(w.nodes*w.spec.PodsPerNode))
		err = w.tables[onPods].change(ctx, w, w.kv(worker), i, mix(draw+1)%deleteOneIn == 0)
	default:
		i := int(w.turn[kind].Add(1) % int64(w.nodes))
		err = w.tables[kind].change(ctx, w, w.kv(worker), i, false)
	}
	var bad *wrongError
	if errors.As(err, &bad) {
		w.noteWrong(err)
	}
	return kind, err
}

// wrongError is an answer that must not be, in whatever part of the run.
type wrongError struct{ what string }

func (e *wrongError) Error() string { return "wrong answer: " + e.what }

func wrongf(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

func (w *k8s) noteWrong(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong.add("%v", err)
}

// compactEvery is how often old versions are compacted: those that are as old by then.
const compactEvery = 30 * time.Second

func (w *k8s) compactAlways(ctx context.Context) {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for old := int64(0); ; old = w.latest.Load() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if old == 0 {
			continue
		}
		if _, err := w.kvs[0].Compact(ctx, old); err != nil && ctx.Err() == nil {
			w.noteWrong(fmt.Errorf("compact at %d: %w", old, err))
		}
	}
}

// verify looks at the watches and at every object.
func (w *k8s) verify(ctx context.Context) ([]string, error) {
	err := w.caughtUp(ctx)
	w.endFeeds()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, f := range w.feeds {
		if f.failed != nil {
			w.wrong.add("%s: %v", strings.TrimPrefix(f.table.prefix, w.spec.Prefix), f.failed)
		}
		for _, p := range w.tables[i].compare(ctx, w.kvs[0]) {
			w.wrong.add("%s", p)
		}
	}
	return w.wrong.all(), err
}

// endFeeds ends what runs beside, and waits for it.
func (w *k8s) endFeeds() {
	w.stop()
	for _, f := range w.feeds {
		if f != nil {
			f.close()
		}
	}
	w.beside.Wait()
}

func (w *k8s) close() error {
	w.endFeeds()
	return nil
}
