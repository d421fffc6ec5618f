package backend

import (
	"sync"
	"time"
)

// AskedFor is how long a question to all nodes to close a revision counts for every hub. It must be less than
// the time after which hubs ask again.
const AskedFor = 50 * time.Millisecond

// Asked notes at which revision all nodes were asked to close. All hubs that watch a write want the same at
// nearly the same time: one question will do, for a while, because a question may be lost.
type Asked struct {
	mu   sync.Mutex
	rev  int64     // by this process or another
	when time.Time // that was
}

// Due reports whether everybody is to be asked to close at a revision, and notes it.
func (a *Asked) Due(rev int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if rev <= a.rev && now.Sub(a.when) < AskedFor {
		return false
	}
	a.rev, a.when = max(rev, a.rev), now
	return true
}
