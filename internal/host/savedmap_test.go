package host

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pontoon/shard"
)

func sampleMap(t testing.TB) *shard.Map {
	m, err := shard.NewMap(4, []shard.Descriptor{
		{ID: 2, Generation: 1, Span: shard.Span{End: []byte("m")}, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}}},
		{ID: 3, Generation: 2, Span: shard.Span{Start: []byte("m")}, Replicas: []shard.Replica{{ID: 3, Node: 3, Learner: true}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// FuzzSavedMap: the file of the saved range map is refused or read as a map that is saved again as
// the same bytes say; with its checksum in place nothing else protects the decoder.
func FuzzSavedMap(f *testing.F) {
	dir := f.TempDir()
	if err := saveMap(dir, sampleMap(f)); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, savedMapFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[:len(good)-2], false)
	f.Add(good[len(savedMapMagic)+4:], true)
	f.Fuzz(func(t *testing.T, b []byte, wrap bool) {
		if wrap {
			b = sealMap(b)
		}
		m, err := decodeMap(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := saveMap(dir, m); err != nil {
			t.Fatal(err)
		}
		again, err := loadMap(dir)
		if err != nil || again.Version() != m.Version() || again.String() != m.String() {
			t.Fatalf("%v came back as %v, %v", m, again, err)
		}
	})
}

// TestSavedMapDamage flips every bit and cuts at every length.
func TestSavedMapDamage(t *testing.T) {
	dir := t.TempDir()
	if err := saveMap(dir, sampleMap(t)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, savedMapFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := decodeMap(bad); err == nil {
				t.Fatalf("bit %d of byte %d changed, and it was taken", bit, i)
			}
		}
		if _, err := decodeMap(good[:i]); err == nil {
			t.Fatalf("cut at %d, and it was taken", i)
		}
	}
}
