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
