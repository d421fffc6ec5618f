package processors

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pontoon/bench/quota"
)

// burn uses up so much processor time.
func burn(d time.Duration) error {
	used := func() (time.Duration, error) {
		var u unix.Rusage
		err := unix.Getrusage(unix.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
	}
	first, err := used()
	for now := first; err == nil && now-first < d; {
		now, err = used()
	}
	return err
}

// TestMain is also a process under a limit.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESSORS_CHILD") == "" {
		os.Exit(m.Run())
	}
	meter := Machine()
	meter.Busy()
	if err := burn(60 * time.Millisecond); err != nil {
		fmt.Println(err)
	}
	busy := meter.Busy()
	fmt.Println(meter.Limit(), busy > 0.6)
}

// What the kernel of this machine says is understood, too: a process that uses up a twentieth of a processor, all that
// it may, is busy.
func TestUnderALimitOfThisMachine(t *testing.T) {
	g, err := quota.Make(1, 0.05)
	if err != nil {
		t.Skip(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	command := append(g.Command(0), os.Args[0])
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "PROCESSORS_CHILD=1")
	out, err := cmd.CombinedOutput()
	if want := "0.05 true\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}
