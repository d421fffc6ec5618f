package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Etcdctl runs genuine etcdctl against some endpoints.
type Etcdctl struct {
	Binary    string
	Endpoints []string
	Flags     []string // that every run is given
}

// Command prepares a run; the caller may use its pipes.
func (e Etcdctl) Command(ctx context.Context, args ...string) *exec.Cmd {
	// Generous timeouts: a busy test machine is no reason to fail.
	all := append([]string{"--endpoints", strings.Join(e.Endpoints, ","), "--command-timeout=40s", "--dial-timeout=20s"}, slices.Concat(e.Flags, args)...)
	cmd := exec.CommandContext(ctx, e.Binary, all...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	return cmd
}

// Run runs it to its end. The error holds what it wrote to stderr.
func (e Etcdctl) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := e.Command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("etcdctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}
