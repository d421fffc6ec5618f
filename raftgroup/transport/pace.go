package transport

import (
	"context"
	"sync"
	"time"
)

// pace lets so many bytes a second go by, over all that share it. Who has taken some waits until those before have had their time, so
// that one piece may always go at once, whatever its size.
type pace struct {
	rate int // bytes a second; 0: any number
	now  func() time.Time
	mu   struct {
		sync.Mutex
		free time.Time // when all that was taken has had its time
	}
}

// take takes n bytes, and returns how long whoever takes them waits.
func (p *pace) take(n int) time.Duration {
	if p.rate <= 0 || n == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	from := p.mu.free
	if from.Before(now) {
		from = now
	}
	p.mu.free = from.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return from.Sub(now)
}

// wait takes n bytes and waits, but not for longer than ctx.
func (p *pace) wait(ctx context.Context, n int) error {
	d := p.take(n)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
