package main

import (
	"strings"
	"testing"

	"pontoon/bench"
	"pontoon/bench/load"
)

func scaled(ranges int, good bool, rate, anon float64) *bench.File {
	r := bench.Run{
		System: bench.SystemInfo{Kind: "pontoon", Ranges: ranges}, Good: good, Rate: rate, Latency: load.Summary{P99: 500},
		Figures: map[string]float64{"anon-in-the-end-B": anon},
	}
	etcd := bench.Run{System: bench.SystemInfo{Kind: "etcd"}, Good: true, Rate: 77777}
	return &bench.File{Runs: []bench.Run{r, etcd, r}}
}

func TestScaleTable(t *testing.T) {
	var b strings.Builder
	err := printScale(&b, []*bench.File{scaled(1, true, 1000, 10<<20), scaled(101, true, 900, 20<<20), scaled(1000, false, 5, 5)})
	if err != nil {
		t.Fatal(err)
	}
	want := `
over ranges, medians of good runs
  ranges  ops/s  p99-µs  anon-in-the-end-B
       1   1k/s  500 µs             10 MiB
     101  900/s  500 µs             20 MiB
a range more: 102 KiB of anon-in-the-end-B
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestClients(t *testing.T) {
	if c, err := clientsOf(clientPlain); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
	c, err := clientsOf(clientShim)
	if err != nil || c[bench.TargetPontoon].Name != "shim" || c[bench.TargetEndpoints].New == nil {
		t.Errorf("%v, %v", c, err)
	}
	if _, etcd := c[bench.TargetEtcd]; etcd {
		t.Error("genuine etcd would be measured through the shim")
	}
	if _, err := clientsOf("curl"); err == nil {
		t.Error("any client is taken")
	}
}
