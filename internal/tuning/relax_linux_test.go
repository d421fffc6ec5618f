package tuning

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const slack = 3 * time.Millisecond

// TestMain is also the processes that replace themselves: those of TestRelax.
func TestMain(m *testing.M) {
	if os.Getenv("TUNING_RELAX") == "" {
		os.Exit(m.Run())
	}
	fmt.Println("begins")
	if err := Relax(slack); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, marked := os.LookupEnv(relaxed)
	comm, _ := os.ReadFile("/proc/self/comm")
	fmt.Println("goes on", os.Getpid(), os.Args[1:], marked, strings.TrimSpace(string(comm)))
	for range 4 { // threads of all ages
		have := make(chan int)
		go func() {
			runtime.LockOSThread()
			n, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			have <- n
			select {}
		}()
		fmt.Println("slack", time.Duration(<-have))
	}
	os.Exit(0)
}

func relaxedProcess(t *testing.T, path string, env ...string) (out string, pid int) {
	t.Helper()
	cmd := exec.Command(path, "one", "two words")
	cmd.Env = append(os.Environ(), append(env, "TUNING_RELAX=1")...)
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return string(b), cmd.Process.Pid
}

func TestRelax(t *testing.T) {
	if have, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(have) != slackDefault {
		t.Skipf("the slack is %v already, %v", time.Duration(have), err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := t.TempDir() + "/kv-server" // the process is called after the name by which it was started
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	out, pid := relaxedProcess(t, link)
	want := fmt.Sprintf("begins\nbegins\ngoes on %d [one two words] false kv-server\n", pid) +
		strings.Repeat(fmt.Sprintf("slack %v\n", slack), 4)
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}

	t.Run("OnceOnly", func(t *testing.T) { // where the system forgets the slack
		out, pid := relaxedProcess(t, self, relaxed+"=1")
		if want := fmt.Sprintf("begins\ngoes on %d [one two words] false", pid); !strings.HasPrefix(out, want) {
			t.Errorf("got\n%swant\n%s", out, want)
		}
	})

	t.Run("Chosen", func(t *testing.T) { // by whoever started it
		runtime.LockOSThread() // a child takes after the thread that starts it
		defer runtime.UnlockOSThread()
		if err := setSlack(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := setSlack(slackDefault); err != nil {
				t.Error(err)
			}
		}()
		out, pid := relaxedProcess(t, self)
		if want := fmt.Sprintf("begins\ngoes on %d [one two words] false", pid); !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "slack 1ms\n") {
			t.Errorf("got\n%swant\n%s", out, want)
		}
	})
}
