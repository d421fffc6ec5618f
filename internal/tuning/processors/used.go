package processors

import (
	"syscall"
	"time"
)

// Used is how much processor time the process has used since it began; 0 where the system does not say.
func Used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
