package host

import (
	"sync"
	"time"

	"pontoon/internal/backend"
)

// sumShare is the share of one processor, one in so many, that adding up all replicas takes at most for those who ask from elsewhere.
const sumShare = 500

// sums are the sizes of all replicas together, for those who ask each second from elsewhere: every gateway, and the meta group's leader. To add them up is a
// walk over all replicas, so an answer is kept for sumShare times as long as that took: with few ranges it is always a new one, with a thousand it is a
// few seconds old. What this node tells its own clients is added up each time.
type sums struct {
	walk func() backend.Sizes
	now  func() time.Time

	mu    sync.Mutex // held while somebody walks: who comes meanwhile has that answer
	last  backend.Sizes
	until time.Time
}

func newSums(walk func() backend.Sizes) *sums { return &sums{walk: walk, now: bootClock} }

func (s *sums) sizes() backend.Sizes {
	s.mu.Lock()
	defer s.mu.Unlock()
	began := s.now()
	if began.Before(s.until) {
		return s.last
	}
	s.last = s.walk()
	ended := s.now()
	s.until = ended.Add(min(sumShare*ended.Sub(began), sumAgeMax))
	return s.last
}

// sumAgeMax bounds how old an answer may be: a walk that was slow because the machine was does not count for long.
const sumAgeMax = 5 * time.Second
