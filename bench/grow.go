package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
	"pontoon/bench/machine"
	"pontoon/test/e2e/harness"
)

func growWorkload() Definition {
	defaults := common("grow", func(s *Spec) {
		s.Clients, s.Conns, s.KeySize, s.ValueSize, s.SizeMiB = 64, 16, 16, 16<<10, 4096
		s.Operations, s.Duration = 0, 30*time.Minute
	})
	return Definition{
		Name:  "grow",
		Short: "One node more, under load",
		Long: `Writes --size-mib of values, then puts keys at random: for half a minute as the cluster is, and on while one more node joins, until
its share of all that is there is on it. Pontoon brings ranges there until all nodes hold as much (imbalance-% is how much the fullest or emptiest
differs from the mean); etcd's new member takes everything. The whole must be over within --duration. Latencies are those while the node joins;
puts-lost-% is how much lower their rate is meanwhile. Nothing is compacted: puts as fast as possible may add more than there was, and
--rate bounds them. Afterwards every key must hold its latest acknowledged value.`,
		Options:  []Option{optSize, optKeySize, optValueSize},
		Defaults: defaults,
		Brief: brief(defaults, func(s *Spec) {
			s.WarmUp, s.Duration, s.KeySpace, s.ValueSize, s.SizeMiB = 0, 80*time.Second, 1, 4096, 4
		}),
		Standard:   []Spec{func(s Spec) Spec { s.SizeMiB = 1024; return s }(defaults)},
		LeastNodes: func(Spec, string) int { return growLeast },
		check:      checkGrow,
		splits:     func(s Spec, n int) []string { return keysOf(largeSpec(s)).splits(n) },
		args:       func(s Spec, kind string) []string { return raisedQuota(largeSpec(s), kind) },
		spares:     1,
		open: func(e *env) workload {
			e.spec = largeSpec(e.spec)
			return &grow{base: newBase(e)}
		},
	}
}

const (
	// growLeast is how many nodes there are at least: with fewer each replica stays where it is.
	growLeast = 3
	// growBefore is how long the rate of puts is looked at before the node joins, as a part of --duration, and at most.
	growBefore, growBeforeMax = 8, 30 * time.Second
	// growCalm is for how long nothing may move for the growth to be over, likewise, and growLook how often it is looked.
	growCalm, growCalmMax, growLook = 16, 15 * time.Second, time.Second
)

func checkGrow(s Spec) error {
	switch {
	case s.SizeMiB < 1:
		return errors.New("--size-mib must be at least 1")
	case s.Duration <= 0 || s.WarmUp > 0:
		return errors.New("--duration bounds the whole, and --warm-up has no meaning")
	}
	return checkSize(s, 1, "1")
}

type grow struct {
	base
	before    load.Outcome
	took      time.Duration // from the start of the node until the last that was moved
	bytes     float64       // that are on it
	imbalance float64       // a part of the mean
	problem   error
}

func (w *grow) kinds() []string { return []string{"put"} }

func (w *grow) prepare(ctx context.Context) error {
	if !w.sys.target.Local() {
		return errors.New("this workload starts a node: it cannot do that to endpoints")
	}
	return w.ledger.prepare(ctx, w.kvs)
}

// do puts a key. What has begun when the growth is over is waited for: it is to be known whether it was written.
func (w *grow) do(ctx context.Context, worker int, seq int64) (int, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(w.spec.Timeout, startPatience))
	defer cancel()
	return 0, w.put(ctx, worker, seq)
}

func (w *grow) run(ctx context.Context, plan load.Plan) load.Outcome {
	deadline := time.Now().Add(plan.Duration)
	first := plan
	first.Duration = min(plan.Duration/growBefore, growBeforeMax)
	w.say("putting, before the node joins")
	w.before = load.Run(ctx, first, w.do)
	w.say("one node more")
	running, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer end()
		bounded, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		w.problem = w.join(bounded)
	}()
	plan.First, plan.Duration, plan.Operations = w.before.Next, time.Until(deadline)+time.Minute, 0
	out := load.Run(running, plan, w.do)
	<-done
	if ctx.Err() == nil {
		out.Interrupted = false // it ended as it should
	}
	return out
}

