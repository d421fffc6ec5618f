package tlsport

import (
	"container/list"
	"context"
	"sync"
)

// places bounds how many handshakes use the processors at once. All others wait for one, in the order in which they came to need it: so what is there
// already runs beside a storm of connections, and is not one of a thousand that want a processor. Those whose clients were answered go before those
// that begin: they are nearly done, and who lets them wait for all beginners has more and more that are.
type places struct {
	max     int
	waitMax int // how many may wait before roomy keeps its callers

	mu struct {
		sync.Mutex
		used  int
		begun *list.List    // of chan struct{}: closed for the one that gets a place
		queue *list.List    // as well, of those that have not begun
		roomy chan struct{} // closed once fewer wait than waitMax; nil: nobody waits for that
	}
}

func newPlaces(most, waitMax int) *places {
	p := &places{max: most, waitMax: waitMax}
	p.mu.begun, p.mu.queue = list.New(), list.New()
	return p
}

// take waits for a place, which has to be given back, until ctx ends: for the beginning of a handshake, or for its end. It tells whether it had to wait.
func (p *places) take(ctx context.Context, begins bool) (waited bool, err error) {
	p.mu.Lock()
	if p.mu.used < p.max {
		p.mu.used++
		p.mu.Unlock()
		return false, nil
	}
	mine := make(chan struct{})
	queue := p.mu.begun
	if begins {
		queue = p.mu.queue
	}
	e := queue.PushBack(mine)
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
		p.leftLocked(queue, e)
	}
	p.mu.Unlock()
	return true, ctx.Err()
}

// give gives a place back, to whoever is next.
func (p *places) give() {
	p.mu.Lock()
	p.giveLocked()
	p.mu.Unlock()
}

func (p *places) giveLocked() {
	for _, queue := range []*list.List{p.mu.begun, p.mu.queue} {
		if next := queue.Front(); next != nil {
			p.leftLocked(queue, next)
			close(next.Value.(chan struct{}))
			return
		}
	}
	p.mu.used--
}

func (p *places) leftLocked(queue *list.List, e *list.Element) {
	queue.Remove(e)
	if p.mu.roomy != nil && p.mu.queue.Len() < p.waitMax {
		close(p.mu.roomy)
		p.mu.roomy = nil
	}
}

// roomy waits until fewer wait to begin than may, or ctx ends.
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
	return p.mu.begun.Len() + p.mu.queue.Len()
}
