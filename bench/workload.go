package bench

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/bench/load"
	"pontoon/bench/machine"
)

// Definition is a workload that can be asked for.
type Definition struct {
	Name  string
	Short string
	Long  string
	// Options are the flags that it looks at besides those of every workload.
	Options []Option
	// Defaults are those of etcd's benchmark tool where it has the same workload.
	Defaults Spec
	// ServerWrites is what servers are held to (Setup.ServerWrites) unless who measures says otherwise; 0: nothing. --check does not.
	ServerWrites int
	// LeastNodes is how many nodes a target of a kind must have for it; nil: one.
	LeastNodes func(s Spec, kind string) int
	// Brief is what --check runs, Standard what the standard set does.
	Brief, Standard []Spec

	check func(Spec) error
	open  func(*env) workload
	// splits cuts the keys that it uses into n parts; nil: those of keys.
	splits func(s Spec, n int) []string
	// spares is how many nodes are described that the workload may let join.
	spares int
	// args are flags that servers of a kind need for it, equal in effect on every kind.
	args func(s Spec, kind string) []string
	// gateways are put in front of a local Pontoon's nodes, with these flags; nil: none.
	gateways func(s Spec) (n int, args []string)
}

// workload is one run of a workload. prepare comes first, then do from many goroutines, then
// report and verify; after it close, whatever failed.
type workload interface {
	// kinds names what do's kinds are; at least one.
	kinds() []string
	prepare(ctx context.Context) error
	do(ctx context.Context, worker int, seq int64) (kind int, err error)
	// report adds what was measured besides latency and rate.
	report(r *Run)
	// verify tells what is wrong with what was measured; an error says that it could not look.
	verify(ctx context.Context) ([]string, error)
	close() error
}

// runner is a workload whose measured part is more than a row of operations: run comes instead of
// load.Run, which it may call itself. All that it does counts as the servers' work.
type runner interface {
	run(ctx context.Context, plan load.Plan) load.Outcome
}

// concluder is a workload that measures something else after its row of operations. What the servers
// do in it does not count as their work for the operations.
type concluder interface {
	conclude(ctx context.Context, r *Run) error
}

// repeater is a workload whose preparation tries again what the servers have not served, and counts it.
type repeater interface {
	preparedAgain() int64
}

// env is what a workload works with.
type env struct {
	spec    Spec
	clients []*clientv3.Client // one per connection
	kvs     []clientv3.KV      // the same
	sys     *system            // what is measured
	say     func(phase string) // progress within the measured part
}

// kv is the connection of a worker.
func (e *env) kv(worker int) clientv3.KV { return e.kvs[worker%len(e.kvs)] }

// usage is what the servers have used, nothing where they were not started here.
func (e *env) usage() (machine.Usage, error) { return e.sys.used(e.sys.servers()) }

// base is what most workloads have in common.
type base struct {
	*env
	ledger *ledger
}

func newBase(e *env) base { return base{env: e, ledger: newLedger(e.spec)} }

func (b base) preparedAgain() int64 { return b.ledger.preparedAgain.Load() }

func (b base) verify(ctx context.Context) ([]string, error) {
	return b.ledger.compare(ctx, b.kvs[0])
}
func (b base) report(*Run)  {}
func (b base) close() error { return nil }

// Workloads are all that there are.
func Workloads() []Definition {
	return []Definition{
		putWorkload(), rangeWorkload(), mixedWorkload(), txnWorkload(), listWorkload(), herdWorkload(),
		watchFanoutWorkload(), watchConnsWorkload(), watchManyWorkload(), watchSlowWorkload(),
		watchProgressWorkload(), watchStormWorkload(),
		leaseWorkload(), restartWorkload(), largeWorkload(),
		k8sWorkload(), idleWorkload(), slowDiskWorkload(), authChangeWorkload(), growWorkload(),
	}
}

// Lookup finds a workload by its name.
func Lookup(name string) (Definition, bool) {
	for _, d := range Workloads() {
		if d.Name == name {
			return d, true
		}
	}
	return Definition{}, false
}

// common are the defaults of every workload, those of etcd's benchmark tool.
func common(name string, change func(*Spec)) Spec {
	s := Spec{
		Workload: name, Seed: 1, Clients: 1, Conns: 1, Operations: 10_000, Timeout: 30 * time.Second,
		KeySize: 8, ValueSize: 8, KeySpace: 1, Consistency: Linearizable,
	}
	change(&s)
	return s
}

// brief are short forms of a workload, for --check.
func brief(of Spec, changes ...func(*Spec)) []Spec {
	var out []Spec
	for _, change := range changes {
		s := of
		s.Clients, s.Conns, s.Operations = 16, 4, 0
		s.Duration, s.WarmUp = 400*time.Millisecond, 100*time.Millisecond
		s.KeySpace, s.ValueSize = 2000, 256
		change(&s)
		out = append(out, s)
	}
	return out
}

// standard are the forms of a workload that the standard set measures: 10 s each after 2 s of
// warming up, unless they say otherwise.
func standard(of Spec, changes ...func(*Spec)) []Spec {
	var out []Spec
	for _, change := range changes {
		s := of
		s.Operations, s.Duration, s.WarmUp = 0, 10*time.Second, 2*time.Second
		s.KeySpace, s.ValueSize = 100_000, 256
		change(&s)
		out = append(out, s)
	}
	return out
}

// clients is a change of a spec: so many clients over so many connections.
func clients(n, conns int) func(*Spec) {
	return func(s *Spec) { s.Clients, s.Conns = n, conns }
}

// due is a change of a spec: 256 clients in an open loop, by which the cost of an operation is compared
// at an equal load.
func due(rate float64) func(*Spec) {
	return func(s *Spec) { s.Clients, s.Conns, s.Rate = 256, 16, rate }
}

// wrongCount says that an answer had another number of keys than it had to have.
func wrongCount(got, want int) error {
	return fmt.Errorf("an answer has %d keys, not %d", got, want)
}
