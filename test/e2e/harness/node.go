package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyLine is what a server prints once it serves.
const readyLine = "ready to serve client requests"

// lineMax bounds a log line that is looked at; longer ones are cut into pieces.
const lineMax = 1 << 20

// Node is one server process, which may be started more than once.
type Node struct {
	Name      string
	ClientURL string
	PeerURL   string
	DataDir   string
	LogFile   string
	Args      []string // complete

	binary string
	within []string // the command that runs it, if it is another's argument
	env    []string
	echo   io.Writer                // also gets the log; nil: nobody
	place  func(func() error) error // where it is started

	mu  sync.Mutex
	run *process
}

// process is one life of a node.
type process struct {
	cmd    *exec.Cmd
	ready  chan struct{}
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// Start starts the process without waiting for anything. extra flags come last, so they win.
func (n *Node) Start(extra ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil && !n.run.over() {
		return fmt.Errorf("%s runs already", n.Name)
	}
	log, err := os.OpenFile(n.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	command := slices.Concat(n.within, []string{n.binary}, n.Args, extra)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), n.env...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = childAttr()
	p := &process{cmd: cmd, ready: make(chan struct{}), exited: make(chan struct{})}
	started := make(chan error)
	go p.live(n.place, started, func() { p.copyLog(r, log, n.echo) })
	if err := <-started; err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", n.Name, err), r.Close(), w.Close(), log.Close())
	}
	_ = w.Close() // the child has its own
	n.run = p
	return nil
}

// live starts the process, says so, and looks after it until it has ended, from one thread: the kernel ends a child with the thread that has started it
// (childAttr), and Go ends a thread with a goroutine that is locked to it, as those of a lab are.
func (p *process) live(place func(func() error) error, started chan<- error, look func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := place(p.cmd.Start)
	if started <- err; err == nil {
		look()
	}
}

// copyLog passes the output on until the process has ended, then collects it.
func (p *process) copyLog(r, log *os.File, echo io.Writer) {
	var once sync.Once
	in := bufio.NewReaderSize(r, lineMax)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			_, _ = log.Write(line)
			if echo != nil {
				_, _ = echo.Write(line)
			}
			if bytes.Contains(line, []byte(readyLine)) {
				once.Do(func() { close(p.ready) })
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
	}
	p.err = p.cmd.Wait()
	_ = r.Close()
	_ = log.Close()
	close(p.exited)
}

func (p *process) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (n *Node) current() (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return nil, fmt.Errorf("%s was never started", n.Name)
	}
	return n.run, nil
}

// Running tells whether the process lives.
func (n *Node) Running() bool {
	p, err := n.current()
	return err == nil && !p.over()
}

// PID is the process's id, 0 when it does not run.
func (n *Node) PID() int {
	p, err := n.current()
	if err != nil || p.over() {
		return 0
	}
	return p.cmd.Process.Pid
}

// WaitReady waits for the ready line.
func (n *Node) WaitReady(ctx context.Context) error {
	p, err := n.current()
	if err != nil {
		return err
	}
	select {
	case <-p.ready:
		return nil
	case <-p.exited:
		return fmt.Errorf("%s ended before it was ready: %w\n%s", n.Name, p.err, n.LogTail(20))
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w\n%s", n.Name, ctx.Err(), n.LogTail(20))
	}
}

// WaitExit waits for the end of the process and returns its exit code, -1 for a signal.
func (n *Node) WaitExit(ctx context.Context) (int, error) {
	p, err := n.current()
	if err != nil {
		return 0, err
	}
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s does not end: %w", n.Name, ctx.Err())
	}
}

// Kill ends the process as a power cut would, and waits until it is gone.
func (n *Node) Kill() error {
	p, err := n.current()
	if err != nil || p.over() {
		return err
	}
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return nil
}

// Stop ends the process with SIGTERM and tells how long that took and its exit code.
func (n *Node) Stop(ctx context.Context) (took time.Duration, code int, err error) {
	began := time.Now()
	if err := n.Signal(syscall.SIGTERM); err != nil {
		return 0, 0, err
	}
	code, err = n.WaitExit(ctx)
	return time.Since(began), code, err
}

// Signal sends a signal, such as SIGSTOP and SIGCONT.
func (n *Node) Signal(s syscall.Signal) error {
	p, err := n.current()
	if err != nil {
		return err
	}
	return p.cmd.Process.Signal(s)
}

// LogTail returns the last lines of the log.
func (n *Node) LogTail(lines int) string {
	b, err := os.ReadFile(n.LogFile)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// Log returns the whole log.
func (n *Node) Log() string {
	b, err := os.ReadFile(n.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
