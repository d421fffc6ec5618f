package watchfanout

import "sync"

// pool runs tasks on a fixed number of goroutines, in the order in which they came. Its queue is bounded by
// what submits to it: a watch has at most one read, which leaves the queue with its watch, a hub one refresh.
type pool struct {
	wg sync.WaitGroup

	mu struct {
		sync.Mutex
		tasks  waiters[task]
		closed bool
	}
	more *sync.Cond
}

// task is something to do, unless the watch for which it is done is gone.
type task struct {
	run func()
	w   *watch // nil: none
}

func (t task) abandoned() bool { return t.w != nil && t.w.abandoned() }

// always is a task that is no watch's.
func always(run func()) task { return task{run: run} }

func newPool(workers int) *pool {
	p := &pool{}
	p.more = sync.NewCond(&p.mu)
	for range workers {
		p.wg.Go(p.work)
	}
	return p
}

// add queues a task; after close it is dropped.
func (p *pool) add(t task) {
	p.mu.Lock()
	if !p.mu.closed {
		p.mu.tasks.add(t)
	}
	p.mu.Unlock()
	p.more.Signal()
}

// close drops what waits and returns when the running tasks have.
func (p *pool) close() {
	p.mu.Lock()
	p.mu.closed, p.mu.tasks = true, waiters[task]{}
	p.mu.Unlock()
	p.more.Broadcast()
	p.wg.Wait()
}

func (p *pool) work() {
	for {
		p.mu.Lock()
		run := p.popLocked()
		for ; run == nil && !p.mu.closed; run = p.popLocked() {
			p.more.Wait()
		}
		p.mu.Unlock()
		if run == nil {
			return
		}
		run()
	}
}

// popLocked takes the oldest task whose watch is still there; nil: there is none.
func (p *pool) popLocked() func() {
	for t, ok := p.mu.tasks.first(); ok; t, ok = p.mu.tasks.first() {
		if !t.abandoned() {
			return t.run
		}
	}
	return nil
}
