package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

var (
	optLeases = Option{
		Name: "leases", Usage: "how many leases there are",
		Field: func(s *Spec) any { return &s.Leases }, In: always(func(s Spec) int { return s.Leases }),
	}
	optTTL = Option{
		Name: "ttl", Usage: "how long a lease lives without being kept alive, in whole seconds",
		Field: func(s *Spec) any { return &s.TTL }, In: always(func(s Spec) time.Duration { return s.TTL }),
	}
)

func leaseWorkload() Definition {
	defaults := common("lease", func(s *Spec) {
		s.Prefix, s.Clients, s.Conns, s.ValueSize = "leased/", 16, 4, 64
		s.Leases, s.TTL = 5000, 20*time.Second
	})
	return Definition{
		Name:  "lease",
		Short: "Leases that are kept alive, then all end at once",
		Long: `Grants --leases leases with a key each and tells how fast that went and what anonymous memory of the servers
each of them took. Every operation keeps one of them alive, one after the other, on raw gRPC streams, one per
client. Then comes the storm: each is kept alive once more, and then none is. Told are how long after its time
each key was gone, as watchers see it (expiry-lag), how many ended per second, and what puts took meanwhile. No
lease may end before its time, none may stay, and every key must go exactly once.`,
		Options:  []Option{optLeases, optTTL, optKeySize, optValueSize},
		Defaults: defaults,
		Brief:    brief(defaults, func(s *Spec) { s.Leases, s.TTL, s.KeySpace = 200, 5*time.Second, 1 }),
		Standard: standard(defaults, func(s *Spec) { s.Leases, s.KeySpace, s.ValueSize = 10_000, 1, 64 }),
		check: func(s Spec) error {
			switch {
			case s.Leases < 1 || s.Leases > leasesMax:
				return fmt.Errorf("--leases must be between 1 and %d", leasesMax)
			case len(fmt.Sprint(s.Leases-1)) > s.KeySize:
				return fmt.Errorf("--key-size is too small for %d keys", s.Leases)
			case s.TTL < time.Second || s.TTL%time.Second != 0:
				return errors.New("--ttl must be whole seconds")
			}
			return nil
		},
		splits: func(s Spec, n int) []string {
			s.KeySpace = s.Leases
			return keysOf(s).splits(n)
		},
		open: func(e *env) workload {
			e.spec.KeySpace = e.spec.Leases
			return &leases{
				base: newBase(e), ids: make([]clientv3.LeaseID, e.spec.Leases), renewed: make([]atomic.Int64, e.spec.Leases),
				streams: make([]*keepAlives, e.spec.Clients), setup: map[string]float64{},
			}
		},
	}
}

// leasesMax bounds what a client can hold.
const leasesMax = 10_000_000

type leases struct {
	base
	ids     []clientv3.LeaseID
	renewed []atomic.Int64 // when that was last asked for, in nanoseconds
	streams []*keepAlives  // by worker
	setup   map[string]float64
}

func (w *leases) kinds() []string { return []string{"keep-alive"} }

// prepare grants all leases, then attaches a key to each.
func (w *leases) prepare(ctx context.Context) error {
	before, err := w.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := forEach(ctx, 32, w.spec.Leases, w.grant); err != nil {
		return fmt.Errorf("grant leases: %w", err)
	}
	w.setup["grants/s"] = float64(w.spec.Leases) / time.Since(began).Seconds()
	if err := forEach(ctx, 32, w.spec.Leases, w.attach); err != nil {
		return fmt.Errorf("attach keys to leases: %w", err)
	}
	after, err := w.usage()
	if after.Anon > 0 {
		w.setup["anon-B/lease"] = float64(after.Anon-before.Anon) / float64(w.spec.Leases)
	}
	return err
}

func (w *leases) grant(ctx context.Context, worker, i int) error {
	asked := time.Now()
	resp, err := w.clients[worker%len(w.clients)].Grant(ctx, int64(w.spec.TTL/time.Second))
	if err != nil {
		return err
	}
	w.ids[i] = resp.ID
	w.renewed[i].Store(asked.UnixNano())
	if resp.TTL != int64(w.spec.TTL/time.Second) {
		return fmt.Errorf("asked for %v, got a lease of %d s", w.spec.TTL, resp.TTL)
	}
	return nil
}

