package processors

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"pontoon/bench/quota"
)

// TestMain is also a process under a limit.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESSORS_CHILD") == "" {
		os.Exit(m.Run())
	}
	fmt.Println(Machine().Limit())
}

// What the kernel of this machine says is understood, too.
func TestUnderALimitOfThisMachine(t *testing.T) {
	g, err := quota.Make(1, quota.Limits{CPUs: 0.05})
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
	if want := "0.05\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}
