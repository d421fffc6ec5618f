// Command pgo measures which code of a node is hot, for Go's compiler: `make pgo` writes
// cmd/node/default.pgo, which `go build` reads by itself (docs/decisions/0023).
//
// It runs the benchmark's workloads one after the other against three nodes with profiles enabled, and
// merges what the processors of all of them did with `go tool pprof`.
package main
