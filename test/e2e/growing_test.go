package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// pageCommands are the lines of a page of docs that are for a shell: those of its indented blocks.
func pageCommands(t *testing.T, page string) (out []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			out = append(out, strings.TrimSpace(command))
		}
	}
	return out
}

// TestGrowingPage runs the commands of docs/growing.md, one after the other, and finds what they promise.
func TestGrowingPage(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	commands := pageCommands(t, "growing.md")
	if len(commands) < 5 {
		t.Fatalf("the page has the commands %q", commands)
	}
	c := newCluster(t, harness.Options{Ranges: 1, Args: []string{"--placement=off"}}) // all stays as the page finds it
	ctx := testContext(t, 2*time.Minute)
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "bin"), 0o700), os.Symlink(clientBinary(t), filepath.Join(dir, "bin", "client"))); err != nil {
		t.Fatal(err)
	}
	sh := func(command string) (string, error) { return shell(ctx, dir, c, command) }
	if rs := ranges(t, c.Nodes[0]); memberIDs(ctx, t, newClient(t, c), c)[rs[0].Leader] == c.Nodes[1] { // to whom the page moves it
		if out, err := sh("bin/client ranges lead r2 n1"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, command := range commands {
		out, err := sh(command)
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		t.Logf("%s\n%s", command, out)
	}
	ops := harness.Ops{ClientURL: c.Nodes[0].ClientURL}
	eventually(t, limit(time.Minute), "all ops are over", func() error {
		_, err := ops.AllOver(ctx)
		return err
	})
	eventually(t, limit(30*time.Second), "a node's map has the ranges", func() error { // it follows the meta group's
		var borders []string
		for _, r := range ranges(t, c.Nodes[0]) {
			stays := fmt.Sprintf("%s %v", r.Start, r.Sticky)
			if r.StickyUntil != "" {
				stays += " for a time"
			}
			borders = append(borders, stays)
		}
		if want := []string{" false", "orders/ false", "orders/2027/ true for a time", "users/ true"}; !slices.Equal(borders, want) {
			return fmt.Errorf("the ranges begin at %q, want %q", borders, want)
		}
		return nil
	})
	if out, err := sh("bin/client ranges split orders/"); err == nil || !strings.Contains(out, "orders/") {
		t.Errorf("a split where two ranges meet: %v\n%s", err, out)
	}
}

// shell runs a command of a page, for a cluster.
func shell(ctx context.Context, dir string, c *harness.Cluster, command string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("ETCDCTL_ENDPOINTS=%s", strings.Join(c.Endpoints(), ",")))
	b, err := cmd.CombinedOutput()
	return string(b), err
}
