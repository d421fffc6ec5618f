package watchfanout

import "sync"

// pool runs tasks on a fixed number of goroutines, in the order in which they came. Its queue
// is bounded by what submits to it: a watch has at most one read, a hub one refresh.
type pool struct {
	wg sync.WaitGroup

	mu struct {
		sync.Mutex
		tasks  []func()
		closed bool
	}
	more *sync.Cond
}

func newPool(workers int) *pool {
	p := &pool{}
	p.more = sync.NewCond(&p.mu)
	for range workers {
		p.wg.Go(p.work)
	}
	return p
}

// add queues a task; after close it is dropped.
func (p *pool) add(task func()) {
	p.mu.Lock()
	if !p.mu.closed {
		p.mu.tasks = append(p.mu.tasks, task)
	}
	p.mu.Unlock()
	p.more.Signal()
}

// close drops what waits and returns when the running tasks have.
func (p *pool) close() {
	p.mu.Lock()
	p.mu.closed, p.mu.tasks = true, nil
	p.mu.Unlock()
	p.more.Broadcast()
	p.wg.Wait()
}

func (p *pool) work() {
	for {
		p.mu.Lock()
		for len(p.mu.tasks) == 0 && !p.mu.closed {
			p.more.Wait()
		}
		task := p.popLocked()
		p.mu.Unlock()
		if task == nil {
			return
		}
		task()
	}
}

func (p *pool) popLocked() func() {
	if len(p.mu.tasks) == 0 {
		return nil
	}
	task := p.mu.tasks[0]
	p.mu.tasks[0] = nil
	p.mu.tasks = p.mu.tasks[1:]
	return task
}
