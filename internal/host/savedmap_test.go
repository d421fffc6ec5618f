package host

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pontoon/shard"
)

func sampleMap(t testing.TB) *shard.Map {
	m, err := shard.NewMap(4, []shard.Descriptor{
		{ID: 2, Generation: 1, Span: shard.Span{End: []byte("m")}, Replicas: []shard.Replica{{ID: 1, Node: 1}, {ID: 2, Node: 2}}},
		{ID: 3, Generation: 2, Span: shard.Span{Start: []byte("m")}, Replicas: []shard.Replica{{ID: 3, Node: 3, Role: shard.Learner}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var sampleAbout = about{
	members: []shard.Member{{ID: 1, Name: "one", PeerURLs: []string{"http://one:2380"}, Formats: 2}, {ID: 2, State: shard.MemberLeaving}},
	meta:    shard.Descriptor{ID: shard.MetaID, Generation: 1, Replicas: []shard.Replica{{ID: 1, Node: 1}}},
}

// FuzzSavedMap: the file of the saved range map is refused or read as a map that is saved again as
// the same bytes say; with its checksum in place nothing else protects the decoder.
func FuzzSavedMap(f *testing.F) {
	dir := f.TempDir()
	if err := (&savedMap{dir: dir}).save(sampleMap(f), sampleAbout); err != nil {
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
		m, with, err := decodeMap(b)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := (&savedMap{dir: dir}).save(m, with); err != nil {
			t.Fatal(err)
		}
		again, err := (&savedMap{dir: dir}).load()
		if err != nil || again.Version() != m.Version() || again.String() != m.String() {
			t.Fatalf("%v came back as %v, %v", m, again, err)
		}
	})
}

// TestSavedMapDamage flips every bit and cuts at every length.
func TestSavedMapDamage(t *testing.T) {
	dir := t.TempDir()
	if err := (&savedMap{dir: dir}).save(sampleMap(t), sampleAbout); err != nil {
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
			if _, _, err := decodeMap(bad); err == nil {
				t.Fatalf("bit %d of byte %d changed, and it was taken", bit, i)
			}
		}
		if _, _, err := decodeMap(good[:i]); err == nil {
			t.Fatalf("cut at %d, and it was taken", i)
		}
	}
}

// history is a map and what n changes make of it, each a version.
func history(t testing.TB, ranges, n int) []*shard.Map {
	keys := append([][]byte{nil}, shard.SplitKeys(ranges)...)
	ds := make([]shard.Descriptor, ranges)
	for i := range ds {
		ds[i] = shard.Descriptor{ID: shard.RangeID(i + 2), Span: shard.Span{Start: keys[i]}, Replicas: []shard.Replica{{ID: 1, Node: 1}}}
		if i > 0 {
			ds[i-1].Span.End = keys[i]
		}
	}
	m, err := shard.NewMap(1, ds)
	if err != nil {
		t.Fatal(err)
	}
	maps := []*shard.Map{m}
	r := rand.New(rand.NewPCG(uint64(ranges), 1))
	for child := ranges + 2; len(maps) <= n; child++ {
		at := fmt.Appendf(nil, "%08x", r.Uint32())
		next, err := m.Split(m.Lookup(at).ID, at, shard.RangeID(child), ds[0].Replicas)
		if d := m.Lookup(at); err == nil && !d.Span.Unbounded() && len(maps)%3 == 0 {
			next, err = m.Merge(d.ID, m.Lookup(d.Span.End).ID)
		}
		if err == nil {
			m = next
			maps = append(maps, m)
		}
	}
	return maps
}

// size is how large a file of the directory is, -1 if it is not there.
func size(t *testing.T, dir, name string) int64 {
	st, err := os.Stat(filepath.Join(dir, name))
	if os.IsNotExist(err) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// TestSavedMapFollows: each change is kept, in a few bytes, through restarts at any time; and now and then all of the map is
// written, so that the tail stays within its bound.
func TestSavedMapFollows(t *testing.T) {
	dir := t.TempDir()
	files := &savedMap{dir: dir}
	anew := 0
	for i, m := range history(t, 1000, 1500) {
		before := size(t, dir, mapTailFile)
		if err := files.save(m, about{}); err != nil {
			t.Fatal(err)
		}
		base, tail := size(t, dir, savedMapFile), size(t, dir, mapTailFile)
		switch {
		case tail > max(base, mapTailMin):
			t.Fatalf("a tail of %d bytes behind a map of %d", tail, base)
		case tail == -1:
			anew++
		case tail-max(before, 0) > 200:
			t.Fatalf("a change has taken %d bytes", tail-before)
		}
		if i%7 != 0 {
			continue
		}
		files = &savedMap{dir: dir}
		if again, err := files.load(); err != nil || again.String() != m.String() || again.Version() != m.Version() {
			t.Fatalf("version %d came back as %v, %v", m.Version(), again, err)
		}
	}
	if anew < 2 || anew > 5 {
		t.Errorf("all of the map was written %d times", anew)
	}
}

// TestSavedMapTailDamage cuts the tail at every length and flips bits anywhere: what is read is a map that there was, at least as
// new as what is whole before the damage, and the next change is kept all the same.
func TestSavedMapTailDamage(t *testing.T) {
	dir := t.TempDir()
	maps := history(t, 3, 12)
	files := &savedMap{dir: dir}
	var ends []int64 // of the tail, for each map
	for _, m := range maps[:12] {
		if err := files.save(m, about{}); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, max(size(t, dir, mapTailFile), 0))
	}
	path := filepath.Join(dir, mapTailFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(bad []byte, whole int64, what string) {
		t.Helper()
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		i := 0
		for i+1 < len(ends) && ends[i+1] <= whole {
			i++
		}
		files := &savedMap{dir: dir}
		m, err := files.load()
		if err != nil || m.String() != maps[i].String() {
			t.Fatalf("%s: %v, %v instead of version %d", what, m, err, maps[i].Version())
		}
		if err := files.save(maps[12], about{}); err != nil {
			t.Fatal(err)
		}
		if m, err = (&savedMap{dir: dir}).load(); err != nil || m.String() != maps[12].String() {
			t.Fatalf("%s, and a change later: %v, %v", what, m, err)
		}
	}
	for n := range good {
		try(good[:n], int64(n), fmt.Sprintf("cut at %d", n))
		bad := bytes.Clone(good)
		bad[n] ^= 1 << (n % 8)
		try(bad, int64(n), fmt.Sprintf("a bit of byte %d", n))
	}
}

// TestSavedMapOfAnOlderBuild: an older build reads the map without the tail, and writes one without touching it; what is in the
// tail is not taken for changes of that.
func TestSavedMapOfAnOlderBuild(t *testing.T) {
	dir := t.TempDir()
	maps := history(t, 3, 8)
	files := &savedMap{dir: dir}
	for _, m := range maps[:6] {
		if err := files.save(m, about{}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, savedMapFile))
	if err != nil {
		t.Fatal(err)
	}
	if m, _, err := decodeMap(b); err != nil || m.String() != maps[0].String() {
		t.Errorf("an older build reads %v, %v", m, err)
	}
	tail, err := os.ReadFile(filepath.Join(dir, mapTailFile))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maps {
		other := t.TempDir()
		if err := (&savedMap{dir: other}).save(maps[i], about{}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other, mapTailFile), tail, 0o600); err != nil {
			t.Fatal(err)
		}
		want := maps[max(i, 5)]
		if i > 0 && i < 5 { // nothing but the very map is what the tail begins with
			want = maps[i]
		}
		if m, err := (&savedMap{dir: other}).load(); err != nil || m.String() != want.String() {
			t.Errorf("version %d by an older build: %v, %v", maps[i].Version(), m, err)
		}
	}
}

// FuzzMapTail: any bytes behind a map lead to a map that can be kept.
func FuzzMapTail(f *testing.F) {
	maps := history(f, 3, 3)
	change, err := encodeChange(maps[0], maps[1], &about{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(change, false)
	f.Add(change[:len(change)-1], false)
	f.Add(change[mapTailHead:], true)
	f.Fuzz(func(t *testing.T, b []byte, wrap bool) {
		if wrap {
			b = sealChange(b)
		}
		m, n := decodeTail(maps[0], &about{}, b)
		if n > int64(len(b)) || (m == maps[0]) != (n == 0) {
			t.Fatalf("%d of %d bytes lead to %v", n, len(b), m)
		}
		if _, err := shard.NewMap(m.Version(), slices.Collect(m.All())); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSavedMembers: the members and the place of the meta group come back with the map, whether it was written whole or as a change, and a map
// of a build that wrote nothing of them has none.
func TestSavedMembers(t *testing.T) {
	dir := t.TempDir()
	read := func() (*shard.Map, about) {
		t.Helper()
		s := &savedMap{dir: dir}
		m, err := s.load()
		if err != nil {
			t.Fatal(err)
		}
		return m, s.about
	}
	m := sampleMap(t)
	files := &savedMap{dir: dir}
	with := about{}
	for i, change := range []func(){
		func() {},
		func() { with = sampleAbout },
		func() { m = m.WithVersion(m.Version() + 1) },
		func() {
			m = m.WithVersion(m.Version() + 1)
			with.members = append(slices.Clone(with.members), shard.Member{ID: 3, PeerURLs: []string{"http://three:2380"}})
		},
		func() {
			m = m.WithVersion(m.Version() + 1)
			with.members = with.members[1:]
		},
		func() {
			m = m.WithVersion(m.Version() + 1)
			with.meta.Generation++
			with.meta.Replicas = []shard.Replica{{ID: 7, Node: 2}}
		},
	} {
		change()
		if err := files.save(m, with); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // a new life
			files = &savedMap{dir: dir}
			if _, err := files.load(); err != nil {
				t.Fatal(err)
			}
		}
		got, beside := read()
		if got.Version() != m.Version() || got.String() != m.String() || !beside.equal(&with) {
			t.Fatalf("step %d: %v %v came back as %v %v", i, m, with, got, beside)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, mapTailFile)); err != nil || st.Size() == 0 {
		t.Errorf("everything was written whole: %v", err)
	}
}
