package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/durable"
	"pontoon/placement"
	"pontoon/shard"
)

const (
	// quotaEvery is how often the ranges of a node are measured whose quota leaves it less than quotaNear, and quotaRarely of any other.
	quotaEvery  = 250 * time.Millisecond
	quotaRarely = 4 * time.Second
	quotaNear   = 1 << 30 // no node writes that much between two looks
	// quotaWaitersMax bounds the requests that wait until the alarm is raised which refuses them.
	quotaWaitersMax = 4096
)

// quota is how much the ranges of a node take, and may. It is measured now and then; between two looks what their leaders here take in is added up.
// Where it is too much the node raises the alarm that it is full, and from the next answer of the oracle on nobody makes the store larger.
type quota struct {
	stated int64 // as the operator has it: below 0: none, 0: what the disk allows
	dir    string
	sizes  func() int64                    // what the ranges take
	raise  func(ctx context.Context) error // the alarm

	taken    atomic.Int64 // at the last look
	admitted atomic.Int64 // since
	limit    atomic.Int64 // at the last look

	looking sync.Mutex // one look at a time
	mu      struct {
		sync.Mutex
		raising bool
		waiting []quotaWaiter
	}
	wg  sync.WaitGroup  // looks that somebody waits for
	ctx context.Context // ends with run
	end context.CancelFunc
}

// quotaWaiter is a request that did not fit at the last look.
type quotaWaiter struct {
	cost   int64
	answer func(error)
}

func newQuota(stated int64, dir string, sizes func() int64, raise func(context.Context) error) *quota {
	q := &quota{stated: stated, dir: dir, sizes: sizes, raise: raise}
	q.limit.Store(placement.NoQuota)
	q.ctx, q.end = context.WithCancel(context.Background())
	return q
}

// Admit reports whether there is room for a request that makes the store larger by so much, and counts it. It does not block.
func (q *quota) Admit(cost int64) bool {
	limit := q.limit.Load()
	if limit < 0 {
		return true
	}
	if q.taken.Load()+q.admitted.Add(cost) >= limit {
		q.admitted.Add(-cost)
		return false
	}
	return true
}

// Refuse is called for a request that Admit has refused. answer is called once, from any goroutine: with nil where there is room after all, else
// with shard.ErrNoSpace when the alarm has been raised or cannot be, or at once with shard.ErrTooManyRequests where too many wait. It does not block.
func (q *quota) Refuse(cost int64, answer func(error)) {
	q.mu.Lock()
	if len(q.mu.waiting) >= quotaWaitersMax {
		q.mu.Unlock()
		answer(shard.ErrTooManyRequests)
		return
	}
	q.mu.waiting = append(q.mu.waiting, quotaWaiter{cost, answer})
	begin := !q.mu.raising
	q.mu.raising = true
	q.mu.Unlock()
	if begin {
		q.wg.Go(q.settle)
	}
}

// settle looks closely and answers who waits. Nobody is refused before the alarm has been raised: one who fits says nothing of the next.
func (q *quota) settle() {
	for {
		q.look()
		q.mu.Lock()
		waiting := q.mu.waiting
		q.mu.waiting = nil
		if len(waiting) == 0 {
			q.mu.raising = false
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		fits := 0
		for fits < len(waiting) && q.Admit(waiting[fits].cost) {
			waiting[fits].answer(nil)
			fits++
		}
		if fits == len(waiting) {
			continue
		}
		_ = q.raise(q.ctx) // who asked is refused in any case, and the next one raises it again
		for _, w := range waiting[fits:] {
			w.answer(shard.ErrNoSpace)
		}
	}
}

// look measures.
func (q *quota) look() {
	q.looking.Lock()
	defer q.looking.Unlock()
	q.admitted.Store(0)
	taken := q.sizes()
	limit := placement.NoQuota
	if q.stated > 0 {
		limit = q.stated
	} else if free, used, err := durable.Space(q.dir); err == nil {
		limit = placement.Quota(q.stated, taken, free, used)
	}
	q.taken.Store(taken)
	q.limit.Store(limit)
}

// run measures until ctx ends, and raises the alarm where what others have taken in for this node has filled it.
func (q *quota) run(ctx context.Context) {
	if q.stated < 0 {
		return
	}
	defer q.wg.Wait()
	defer q.end()
	for {
		before := q.taken.Load()
		q.look()
		if now := q.taken.Load(); q.limit.Load() >= 0 && now >= q.limit.Load() && now > before {
			q.Refuse(0, func(error) {})
		}
		every := quotaRarely
		if limit := q.limit.Load(); limit >= 0 && limit-q.taken.Load() < quotaNear {
			every = quotaEvery
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
	}
}

// register lets the quota be seen.
func (q *quota) register(gauge func(name, help string, fn func() float64)) {
	gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes that the ranges of this node take, as its quota counts them.", func() float64 { return float64(q.sizes()) })
	gauge("etcd_server_quota_backend_bytes", "Bytes that the ranges of this node may take; -1: what its disk holds.", func() float64 { return float64(q.limit.Load()) })
}

// raiseNoSpace raises the alarm of a node, unless it is raised already.
func raiseNoSpace(ctx context.Context, h *Host) error {
	client, self := h.cluster.Client, h.cfg.Identity.Node
	for _, a := range client.Settings().Alarms {
		if a == (placement.Alarm{Member: self, Kind: placement.AlarmNoSpace}) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, alarmWait*h.cfg.Election)
	defer cancel()
	h.log.Warn("the ranges of this node have reached its quota: the alarm NOSPACE is raised", "taken", h.quota.taken.Load(), "quota", h.quota.limit.Load())
	err := client.SetAlarm(ctx, self, placement.AlarmNoSpace, true)
	if err != nil && !errors.Is(err, context.Canceled) {
		h.log.Warn("the alarm NOSPACE could not be raised", "error", err)
	}
	return err
}

// alarmWait is for how many election timeouts a request that does not fit waits until the alarm is raised.
const alarmWait = 2
