package restore

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"pontoon/internal/etcdfile"
	"pontoon/internal/manifest"
	"pontoon/shard"
)

var importMB = flag.Int("import-mb", 64, "size of the snapshot that BenchmarkImport imports, in MiB")

// hashed is a source of about so many bytes: values of 1 KiB that no compression makes smaller, under keys whose order is none in that of their revisions, a
// fifth of them written twice, nothing compacted.
func hashed(b *testing.B, size int) *Source {
	b.Helper()
	const valueBytes = 1 << 10
	path := filepath.Join(b.TempDir(), "db")
	w, err := etcdfile.Create(path, 0)
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.NewChaCha8([32]byte{1})
	keys := size / valueBytes * 5 / 6
	created := make([]int64, keys)
	rev := int64(1)
	for i := range keys + keys/5 {
		rev++
		r := etcdfile.Row{Rev: etcdfile.Rev{Main: rev}, Create: rev, Version: 1, Value: make([]byte, valueBytes)}
		_, _ = rnd.Read(r.Value)
		k := i % keys
		if i >= keys {
			r.Create, r.Version = created[k], 2
		}
		created[k] = r.Create
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(k)))
		r.Key = fmt.Appendf(nil, "/registry/pods/%x", sum[:12])
		if err := w.Put(etcdfile.AppendRev(nil, r.Rev, false), r.AppendValue(nil)); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Finish(&etcdfile.Contents{ConsistentIndex: 1, Term: 1}); err != nil {
		b.Fatal(err)
	}
	return &Source{Path: path, Cluster: 5, Node: 1, Members: []shard.Member{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}, {ID: 3, Name: "c"}}}
}

// ownMiB is the memory that this process has for itself, pages of files not counted, where the system tells.
func ownMiB() (mib float64) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &mib); err == nil {
			return mib / 1024
		}
	}
	return 0
}

// peak asks for the memory all the time, and returns the largest at its end.
func peak() (end func() float64) {
	over, most := make(chan struct{}), make(chan float64)
	go func() {
		tick, top := time.NewTicker(20*time.Millisecond), 0.0
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				top = max(top, ownMiB())
			case <-over:
				most <- top
				return
			}
		}
	}()
	return func() float64 { close(over); return <-most }
}

// BenchmarkImport makes the files of a node that holds all ranges of a snapshot. -import-mb says how large it is.
func BenchmarkImport(b *testing.B) {
	s := hashed(b, *importMB<<20)
	info, err := os.Stat(s.Path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	runtime.GC()
	end := peak()
	for b.Loop() {
		if _, err := Import(Config{Source: s, DataDir: b.TempDir(), Plan: manifest.Plan{}, ReplicationFactor: 3, Logger: slog.New(slog.DiscardHandler)}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(end(), "peak-MiB")
}
