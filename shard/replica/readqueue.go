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

// Reads whose fence has been answered. A proof of leadership answers many fences at once, and most
// single keys are in memory: a goroutine for each would cost more than its read. Reads of more than a key
// get one each, as far as that goes.
const (
	pointReadersMax = 16
	wideReadersMax  = 64
	// pointReadsWaiting is how many reads of a key may wait behind each reader, which may be waiting for
	// the disk, before another one helps.
	pointReadsWaiting = 8
	// readQueueSpare bounds the room that a range keeps for reads that wait.
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

// readQueue is what waits for a reader of the store. Beyond count and bytes it is refused; who has given
// up is answered in its turn, without a read.
type readQueue[T interface{ size() int }] struct {
	readersMax   int
	perReader    int // so many wait for each reader before another one is started
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
	if p.mu.queue.Len() >= p.count || lead.Over(p.mu.bytes, f.size(), p.bytes) {
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

// next takes the oldest read; false: there is none, and the reader's time is over.
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

// serveFenced reads for a fence that has been answered, on another goroutine: a read may wait for
// the disk.
func (d *reads) serveFenced(f fencedRead) {
	q := &d.points
	if !pb.ToSpan(f.req.Read.Span).IsPoint() {
		q = &d.wides
	}
	start, err := q.add(f)
	if err != nil {
		f.reply(nil, err)
	}
	if start {
		d.r.spawn(func() { q.each(d.readFenced) }, func() {
			q.each(func(f fencedRead) { f.reply(nil, shard.ErrUnavailable) })
		})
	}
}

// each is one reader's work.
func (p *readQueue[T]) each(fn func(T)) {
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

// readPoint reads a key for a caller that may not wait for the file.
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

// predictionsMax bounds the predictions of a leader that are carried out at a time.
const predictionsMax = 64

// apart is a prediction that waits for its turn. There is one at most for a request in the table.
type apart struct {
	l *lead.Leader
	p *lead.Prediction
}

func (apart) size() int { return 0 }

// predict carries a prediction out on another goroutine.
func (q *pump) predict(a apart) {
	start, err := q.predictions.add(a)
	if err != nil {
		a.p.Fail(err)
		q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
	}
	if start {
		q.spawn(func() { q.predictions.each(q.predictNow) }, func() {
			q.predictions.each(func(a apart) {
				a.p.Fail(shard.ErrStopped)
				q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
			})
		})
	}
}

func (q *pump) predictNow(a apart) {
	ref, err := q.r.stores.acquire()
	if err != nil {
		a.p.Fail(err)
	} else {
		a.p.Run(q.r.base(ref.Store))
		q.r.stores.release(ref)
	}
	q.deliver(func() { a.l.Evaluations.Predicted(a.p) })
}
