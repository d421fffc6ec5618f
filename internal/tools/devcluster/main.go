package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"pontoon/test/e2e/harness"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

func run() error {
	binary := flag.String("node", "bin/node", "the node's binary")
	dir := flag.String("dir", "", "where data and logs are kept; a temporary directory, removed at the end, if empty")
	ranges := flag.Int("ranges", 8, "into how many ranges the key space is cut")
	verbose := flag.Bool("v", false, "show the nodes' logs")
	flag.Parse()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)

	keep := *dir != ""
	if !keep {
		tmp, err := os.MkdirTemp("", "pontoon-dev-")
		if err != nil {
			return err
		}
		*dir = tmp
		defer func() { _ = os.RemoveAll(tmp) }() // left behind in the temporary directory at worst
	} else if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	o := harness.Options{
		Kind: harness.Pontoon, Binary: *binary, Dir: *dir, Nodes: 3, Ranges: *ranges,
		ClientPorts: []int{2379, 22379, 32379}, PeerPorts: []int{2380, 22380, 32380},
	}
	if *verbose {
		o.Echo = &lockedWriter{}
	}
	c, err := harness.New(o)
	if err != nil {
		return err
	}
	return supervise(c, signals, keep)
}

func supervise(c *harness.Cluster, signals <-chan os.Signal, keep bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	started := make(chan error, 1)
	go func() { started <- c.Start(ctx) }()
	select {
	case err := <-started:
		if err != nil {
			_ = c.Close() // the reason is what matters
			return err
		}
		fmt.Print(welcome(c, keep))
		<-signals
	case <-signals:
		cancel()
		<-started
	}
	fmt.Println("\nstopping …")
	return c.StopAll(10 * time.Second)
}

func welcome(c *harness.Cluster, keep bool) string {
	eps := strings.Join(c.Endpoints(), ",")
	var b strings.Builder
	fmt.Fprintf(&b, "\nThree Pontoon nodes are serving.\n\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "  %s  %-24s pid %-7d log %s\n", n.Name, n.ClientURL, n.PID(), n.LogFile)
	}
	fmt.Fprintf(&b, `
Try, in another terminal:

  export ETCDCTL_ENDPOINTS=%s
  etcdctl put /hello world
  etcdctl get / --prefix
  etcdctl endpoint status --cluster -w table
  bin/client ranges

`, strings.ReplaceAll(eps, "http://", ""))
	fmt.Fprintf(&b, "`make etcd-tools` builds etcdctl into build/bin.\n")
	if keep {
		fmt.Fprintf(&b, "Data stays in %s.\n", c.Dir)
	}
	fmt.Fprintf(&b, "Ctrl-C stops all of it.\n")
	return b.String()
}

// lockedWriter is the terminal, for lines of several nodes.
type lockedWriter struct{ mu sync.Mutex }

// Write writes one line.
func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return os.Stderr.Write(p)
}
