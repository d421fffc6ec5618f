package extsort

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// TestSorted: whatever goes in comes out in order, twice, with merges of merges, and no file is left.
func TestSorted(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 30_000} {
		dir := t.TempDir()
		s := New(dir, "t", 1)
		s.limit = 4000
		rnd := rand.New(rand.NewPCG(1, uint64(n)))
		var want []string
		for range n {
			k := fmt.Sprintf("%d", rnd.Uint64()%uint64(n*10))
			v := fmt.Sprintf("v%s", k)
			want = append(want, k)
			if err := s.Add([]byte(k), []byte(v)); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(want)
		for range 2 {
			m, err := s.Merge()
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for m.Next() {
				if i >= n || string(m.Key()) != want[i] || string(m.Value()) != "v"+want[i] {
					t.Fatalf("record %d of %d is %q %q", i, n, m.Key(), m.Value())
				}
				i++
			}
			if err := m.Err(); err != nil || i != n {
				t.Fatalf("%d of %d records, %v", i, n, err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(s.levels) < 2 && n >= 30_000 {
			t.Errorf("%d levels: nothing was merged", len(s.levels))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// TestDamage: a run of which a bit has changed is not taken for another.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := New(dir, "t", 1)
	for i := range 2000 {
		if err := s.Add(fmt.Appendf(nil, "%06d", i), bytes.Repeat([]byte{byte(i)}, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.spill(); err != nil {
		t.Fatal(err)
	}
	path := s.levels[0][0].path
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 10; i < len(good); i += 97 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := s.Merge()
		if err != nil {
			continue
		}
		for m.Next() {
		}
		if m.Err() == nil {
			t.Errorf("a changed byte at %d was not noticed", i)
		}
		_ = m.Close()
	}
}
