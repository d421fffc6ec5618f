package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pontoon/bench/quota"
)

// standIn is a server that says that it serves, and does nothing.
const standIn = `#!/bin/sh
echo "ready to serve client requests"
exec sleep 600
`

func startStandIn(t *testing.T) *system { return startStandInWith(t, Setup{}) }

func startStandInWith(t *testing.T, setup Setup) *system {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "server")
	if err := os.WriteFile(binary, []byte(standIn), 0o700); err != nil {
		t.Fatal(err)
	}
	setup.Nodes, setup.Dir, setup.Binaries = 3, dir, map[string]string{TargetEtcd: binary}
	s, err := start(t.Context(), Target{Kind: TargetEtcd}, setup)
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

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]Target{
		"pontoon":          {Kind: TargetPontoon},
		"etcd":             {Kind: TargetEtcd},
		"pontoon=old/node": {Kind: TargetPontoon, Program: "old/node"},
		"etcd=/a=b":        {Kind: TargetEtcd, Program: "/a=b"},
		"endpoints=a,b":    {Kind: TargetEndpoints, Endpoints: []string{"a", "b"}},
	} {
		got, err := ParseTarget(in)
		if err != nil || !reflect.DeepEqual(got, want) || got.String() != in || got.Local() == (want.Kind == TargetEndpoints) {
			t.Errorf("%s: %+v (%s), %v", in, got, got, err)
		}
	}
	for _, in := range []string{"", "pontoon=", "etcd=", "endpoints", "endpoints=", "x", "x=y"} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

// Servers with a quota are in groups of their own from start to start, and the groups end with them.
func TestServersInGroups(t *testing.T) {
	g, err := quota.Make(1, quota.Limits{CPUs: 0.5})
	if err != nil {
		t.Skip(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s := startStandInWith(t, Setup{ServerCPUs: 0.5})
	groups := func() map[string]bool {
		seen := map[string]bool{}
		for _, pid := range s.pids() {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err != nil {
				t.Fatal(err)
			}
			_, name, _ := strings.Cut(string(b), "/pontoon-bench-")
			name, _, _ = strings.Cut(name, "\n")
			seen[name] = true
		}
		return seen
	}
	first := groups()
	if len(first) != 3 || first[""] {
		t.Fatalf("groups: %v", first)
	}
	if _, err := s.restart(true); err != nil {
		t.Fatal(err)
	}
	if err := s.cluster.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := groups(); !reflect.DeepEqual(first, again) {
		t.Errorf("groups %v, then %v", first, again)
	}
	if err := s.cluster.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := s.closeQuotas(); err != nil {
		t.Error(err)
	}
}

func TestQuotaUsed(t *testing.T) {
	r := Run{Elapsed: 10 * time.Second, Servers: &Consumption{CPUSeconds: 2.7}, System: SystemInfo{Nodes: 3, CPUs: 0.12}}
	if got := r.QuotaUsed(); math.Abs(got-0.75) > 1e-9 {
		t.Errorf("%v", got)
	}
	r.System.CPUs = 0
	if got := r.QuotaUsed(); got != 0 {
		t.Errorf("%v without a quota", got)
	}
}
