package sim

import (
	"fmt"
	"time"
)

// leaseBook is what the clients know of their leases.
type leaseBook struct {
	byID  map[int64]*leaseNote
	alive []int64 // that may be used
	next  int64
}

type leaseNote struct {
	ttl      time.Duration
	renewals []span // from the question to where it cannot have ended
	revoked  time.Time
}

// span is a time in which the lease certainly lives: from the answer to a TTL after the question.
type span struct{ from, to time.Time }

func newLeaseBook() *leaseBook { return &leaseBook{byID: map[int64]*leaseNote{}, next: 1000} }

// renewed notes an answer that the lease lives.
func (b *leaseBook) renewed(id int64, asked, answered time.Time, ttl int64) {
	n := b.byID[id]
	d := time.Duration(ttl) * time.Second
	n.ttl = max(n.ttl, d)
	if end := asked.Add(d); end.After(answered) {
		n.renewals = append(n.renewals, span{answered, end})
	}
}

// revoke notes that somebody is about to revoke it.
func (b *leaseBook) revoke(id int64, at time.Time) {
	if n := b.byID[id]; n.revoked.IsZero() {
		n.revoked = at
	}
}

// mayEnd reports an end that comes too early.
func (b *leaseBook) mayEnd(id int64, at time.Time) error {
	n := b.byID[id]
	if n == nil {
		return fmt.Errorf("lease: %d ended, which nobody granted", id)
	}
	for _, s := range n.renewals {
		if at.After(s.from) && at.Before(s.to) && (n.revoked.IsZero() || at.Before(n.revoked)) {
			return fmt.Errorf("lease: %d ended %v too early", id, s.to.Sub(at))
		}
	}
	return nil
}
