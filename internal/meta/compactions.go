package meta

import (
	"context"
	"fmt"
	"time"

	"pontoon/shard"
)

// compactions is the leader's task to have the compaction revision logged in the whole key space: ranges do so by themselves when an
// answer of the oracle names it, and the task asks those that have not. It is done when spans that tile the key space have
// said so, whichever ranges hold them by then. Its methods are events, called with the lock held.
type compactions struct {
	m       *Meta
	done    int64 // by spans that tile the key space
	running bool
	due     time.Time // after a failure
	failed  int
	waiting int // callers that wait for the space to be free
}

// compactTimeout bounds one attempt over all ranges.
const compactTimeout = 30 * time.Second

// logged begins the task, unless it runs already: then it goes on to the newest revision by itself.
func (c *compactions) logged() {
	m := c.m
	rev := m.state.CompactRevision()
	if rev <= c.done || c.running || !m.lead.serving {
		return
	}
	c.running = true
	term := m.lead.ownTerm
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(m.ctx, compactTimeout)
		err := m.cfg.Ranges.CompactRanges(ctx, rev, false)
		cancel()
		m.mu.Lock()
		if m.lead.ownTerm == term {
			c.attempted(rev, err)
		}
		m.mu.unlock()
	})
}

// attempted ends an attempt.
func (c *compactions) attempted(rev int64, err error) {
	c.running = false
	if err == nil {
		c.done, c.failed, c.due = max(c.done, rev), 0, time.Time{}
		c.logged()
		return
	}
	m := c.m
	c.due = m.cfg.Now().Add(min(retryPauseMin<<min(c.failed, 10), retryPauseMax))
	if c.failed++; c.failed == 5 {
		m.mu.later(func() {
			m.cfg.Logger.Warn("a compaction has not reached every range yet", "revision", rev, "attempts", 5, "error", err)
		})
	}
}

// tick tries again what is due.
func (c *compactions) tick(now time.Time) {
	if !c.due.After(now) {
		c.logged()
	}
}

// stepDown forgets the task, which the next leader takes up.
func (c *compactions) stepDown() { *c = compactions{m: c.m} }

// awaitPhysical calls done, with the lock held, when the space of what is compacted at rev is free. An error
// says that ctx ended first. The compaction itself has been decided.
func (c *compactions) awaitPhysical(ctx context.Context, rev int64, done func(error)) {
	m := c.m
	c.waiting++
	term := m.lead.ownTerm
	m.wg.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(m.ctx, cancel)
		err := m.cfg.Ranges.CompactRanges(ctx, rev, true)
		stop()
		cancel()
		m.mu.Lock()
		if m.lead.ownTerm == term {
			c.waiting--
		}
		if err != nil { // decided, but not done everywhere as far as is known
			err = fmt.Errorf("%w: %w", shard.ErrAmbiguous, err)
		}
		done(err)
		m.mu.unlock()
	})
}
