package tuning

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// It is tried in a process of its own: there is no way back for this one's threads.
func TestBatch(t *testing.T) {
	if os.Getenv("TUNING_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=TestBatch", "-test.v")
		cmd.Env = append(os.Environ(), "TUNING_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := Batch(); err != nil {
		t.Fatal(err)
	}
	// Threads that are started later take after the others.
	for range 4 {
		begun := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(begun)
			select {}
		}()
		<-begun
	}
	threads, err := os.ReadDir(threadsDir)
	if err != nil || len(threads) < 5 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, th := range threads {
		id, err := strconv.Atoi(th.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		if attr.Policy != unix.SCHED_BATCH {
			t.Errorf("thread %d is in class %d", id, attr.Policy)
		}
	}
}