// join adds the node, and returns when it has its share.
func (w *grow) join(ctx context.Context) error {
	n, began, err := w.sys.join(ctx, w.clients[0])
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	has := w.hasAll
	if w.sys.target.Kind == TargetPontoon {
		has = w.hasShare
	}
	moved, held := began, 0.0
	for {
		now, all, err := has(ctx, n)
		if now != held && err == nil {
			held, moved = now, time.Now()
		}
		if err == nil && all && time.Since(moved) >= min(w.spec.Duration/growCalm, growCalmMax) {
			w.took = moved.Sub(began)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not have its share: %.0f bytes: %w", n.Name, held, errors.Join(err, ctx.Err()))
		}
		wait(ctx, growLook)
	}
}

// hasShare looks how much is where, and whether nothing is on its way.
func (w *grow) hasShare(ctx context.Context, n *harness.Node) (progress float64, all bool, err error) {
	ops := harness.Ops{ClientURL: w.sys.cluster.Nodes[0].ClientURL, HTTP: w.sys.guards.http()}
	var sum, most float64
	replicas, least := 0, math.MaxFloat64
	for _, node := range w.sys.cluster.Nodes {
		p, err := ops.Placement(ctx, node.Name)
		if err != nil {
			return 0, false, err
		}
		b := float64(p.Bytes)
		sum, most, least = sum+b, max(most, b), min(least, b)
		if node == n {
			w.bytes, replicas = b, p.Replicas
		}
	}
	mean := sum / float64(len(w.sys.cluster.Nodes))
	w.imbalance = max(most-mean, mean-least) / max(mean, 1)
	_, err = ops.AllOver(ctx)
	return float64(replicas), err == nil && replicas > 0, err
}

// hasAll looks how far etcd's new member has come.
func (w *grow) hasAll(ctx context.Context, n *harness.Node) (progress float64, all bool, err error) {
	there, err := w.clients[0].Status(ctx, n.ClientURL)
	if err != nil {
		return 0, false, err
	}
	w.bytes = float64(there.DbSizeInUse)
	return 1, there.Leader != 0 && there.RaftAppliedIndex > 0 && there.DbSizeInUse > 1<<20, nil
}

func (w *grow) report(r *Run) {
	if w.problem != nil {
		r.Problems = append(r.Problems, w.problem.Error())
		return
	}
	r.figure("joined-after-s", w.took.Seconds())
	r.figure("moved-B", w.bytes)
	if s := w.took.Seconds(); s > 0 {
		r.figure("moved-MiB/s", w.bytes/s/(1<<20))
	}
	r.figure("imbalance-%", 100*w.imbalance)
	if before := float64(w.before.Done) / w.before.Elapsed.Seconds(); before > 0 {
		r.figure("puts-before/s", before)
		r.figure("puts-lost-%", max(0, 100*(1-r.Rate/before)))
	}
	r.figure("p99-before-µs", float64(w.before.Latency.P99))
}

// addSpares describes nodes that may join later.
func (s *system) addSpares() error {
	for range s.setup.spares {
		n, err := s.cluster.AddNode(fmt.Sprintf("n%d", len(s.cluster.Nodes)+1))
		if err != nil {
			return err
		}
		if s.away == nil {
			s.away = map[*harness.Node]machine.Usage{}
		}
		s.away[n] = machine.Usage{}
		s.spares = append(s.spares, n)
	}
	return nil
}

// join makes a spare node a member and starts it. It returns when it is ready, and when that began.
func (s *system) join(ctx context.Context, c *clientv3.Client) (n *harness.Node, began time.Time, err error) {
	if len(s.spares) == 0 {
		return nil, began, errors.New("there is no node more")
	}
	n = s.spares[0]
	s.spares = s.spares[1:]
	add := func() error { return told(c.MemberAdd(ctx, []string{n.PeerURL})) }
	if err := retried(ctx, add); err != nil {
		return nil, began, err
	}
	n.Joins(harness.InitialCluster(append(slices.Clone(s.cluster.Nodes[:s.setup.Nodes]), n)...))
	n.Args = slices.Concat(n.Args, s.guards.args(), s.setup.Args)
	s.restarting.Lock()
	began = time.Now()
	err = n.Start()
	delete(s.away, n)
	s.restarting.Unlock()
	if err != nil {
		return nil, began, err
	}
	return n, began, n.WaitReady(ctx)
}
