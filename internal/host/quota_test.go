package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"pontoon/shard"
)

// TestQuota: what leaders take in counts between two looks; a look corrects it; who does not fit is refused once the alarm is raised, and one alarm serves all
// who wait.
func TestQuota(t *testing.T) {
	var taken, raised atomic.Int64
	q := newQuota(1000, t.TempDir(), taken.Load, func(context.Context) error {
		raised.Add(1)
		return nil
	})
	defer q.end()
	if !q.Admit(1 << 40) {
		t.Error("refused before anything was measured")
	}
	q.look()
	for range 3 {
		if !q.Admit(300) {
			t.Error("there is room")
		}
	}
	if q.Admit(100) {
		t.Error("there is none")
	}
	refuse := func(cost int64) (err error) {
		var wg sync.WaitGroup
		wg.Add(1)
		q.Refuse(cost, func(e error) { err = e; wg.Done() })
		wg.Wait()
		return err
	}
	if err := refuse(100); err != nil || raised.Load() != 0 { // nothing of it has come to be: it was refused, or deleted before it was written
		t.Errorf("there is room after all: %v, %d alarms", err, raised.Load())
	}
	taken.Store(950)
	if q.look(); q.Admit(50) {
		t.Error("what is taken counts")
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := refuse(50); !errors.Is(err, shard.ErrNoSpace) {
				t.Errorf("refused with %v", err)
			}
		})
	}
	wg.Wait()
	if n := raised.Load(); n == 0 || n > 20 {
		t.Errorf("%d alarms", n)
	}
	none := newQuota(-1, t.TempDir(), taken.Load, nil)
	defer none.end()
	none.run(t.Context())
	if !none.Admit(1 << 60) {
		t.Error("a quota where there is none")
	}
}
