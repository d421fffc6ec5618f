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

// Share is the part of a limit, 0 to 1, that a process has used which used so much in such a time; 0 if no time has passed.
func Share(used, in time.Duration, limit float64) float64 {
	if in <= 0 {
		return 0
	}
	return min(float64(used)/(float64(in)*limit), 1)
}
