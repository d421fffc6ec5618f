package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pontoon/bench"
	"pontoon/internal/exitcode"
)

func TestProgramsAreComparedByTheirWorkloads(t *testing.T) {
	p := programs{duration: 15 * time.Second, keys: 1000, clients: 1024}
	specs, clients, err := p.specs()
	if err != nil || len(specs) != 5 {
		t.Fatalf("%d, %v", len(specs), err)
	}
	shim := 0
	for i, s := range specs {
		if err := s.Validate(); err != nil || s.Duration != p.duration || s.Operations != 0 {
			t.Errorf("%s: %+v, %v", s.Name(), s, err)
		}
		if s.Workload != "watch-fanout" && (s.Clients != 1024 || s.KeySpace != 1000) {
			t.Errorf("%s", s.Name())
		}
		if clients[i] == clientShim {
			shim++
		}
	}
	if shim != 1 {
		t.Errorf("clients: %q", clients)
	}
	if specs, _, err := (programs{duration: time.Second, keys: 1000, clients: 16, only: []string{"txn"}}).specs(); err != nil || len(specs) != 1 || specs[0].Workload != "txn" {
		t.Errorf("%+v, %v", specs, err)
	}
}

func TestWhatProgramsTake(t *testing.T) {
	file := func(cpu, memory float64, good bool) *bench.File {
		return &bench.File{Good: good, Ratios: []bench.Ratio{
			{Figure: "server-cpu-µs/op", Median: cpu, Min: cpu - 0.25, Max: cpu + 0.25}, {Figure: "peak-anon-B", Median: memory},
		}}
	}
	for _, c := range []struct {
		cpu, memory float64
		good        bool
		code        int
	}{
		{0.9, 1, true, 0}, {1.03, 1.03, true, 0}, {1.031, 1, true, exitWorse}, {1, 1.04, true, exitWorse}, {1, 1, false, exitNotGood},
	} {
		var out bytes.Buffer
		err := tellPrograms(&out, []programRow{{"put", file(1, 1, true)}, {"txn", file(c.cpu, c.memory, c.good)}}, 1.03)
		code := 0
		if err != nil {
			code = exitcode.Of(err, exitFailed)
		}
		if code != c.code {
			t.Errorf("%+v: exit code %d, %v", c, code, err)
		}
		if err != nil && c.code == exitWorse && !strings.Contains(err.Error(), "txn") {
			t.Error(err)
		}
		if !strings.Contains(out.String(), "put  ") || !strings.Contains(out.String(), "1.000 (0.75 to 1.25)") {
			t.Error(out.String())
		}
	}
}
