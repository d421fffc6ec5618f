package replica

import (
	"context"
	"sync"

	"pontoon/internal/fifo"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Readers of single keys whose fence has been answered. A proof of leadership answers many fences
// at once, and most keys are in memory: a goroutine for each would cost more than its read.
const (
	pointReadersMax = 16
	// pointReadsWaiting is how many reads may wait behind each reader, which may be waiting for the
	// disk, before another one helps.
	pointReadsWaiting = 8
	// pointQueueSpare bounds the room that a range keeps for reads that wait.
	pointQueueSpare = 64
)

// fencedRead is a read whose fence has been answered with an index that has applied here.
type fencedRead struct {
	ctx   context.Context
	req   *pb.FenceRequest
	reply func(*pb.FenceResponse, error)
	index uint64
}

// pointReads are the reads that wait for a reader. As many as the fences that may wait: those
// bound it.
type pointReads struct {
	mu struct {
		sync.Mutex
		queue   fifo.Queue[fencedRead]
		readers int
	}
}

// add queues a read, and reports whether the caller must start a reader.
func (p *pointReads) add(f fencedRead) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.queue.Spare = pointQueueSpare
	p.mu.queue.Push(f)
	if p.mu.readers >= pointReadersMax || p.mu.queue.Len() <= pointReadsWaiting*p.mu.readers {
		return false
	}
	p.mu.readers++
	return true
}

// next takes the oldest read; false: there is none, and the reader's time is over.
func (p *pointReads) next() (f fencedRead, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok = p.mu.queue.Pop(); !ok {
		p.mu.readers--
	}
	return f, ok
}

// serveFenced reads for a fence that has been answered, on another goroutine: a read may wait for
// the disk.
func (r *Replica) serveFenced(f fencedRead) {
	if !pb.ToSpan(f.req.Read.Span).IsPoint() {
		r.spawn(func() { r.readFenced(f) }, func() { f.reply(nil, shard.ErrUnavailable) })
		return
	}
	if r.points.add(f) {
		r.spawn(func() { r.points.each(r.readFenced) }, func() {
			r.points.each(func(f fencedRead) { f.reply(nil, shard.ErrUnavailable) })
		})
	}
}

// each is one reader's work.
func (p *pointReads) each(fn func(fencedRead)) {
	for f, ok := p.next(); ok; f, ok = p.next() {
		fn(f)
	}
}

func (r *Replica) readFenced(f fencedRead) {
	resp, err := r.read(f.ctx, f.req.Read)
	if err != nil {
		f.reply(nil, err)
		return
	}
	f.reply(&pb.FenceResponse{Index: f.index, Read: resp}, nil)
}
