package replica

import (
	"context"
	"math"
	"sync"

	"pontoon/internal/fifo"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/lead"
)

// Limits of reads whose fence has been answered. One confirmation answers many fences, and most single keys are
// in memory, so a goroutine per read would cost more than the read. Reads of spans get one each, within the limit.
const (
	pointReadersMax = 16
	spanReadersMax  = 64
	// pointReadsWaiting is how many reads of a key may wait for each reader before another one is started: a
	// reader may wait for the disk.
	pointReadsWaiting = 8
	// readQueueSpare bounds the capacity that an empty queue keeps.
	readQueueSpare = 64
)

// fencedRead is a read whose fence has been answered with an index that has applied here.
type fencedRead struct {
	ctx   context.Context
	req   *pb.FenceRequest
	reply func(*pb.FenceResponse, error)
	index uint64
}

// size is what the client has filled in.
func (f fencedRead) size() int {
	return len(f.req.GetRead().GetSpan().GetStart()) + len(f.req.GetRead().GetSpan().GetEnd())
}

// readQueue is what waits for a reader of the store. Beyond count and bytes it is refused. A read that has timed
// out is answered in its turn, without reading.
type readQueue[T interface{ size() int }] struct {
	readersMax   int
	perReader    int // how many wait for each reader before another one is started
	count, bytes int
	mu           struct {
		sync.Mutex
		queue   fifo.Queue[T]
		bytes   int
		readers int
	}
}

// add queues a read, and reports whether the caller must start a reader.
func (p *readQueue[T]) add(f T) (start bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.queue.Len() >= p.count || lead.Exceeds(p.mu.bytes, f.size(), p.bytes) {
		return false, shard.ErrTooManyRequests
	}
	p.mu.queue.Spare = readQueueSpare
	p.mu.queue.Push(f)
	p.mu.bytes += f.size()
	if p.mu.readers >= p.readersMax || p.mu.queue.Len() <= p.perReader*p.mu.readers {
		return false, nil
	}
	p.mu.readers++
	return true, nil
}

// next takes the oldest read. ok is false if there is none; the reader must end then.
func (p *readQueue[T]) next() (f T, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok = p.mu.queue.Pop(); !ok {
		p.mu.readers--
		return f, false
	}
	p.mu.bytes -= f.size()
	return f, true
}

// serveFenced reads for a fence that has been answered. It uses another goroutine, because a read may wait for
// the disk.
func (d *reads) serveFenced(f fencedRead) {
	d.r.load.read(f.req.Read.Span)
	q := &d.pointReads
	if !pb.ToSpan(f.req.Read.Span).IsPoint() {
		q = &d.spanReads
	}
	start, err := q.add(f)
	if err != nil {
		f.reply(nil, err)
	}
	if start {
		d.r.spawn(func() { q.drain(d.readFenced) }, func() {
			q.drain(func(f fencedRead) { f.reply(nil, shard.ErrUnavailable) })
		})
	}
}

// drain is one reader's work.
func (p *readQueue[T]) drain(fn func(T)) {
	for f, ok := p.next(); ok; f, ok = p.next() {
		fn(f)
	}
}

func (d *reads) readFenced(f fencedRead) {
	if f.ctx.Err() != nil {
		f.reply(nil, shard.ErrTimeout)
		return
	}
	resp, err := d.read(f.ctx, f.req.Read)
	if err != nil {
		f.reply(nil, err)
		return
	}
	f.reply(&pb.FenceResponse{Index: f.index, Read: resp}, nil)
}

// readPoint reads a key for a caller that must not wait for the file.
func (d *reads) readPoint(f fencedRead) {
	ref, err := d.r.stores.acquire()
	if err != nil {
		f.reply(nil, err)
		return
	}
	rev := f.req.Read.Revision
	if rev <= 0 {
		rev = math.MaxInt64
	}
	held := !f.req.Read.CountOnly && ref.InMemory(f.req.Read.Span.GetStart(), rev)
	d.r.stores.release(ref)
	if held {
		d.readFenced(f)
		return
	}
	d.serveFenced(f)
}

// predictionsMax bounds the predictions that run at a time.
const predictionsMax = 64

// asyncPrediction is a prediction that waits to run. A request in the table has at most one.
type asyncPrediction struct {
	l *lead.Leader
	p *lead.Prediction
}

func (asyncPrediction) size() int { return 0 }

// predict runs a prediction on another goroutine.
func (q *pump) predict(a asyncPrediction) {
	start, err := q.predictions.add(a)
	if err != nil {
		a.p.Fail(err)
		q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
	}
	if start {
		q.spawn(func() { q.predictions.drain(q.runPrediction) }, func() {
			q.predictions.drain(func(a asyncPrediction) {
				a.p.Fail(shard.ErrStopped)
				q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
			})
		})
	}
}

func (q *pump) runPrediction(a asyncPrediction) {
	ref, err := q.r.stores.acquire()
	if err != nil {
		a.p.Fail(err)
	} else {
		a.p.Run(q.r.base(ref.Store))
		q.r.stores.release(ref)
	}
	q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
}
