package host

import (
	"context"
	"sync"
	"sync/atomic"

	"pontoon/internal/fifo"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// How many calls that read much run at a time, and how many wait for that; beyond, they are refused, and may be
// tried again. A page is up to 4 MiB, so that bounds its bytes; what waits is bounded in bytes by the mesh. To
// hash a range reads all of it, and must not stand in the way of those who read a page.
const (
	pagesAtOnce, pagesWaiting   = 64, 1 << 14
	scansAtOnce, scansWaiting   = 16, 1 << 12
	hashesAtOnce, hashesWaiting = 4, 1 << 12
)

// pool runs calls that take time, each on a goroutine that receives for nobody.
type pool struct {
	runningMax, waitingMax int

	mu      sync.Mutex
	running int
	waiting fifo.Queue[task]

	refused atomic.Int64
}

type task struct {
	ctx   context.Context
	reply func(*pb.PeerResponse)
	run   func()
}

func newPool(running, waiting int) *pool {
	return &pool{runningMax: running, waitingMax: waiting, waiting: fifo.Queue[task]{Spare: 1024}}
}

// submit runs a call soon, and returns at once. run replies by itself; reply is for a call that is refused, or
// whose ctx ends while it waits.
func (p *pool) submit(ctx context.Context, reply func(*pb.PeerResponse), run func()) {
	t := task{ctx: ctx, reply: reply, run: run}
	p.mu.Lock()
	switch {
	case p.running < p.runningMax:
		p.running++
		p.mu.Unlock()
		go p.work(t)
	case p.waiting.Len() < p.waitingMax:
		p.waiting.Push(t)
		p.mu.Unlock()
	default:
		p.mu.Unlock()
		p.refused.Add(1)
		reply(failed(shard.ErrTooManyRequests))
	}
}

// work runs a call, and then those that wait.
func (p *pool) work(t task) {
	for {
		if t.ctx.Err() == nil {
			t.run()
		} else {
			t.reply(failed(shard.ErrTimeout))
		}
		var more bool
		if t, more = p.next(); !more {
			return
		}
	}
}

// next takes the oldest call that waits; false: the goroutine is over.
func (p *pool) next() (t task, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok = p.waiting.Pop(); !ok {
		p.running--
	}
	return t, ok
}
