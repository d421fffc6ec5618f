package tuning

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const threadsDir = "/proc/self/task"

// Batch puts all threads of the process, and with them those that they start later, into the class
// SCHED_BATCH (sched(7)). A thread in another class than the normal one stays there: somebody has
// chosen it. It needs no privilege. An error says that some threads may be in one class and some in the
// other, which does no harm.
func Batch() error {
	// A thread that is started meanwhile takes after the one that starts it, which may not have had its
	// turn: again, until there was none to change.
	for range 10 {
		changed, err := batchOnce()
		if changed == 0 || err != nil {
			return err
		}
	}
	return nil
}

func batchOnce() (changed int, err error) {
	threads, err := os.ReadDir(threadsDir)
	if err != nil {
		return 0, fmt.Errorf("tuning: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return changed, fmt.Errorf("tuning: %s/%s: %w", threadsDir, t.Name(), err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err == nil && attr.Policy == unix.SCHED_NORMAL {
			attr.Policy = unix.SCHED_BATCH
			err = unix.SchedSetAttr(id, attr, 0)
			changed++
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return changed, fmt.Errorf("tuning: thread %d: %w", id, err)
		}
	}
	return changed, nil
}
