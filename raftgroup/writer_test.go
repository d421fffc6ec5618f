package raftgroup

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// writtenLog notes when it was written to, and by how many groups at once.
type writtenLog struct {
	Log
	began  time.Time
	writes []string
}

func (l *writtenLog) Save(batch []Update) error {
	l.writes = append(l.writes, fmt.Sprintf("%v: %d", time.Since(l.began), len(batch)))
	return nil
}

// Appends that come soon after a write share the next one, which is due when they have gathered for so long since that. What comes later waits for nobody, and
// nothing does where nothing gathers.
func TestAppendsGatherAfterAWrite(t *testing.T) {
	for gather, want := range map[time.Duration][]string{
		0:                    {"0s: 1", "1ms: 1", "2ms: 2", "10ms: 1"},
		3 * time.Millisecond: {"0s: 1", "3ms: 3", "10ms: 1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &writtenLog{began: time.Now()}
			h, _ := partsHost(t, func(c *Config) { c.Log, c.Gather = log, func() time.Duration { return gather } })
			h.wg.Go(h.writer.loop)
			push := func(groups int) {
				h.writer.mu.Lock() // so that they come at once
				for range groups {
					h.writer.mu.tasks = append(h.writer.mu.tasks, appendTask{update: &Update{}})
				}
				h.writer.mu.Unlock()
				h.writer.more.Signal()
			}
			for _, step := range []struct {
				after  time.Duration
				groups int
			}{{0, 1}, {time.Millisecond, 1}, {time.Millisecond, 2}, {8 * time.Millisecond, 1}} {
				<-time.After(step.after)
				push(step.groups)
				synctest.Wait()
			}
			began := time.Now()
			if h.Close(); time.Since(began) != 0 {
				t.Errorf("closing waited %v for company", time.Since(began))
			}
			if !slices.Equal(log.writes, want) {
				t.Errorf("gathering for %v: written %q, want %q", gather, log.writes, want)
			}
		})
	}
}

// What the groups of a round append is written when the round is over, with one write.
func TestARoundIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &writtenLog{began: time.Now()}
		h, _ := partsHost(t, func(c *Config) { c.Log = log })
		h.wg.Go(h.writer.loop)
		synctest.Wait()
		for range 3 {
			g := &group{h: h}
			g.appends.pushNow(g, appendTask{update: &Update{}})
			synctest.Wait()
		}
		if len(log.writes) != 0 {
			t.Errorf("written within the round: %q", log.writes)
		}
		endRound(h)
		synctest.Wait()
		if !slices.Equal(log.writes, []string{"0s: 3"}) {
			t.Errorf("written: %q", log.writes)
		}
		h.Close()
	})
}
