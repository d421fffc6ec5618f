package mvcc

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkRestore takes a snapshot in whose keys have many small versions each: they come by key, and the log is by revision.
func BenchmarkRestore(b *testing.B) {
	const versions, keys = 200_000, 64
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "mvcc.db"), RangeID: 2, NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for rev := int64(2); rev < versions+2; {
		c := Change{Pos: Position{Index: uint64(rev), Term: 1}}
		for range 100 {
			c.Muts = append(c.Muts, Mutation{Key: fmt.Appendf(nil, "k/%02d", rev%keys), Value: []byte("1234"), Rev: Rev{Main: rev}})
			rev++
		}
		if _, err := s.Apply(c); err != nil {
			b.Fatal(err)
		}
	}
	var snap bytes.Buffer
	if _, err := s.WriteSnapshot(&snap); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(snap.Len()))
	for b.Loop() {
		if _, err := RestoreSnapshot(filepath.Join(b.TempDir(), "restored.db"), bytes.NewReader(snap.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(versions, "versions/op")
}
