package tlsport

import (
	"container/list"
	"context"
	"sync"
)

// places bounds how many handshakes use the processors at once. All others wait for one, in the order in which they came to need it: so what is there
// already runs beside a storm of connections, and is not one of a thousand that want a processor.
type places struct {
	max     int
	waitMax int // how many may wait before roomy keeps its callers

	mu struct {
		sync.Mutex
		used  int
		queue *list.List    // of chan struct{}: closed for the one that gets a place
		roomy chan struct{} // closed once fewer wait than waitMax; nil: nobody waits for that
	}
}

func newPlaces(most, waitMax int) *places {
	p := &places{max: most, waitMax: waitMax}
	p.mu.queue = list.New()
	return p
}

// take waits for a place, which has to be given back, until ctx ends. It tells whether it had to wait.
func (p *places) take(ctx context.Context) (waited bool, err error) {
	p.mu.Lock()
	if p.mu.used < p.max {
		p.mu.used++
		p.mu.Unlock()
		return false, nil
	}
	mine := make(chan struct{})
	e := p.mu.queue.PushBack(mine)
	p.mu.Unlock()
	select {
	case <-mine:
		return true, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	select {
	case <-mine: // in the same moment: it is the next one's
		p.giveLocked()
	default:
		p.leftLocked(e)
	}
	p.mu.Unlock()
	return true, ctx.Err()
}

// give gives a place back, to whoever has waited for longest.
func (p *places) give() {
	p.mu.Lock()
	p.giveLocked()
	p.mu.Unlock()
}

func (p *places) giveLocked() {
	next := p.mu.queue.Front()
	if next == nil {
		p.mu.used--
		return
	}
	p.leftLocked(next)
	close(next.Value.(chan struct{}))
}

func (p *places) leftLocked(e *list.Element) {
	p.mu.queue.Remove(e)
	if p.mu.roomy != nil && p.mu.queue.Len() < p.waitMax {
		close(p.mu.roomy)
		p.mu.roomy = nil
	}
}

// roomy waits until fewer wait for places than may, or ctx ends.
func (p *places) roomy(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		if p.mu.queue.Len() < p.waitMax {
			p.mu.Unlock()
			return
		}
		if p.mu.roomy == nil {
			p.mu.roomy = make(chan struct{})
		}
		there := p.mu.roomy
		p.mu.Unlock()
		select {
		case <-there:
		case <-ctx.Done():
		}
	}
}

// waiting is how many wait for a place.
func (p *places) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.queue.Len()
}
