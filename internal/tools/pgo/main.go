package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"pontoon/test/e2e/harness"
)

// workloads is what a node should be fast at, in the shapes of the standard set.
var workloads = []string{
	"put --clients 256 --conns 16 --key-space-size 100000 --val-size 256",
	"put --clients 1000 --conns 100 --key-space-size 100000 --val-size 256",
	"put --client shim --clients 256 --conns 1 --key-space-size 100000 --val-size 256",
	"txn --clients 256 --conns 16 --key-space-size 100000 --val-size 256",
	"range --clients 256 --conns 16",
	"mixed --clients 256 --conns 16 --key-space-size 100000 --val-size 256",
	"watch-fanout --watchers 1000 --streams 40 --conns 8 --clients 16",
	"list --way paged --clients 2",
}

const (
	warmUp   = 3 * time.Second
	measured = 6 * time.Second
	ranges   = 16
)

func main() {
	node := flag.String("node", "build/pgo-node", "the node's binary, built with -trimpath; a relative path")
	bench := flag.String("bench", "bin/bench", "the benchmark's binary")
	out := flag.String("out", "cmd/node/default.pgo", "where the profile goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *node, *bench, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pgo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, node, bench, out string) error {
	dir, err := os.MkdirTemp("", "pontoon-pgo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // left behind in the temporary directory at worst
	var files []string
	for i, w := range workloads {
		fmt.Printf("%d/%d  %s\n", i+1, len(workloads), w)
		got, err := profile(ctx, filepath.Join(dir, fmt.Sprint(i)), node, bench, strings.Fields(w))
		if err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
		files = append(files, got...)
	}
	if err := merge(ctx, node, files, out); err != nil {
		return err
	}
	fmt.Println("written:", out)
	return nil
}

// merge writes the sum of files to out. The node was built with -trimpath and is named as it was given, so that
// nothing is in there of where things lie on this machine.
func merge(ctx context.Context, node string, files []string, out string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-proto", "-symbolize=none", "-output", out, node}, files...)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go tool pprof: %w\n%s", err, said)
	}
	return nil
}

// profile runs one workload on three nodes of its own and returns files with what the nodes did.
func profile(ctx context.Context, dir, node, bench string, workload []string) (files []string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	c, err := harness.New(harness.Options{Kind: harness.Pontoon, Binary: node, Dir: dir, Nodes: 3, Ranges: ranges, Args: []string{"--enable-pprof"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Start(starting); err != nil {
		return nil, err
	}
	args := append(workload, "--target", "endpoints="+strings.Join(c.Endpoints(), ","), "--total", "0",
		"--warm-up", warmUp.String(), "--duration", (measured + time.Second).String(), "--out", dir)
	load := exec.CommandContext(ctx, bench, args...)
	out := &watched{measuring: make(chan struct{})}
	load.Stdout, load.Stderr = out, out
	if err := load.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- load.Wait() }()
	select {
	case <-out.measuring:
	case err := <-ended:
		return nil, fmt.Errorf("ended before it measured: %w\n%s", err, out.text())
	}
	files, err = fetchAll(ctx, dir, c.Endpoints())
	if failed := <-ended; failed != nil {
		return nil, fmt.Errorf("%w\n%s", failed, out.text())
	}
	return files, err
}

// watched is what the benchmark prints. It says which phase has begun.
type watched struct {
	measuring chan struct{} // closed once it measures

	mu   sync.Mutex
	said []byte
	seen bool
}

// Write keeps p.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, p...)
	if !w.seen && bytes.Contains(w.said, []byte(": measuring\n")) {
		w.seen = true
		close(w.measuring)
	}
	return len(p), nil
}

func (w *watched) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.said)
}

// fetchAll asks all nodes for their processors' profile at once.
func fetchAll(ctx context.Context, dir string, nodes []string) ([]string, error) {
	files, errs := make([]string, len(nodes)), make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, url := range nodes {
		wg.Go(func() {
			files[i] = filepath.Join(dir, fmt.Sprintf("cpu.%d", i))
			errs[i] = fetch(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", url, measured.Seconds()), files[i])
		})
	}
	wg.Wait()
	return files, errors.Join(errs...)
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or an error says so
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
