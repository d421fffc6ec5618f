package mvcc

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"pontoon/internal/extsort"
	"pontoon/shard"
)

// TestBuildAndItsLog: a file whose versions come in key order, each of which was made at a revision that has nothing to do with it, has them all in the log, in the
// order of revisions, whether its log was sorted in memory or in several runs; what is compacted is in neither, and nothing is left beside the file.
func TestBuildAndItsLog(t *testing.T) {
	const (
		keys       = 3000
		valueBytes = 1 << 10
		compact    = keys / 2
	)
	// A key's two versions are of revisions that are spread over all.
	first := func(i int) int64 { return int64(i)*7919%keys + 1 }
	second := func(i int) int64 { return keys + int64(i)*104729%keys + 1 }
	value := func(rev int64) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", rev), valueBytes/8) }
	for _, memory := range []int{buildLogBytes, 1} {
		dir := t.TempDir()
		path := filepath.Join(dir, "store")
		b, err := BeginBuild(path, 7, Position{Index: 1, Term: 1}, 2*keys, compact)
		if err != nil {
			t.Fatal(err)
		}
		b.t.log = extsort.New(dir, "log", memory)
		for i := range keys {
			for _, kv := range []shard.KeyValue{
				{CreateRevision: first(i), ModRevision: second(i), Version: 2, Value: value(second(i))},
				{CreateRevision: first(i), ModRevision: first(i), Version: 1, Value: value(first(i))},
			} {
				kv.Key = fmt.Appendf(nil, "k%06d", i)
				if err := b.Put(&kv, 0, false); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := b.Finish(nil); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("beside the file: %v, %v", left, err)
		}
		s, err := Open(Options{Path: path, RangeID: 7})
		if err != nil {
			t.Fatal(err)
		}
		next := int64(compact)
		for from := next; from <= 2*keys; {
			evs, at, err := s.History([]shard.Span{shard.All}, from, math.MaxInt64, 1<<16, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range evs {
				if e.KV.ModRevision != next || !bytes.Equal(e.KV.Value, value(next)) || (next > keys) != (e.Prev != nil) {
					t.Fatalf("revision %d is %v", next, e)
				}
				next++
			}
			if at <= from {
				break
			}
			from = at
		}
		if next != 2*keys+1 {
			t.Errorf("history ends before %d", next)
		}
		for i := range keys {
			kv, ok, err := s.Get(fmt.Appendf(nil, "k%06d", i), keys)
			if err != nil || !ok || kv.ModRevision != first(i) || kv.Version != 1 {
				t.Fatalf("key %d at %d: %v, %v, %v", i, keys, kv.ModRevision, ok, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
