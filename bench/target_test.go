package bench

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// standIn is a server that says that it serves, and does nothing.
const standIn = `#!/bin/sh
echo "ready to serve client requests"
exec sleep 600
`

func startStandIn(t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "server")
	if err := os.WriteFile(binary, []byte(standIn), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := start(t.Context(), Target{Kind: TargetEtcd}, Setup{
		Nodes: 3, Dir: dir, Binaries: map[string]string{TargetEtcd: binary},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range s.cluster.Nodes {
			if err := n.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

// A server that ends by itself ends the run, which says so; one that the workload ends does not.
func TestGuard(t *testing.T) {
	s := startStandIn(t)
	ctx, end := s.guard(t.Context())
	defer end()
	for range 3 {
		if _, err := s.restart(true); err != nil {
			t.Fatal(err)
		}
		if err := s.missing(); err != nil {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
	if err := s.cluster.Nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	err := ended(ctx)
	if err == nil || !strings.Contains(err.Error(), s.cluster.Nodes[1].Name) || !strings.Contains(err.Error(), "ready to serve") {
		t.Errorf("it ended for %v", context.Cause(ctx))
	}
}

// Whoever interrupts a run is no server.
func TestGuardInterrupted(t *testing.T) {
	s := startStandIn(t)
	outer, interrupt := context.WithCancel(t.Context())
	ctx, end := s.guard(outer)
	defer end()
	interrupt()
	<-ctx.Done()
	if err := ended(ctx); err != nil || !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("%v, because of %v", err, context.Cause(ctx))
	}
}
