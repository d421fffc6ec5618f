package host

import (
	"time"

	"golang.org/x/sys/unix"

	"pontoon/internal/failpoint"
)

// bootClock is a clock that keeps counting while the machine is suspended, so that a lease
// does not outlive a sleep. It tells durations: its zero means nothing.
func bootClock() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Now() // no such clock here: monotonic, but it stops while suspended
	}
	return failpoint.Clock(time.Unix(ts.Unix()))
}
