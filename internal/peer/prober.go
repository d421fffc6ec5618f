package peer

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// probeEvery is how often one other member is probed: each of n others once in n times that.
	probeEvery = 500 * time.Millisecond
	// probePatience is how long an answer is waited for: longer than any round trip with which a cluster can be worked with.
	probePatience = 5 * time.Second
)

// ProberConfig configures a Prober.
type ProberConfig struct {
	Others func() []shard.NodeID // the other members that there are now; must not block
	Dial   func(shard.NodeID) (grpc.ClientConnInterface, error)
	// Answered is told how long a member took to answer. It must not block; it is called from several goroutines.
	Answered func(node shard.NodeID, took time.Duration)
	Every    time.Duration // default: half a second
}

// Prober asks the other members, one after the other, what costs them next to nothing, and tells how long each takes to answer, however long
// that is. The probes of the membership protocol would not do: theirs are given up after a quarter of a second, so that what is slower than
// that was never seen.
type Prober struct {
	cfg    ProberConfig
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	out map[shard.NodeID]bool // asked, and not answered yet: patience over pace, and not more than there are members
}

// StartProber starts to probe; Close ends it.
func StartProber(cfg ProberConfig) *Prober {
	if cfg.Every <= 0 {
		cfg.Every = probeEvery
	}
	p := &Prober{cfg: cfg, out: map[shard.NodeID]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.run)
	return p
}

// Close ends all probes and waits for them.
func (p *Prober) Close() error {
	p.cancel()
	p.wg.Wait()
	return nil
}

func (p *Prober) run() {
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
		others := p.cfg.Others()
		if len(others) == 0 {
			continue
		}
		node := others[turn%len(others)]
		p.mu.Lock()
		busy := p.out[node]
		p.out[node] = true
		p.mu.Unlock()
		if !busy {
			p.wg.Go(func() { p.probe(node) })
		}
	}
}

// probe asks a member once.
func (p *Prober) probe(node shard.NodeID) {
	defer func() {
		p.mu.Lock()
		delete(p.out, node)
		p.mu.Unlock()
	}()
	cc, err := p.cfg.Dial(node)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, probePatience)
	defer cancel()
	began := time.Now()
	if _, err := pb.NewPeerClient(cc).Discover(ctx, &pb.DiscoverRequest{}); err == nil { // that one fails is counted where it is sent
		p.cfg.Answered(node, time.Since(began))
	}
}
