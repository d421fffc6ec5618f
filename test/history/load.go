package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// LoadConfig says what a Load does.
type LoadConfig struct {
	// Prefixes begin all keys; a transaction that is not MultiRange stays within one of them.
	Prefixes []string
	// Keys are the keys per prefix. Default 6.
	Keys int
	// MultiRange allows transactions and deletes over several prefixes.
	MultiRange bool
	// Pause is how long a client rests between two commands. Default 2 ms.
	Pause time.Duration
	// Timeout bounds a command. Default 3 s.
	Timeout time.Duration
	// Compact is the time between two compactions; 0: none.
	Compact time.Duration
	// Seed makes clients choose the same commands again; what they answer depends on the cluster.
	Seed uint64
}

// Load makes requests of all kinds through some clients, and watches.
type Load struct {
	cfg     LoadConfig
	rec     *Recorder
	clients []*clientv3.Client

	answered atomic.Int64
	values   atomic.Int64
	wg       sync.WaitGroup
	cancel   context.CancelFunc

	mu      sync.Mutex
	masters []*Watcher // over all keys, from revision 1 on, one per watching client
	lastErr string
}

// leasesBase makes ids of leases that no server chooses by itself.
const leasesBase = 0x7100_0000

// leaseTTL is the shortest that etcd grants with default timeouts.
const leaseTTL = 2

// NewLoad prepares a load; every client does its share of it.
func NewLoad(rec *Recorder, clients []*clientv3.Client, cfg LoadConfig) *Load {
	if cfg.Keys == 0 {
		cfg.Keys = 6
	}
	if cfg.Pause == 0 {
		cfg.Pause = 2 * time.Millisecond
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	return &Load{cfg: cfg, rec: rec, clients: clients}
}

// Answered counts the commands that were answered so far.
func (l *Load) Answered() int64 { return l.answered.Load() }

// LastError is the last outcome that was not an answer, "" when there was none.
func (l *Load) LastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastErr
}

// Start begins: a worker per client, a watch over everything and a changing one for every third
// of them, and the compactor.
func (l *Load) Start(ctx context.Context, watching []*clientv3.Client) {
	ctx, l.cancel = context.WithCancel(ctx)
	for i, cl := range watching {
		id := 1000 + i
		l.masters = append(l.masters, nil)
		l.background(func() { l.followAll(ctx, l.rec.Client(id, cl), i) })
	}
	for i, cl := range l.clients {
		w := &worker{l: l, c: l.rec.Client(i, cl), id: i, rng: rand.New(rand.NewPCG(l.cfg.Seed, uint64(i))), mods: map[string]KV{}}
		l.background(func() { w.run(ctx) })
		if i%3 == 0 {
			ww := &worker{l: l, c: l.rec.Client(2000+i, cl), id: i, rng: rand.New(rand.NewPCG(l.cfg.Seed, uint64(2000+i)))}
			l.background(func() { ww.watch(ctx) })
		}
	}
	if l.cfg.Compact > 0 {
		c := l.rec.Client(3000, l.clients[0])
		l.background(func() { l.compact(ctx, c) })
	}
}

func (l *Load) background(fn func()) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		fn()
	}()
}

// Stop ends the load: commands under way get their time to be answered. Then it waits until the
// watches over everything have shown what was there last, at most for ctx, and ends them.
func (l *Load) Stop(ctx context.Context) error {
	l.cancel()
	l.wg.Wait()
	defer func() {
		for _, m := range l.masters {
			if m != nil {
				m.Stop()
			}
		}
	}()
	c := l.rec.Client(3001, l.clients[0])
	var last *Op
	for last == nil || last.Fate != OK {
		last = l.do(ctx, c, Cmd{Kind: Range, Key: "\x00", End: "\x00"})
		if ctx.Err() != nil {
			return fmt.Errorf("history: the last read: %s", last.Err)
		}
	}
	for i, cl := range l.clients { // one more revision for every prefix: the end of all watches
		w := &worker{l: l, id: i}
		for _, p := range l.cfg.Prefixes {
			op := l.do(ctx, l.rec.Client(i, cl), Cmd{Kind: Put, Key: p + "end", Value: w.value()})
			if op.Fate == OK {
				last = op
			}
		}
		if i == 1 {
			break
		}
	}
	for i, m := range l.masters {
		for m == nil || !m.WaitFor(ctx, last.Result.Rev) {
			if ctx.Err() != nil {
				return fmt.Errorf("history: watch %d over all keys has not reached revision %d", i, last.Result.Rev)
			}
			m = l.resume(ctx, i, m)
		}
	}
	return nil
}

// followAll watches all keys from revision 1 on, and goes on where it was when that ends.
func (l *Load) followAll(ctx context.Context, c *Client, i int) {
	for ctx.Err() == nil {
		next := int64(1)
		l.mu.Lock()
		if old := l.masters[i]; old != nil {
			next = max(next, old.Next())
		}
		m := c.Watch(context.WithoutCancel(ctx), "\x00", "\x00", next)
		l.masters[i] = m
		l.mu.Unlock()
		select {
		case <-m.Done():
			pause(ctx, 100*time.Millisecond)
		case <-ctx.Done():
			return
		}
	}
}

func (l *Load) resume(ctx context.Context, i int, m *Watcher) *Watcher {
	pause(ctx, 100*time.Millisecond)
	c := l.rec.Client(1000+i, l.clients[i%len(l.clients)])
	next := int64(1)
	if m != nil {
		c, next = m.c, m.Next()
	}
	l.masters[i] = c.Watch(ctx, "\x00", "\x00", next)
	return l.masters[i]
}

// seenByAll is the revision that all watches over everything have reached.
func (l *Load) seenByAll() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	rev := int64(Never)
	for _, m := range l.masters {
		if m == nil {
			return 0
		}
		rev = min(rev, m.Next()-1)
	}
	return rev
}

// compact compacts from time to time, never what a watch over everything has yet to see.
func (l *Load) compact(ctx context.Context, c *Client) {
	for pause(ctx, l.cfg.Compact) {
		if rev := l.seenByAll() - 200; rev > 1 && rev < Never/2 {
			l.do(ctx, c, Cmd{Kind: Compact, Rev: rev})
		}
	}
}

// do makes a command in its own time: the end of the load does not cut it off.
func (l *Load) do(ctx context.Context, c *Client, cmd Cmd) *Op {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	defer cancel()
	op := c.Do(ctx, cmd)
	if op.Fate == OK {
		l.answered.Add(1)
	} else {
		l.mu.Lock()
		l.lastErr = op.Cmd.Kind + ": " + op.Err
		l.mu.Unlock()
	}
	return op
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
