package harness

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestThreadsThatEnd: servers outlive the threads of goroutines that were locked to theirs, whoever has started them.
func TestThreadsThatEnd(t *testing.T) {
	const several = 4 // of which one at most has the thread of the program, which does not end
	var all, locked sync.WaitGroup
	locked.Add(several)
	nodes := make([]*Node, several)
	for i := range nodes {
		n := &Node{
			Name: fmt.Sprint(i), binary: "sleep", Args: []string{"60"}, LogFile: filepath.Join(t.TempDir(), "log"),
			place: func(start func() error) error { return start() },
		}
		nodes[i] = n
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked
			locked.Done()
			locked.Wait()
			if err := n.Start(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, n := range nodes {
		select {
		case <-n.run.exited:
			t.Errorf("%s has ended: %v", n.Name, n.run.err)
		case <-time.After(100 * time.Millisecond):
		}
		if err := n.Kill(); err != nil {
			t.Error(err)
		}
	}
}
