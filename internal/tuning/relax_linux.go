package tuning

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// relaxed is in the environment of a process that has taken the place of another: it is not replaced
// again, wherever the system forgets the slack on the way.
const relaxed = "PONTOON_RELAXED"

// slackDefault is what Linux gives to the first process. One with another value has it from somebody
// who has chosen it, such as systemd's TimerSlackNSec=.
const slackDefault = 50 * time.Microsecond

// self is the program that runs, also where its file has been renamed or deleted.
const self = "/proc/self/exe"

// Relax lets the system be late by up to slack with the timers of all threads of the process
// (PR_SET_TIMERSLACK in prctl(2)). A thread takes its slack from the one that starts it, and Go's runtime has
// started threads before main: the process therefore executes itself again (execve(2)), with the
// same process ID, arguments and environment, and does not return. Whoever calls it should have opened
// and written nothing yet. It returns nil in the process that has taken the place, and where somebody has
// chosen a slack; an error says that all is as it was.
func Relax(slack time.Duration) error {
	if _, again := os.LookupEnv(relaxed); again {
		return os.Unsetenv(relaxed)
	}
	runtime.LockOSThread() // the slack is a thread's
	defer runtime.UnlockOSThread()
	have, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("tuning: timer slack: %w", err)
	}
	if time.Duration(have) != slackDefault {
		return nil
	}
	if err := setSlack(slack); err != nil {
		return err
	}
	path := program()
	err = syscall.Exec(path, os.Args, slices.Concat(os.Environ(), []string{relaxed + "=1"}))
	err = fmt.Errorf("tuning: %s: %w", path, err)
	if back := setSlack(slackDefault); back != nil {
		return back
	}
	return err
}

func setSlack(slack time.Duration) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		return fmt.Errorf("tuning: timer slack: %w", err)
	}
	return nil
}

// program is the path by which the process was started, if it still leads to the program that runs: the
// system names a process after the last part of it, and people look for that name.
func program() string {
	running, err := os.Stat(self)
	if err != nil {
		return self
	}
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self
	}
	if there, err := os.Stat(path); err != nil || !os.SameFile(there, running) {
		return self
	}
	return path
}
