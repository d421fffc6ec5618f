package harness

import (
	"os/exec"
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
	ended := make(chan error, several)
	children := make([]*exec.Cmd, several)
	for i := range children {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = childAttr()
		children[i] = cmd
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked
			locked.Done()
			locked.Wait()
			if err := here(cmd.Start); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, cmd := range children {
		go func() { ended <- cmd.Wait() }()
	}
	select {
	case err := <-ended:
		t.Fatalf("one has ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	for _, cmd := range children {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-ended
	}
}