func (w *leases) attach(ctx context.Context, worker, i int) error {
	op := preparedBit | uint64(i)
	resp, err := w.kv(worker).Put(ctx, w.ledger.keys.at(i), w.ledger.values.of(op), clientv3.WithLease(w.ids[i]))
	if idle := w.idle(i); err != nil && idle > w.spec.TTL {
		return fmt.Errorf("lease %x is %v old: --ttl is too short to make these many: %w", w.ids[i], idle.Round(time.Millisecond), err)
	}
	if err != nil {
		return err
	}
	w.ledger.acked(i, resp.Header.Revision, op)
	return nil
}

func (w *leases) do(ctx context.Context, worker int, seq int64) (int, error) {
	return 0, w.keepAlive(ctx, worker, int(seq%int64(w.spec.Leases)))
}

// keepAlive renews lease i on the stream of a worker.
func (w *leases) keepAlive(ctx context.Context, worker, i int) error {
	s := w.streams[worker]
	if s == nil {
		var err error
		if s, err = openKeepAlives(w.clients[worker%len(w.clients)]); err != nil {
			return err
		}
		w.streams[worker] = s
	}
	idle, asked := w.idle(i), time.Now()
	ttl, err := s.renew(ctx, w.ids[i])
	switch {
	case err != nil:
		s.end()
		w.streams[worker] = nil
		return err
	case ttl <= 0 && idle < w.spec.TTL:
		return fmt.Errorf("lease %x has ended %v after it was kept alive for %v", w.ids[i], idle.Round(time.Millisecond), w.spec.TTL)
	case ttl <= 0:
		return fmt.Errorf("lease %x was kept alive too late, after %v: --ttl is too short for these many", w.ids[i], idle.Round(time.Millisecond))
	}
	w.renewed[i].Store(asked.UnixNano())
	return nil
}

// idle is how long ago lease i was kept alive.
func (w *leases) idle(i int) time.Duration { return time.Since(time.Unix(0, w.renewed[i].Load())) }

func (w *leases) report(r *Run) {
	for name, v := range w.setup {
		r.figure(name, v)
	}
}

// verify looks whether anything has stayed after the storm.
func (w *leases) verify(ctx context.Context) ([]string, error) {
	var p problems
	keys := w.ledger.keys
	resp, err := w.kvs[0].Get(ctx, keys.at(0), clientv3.WithRange(keys.end(keys.space-1)), clientv3.WithCountOnly())
	if err != nil {
		return nil, err
	}
	if resp.Count > 0 {
		p.add("%d keys are there after their leases have ended", resp.Count)
	}
	list, err := w.clients[0].Leases(ctx)
	if err != nil {
		return p.all(), err
	}
	ours := map[clientv3.LeaseID]bool{}
	for _, id := range w.ids {
		ours[id] = true
	}
	for _, l := range list.Leases {
		if ours[l.ID] {
			p.add("lease %x is listed after it has ended", l.ID)
		}
	}
	return p.all(), nil
}

func (w *leases) close() error {
	for i, s := range w.streams {
		if s != nil {
			s.end()
			w.streams[i] = nil
		}
	}
	return nil
}

// keepAlives is a stream on which one renewal at a time is under way.
type keepAlives struct {
	grpc   grpc.BidiStreamingClient[etcdserverpb.LeaseKeepAliveRequest, etcdserverpb.LeaseKeepAliveResponse]
	cancel context.CancelFunc
}

func openKeepAlives(c *clientv3.Client) (*keepAlives, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := etcdserverpb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a keep-alive stream: %w", err)
	}
	return &keepAlives{stream, cancel}, nil
}

// renew renews a lease and returns what it has to live; 0 or less: it has ended. A stream whose
// renewal failed is of no use any more.
func (k *keepAlives) renew(ctx context.Context, id clientv3.LeaseID) (ttl int64, err error) {
	stop := context.AfterFunc(ctx, k.cancel)
	defer stop()
	if err := k.grpc.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return 0, fmt.Errorf("keep-alive: %w", err)
	}
	resp, err := k.grpc.Recv()
	switch {
	case err != nil:
		return 0, fmt.Errorf("keep-alive: %w", err)
	case resp.ID != int64(id):
		return 0, fmt.Errorf("asked to keep lease %x alive, the answer is about %x", id, resp.ID)
	}
	return resp.TTL, nil
}

// end ends the stream and waits until gRPC has let go of it.
func (k *keepAlives) end() {
	k.cancel()
	_, _ = k.grpc.Recv()
}
