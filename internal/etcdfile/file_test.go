package etcdfile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// contents is a file's with something of everything.
func contents() *Contents {
	return &Contents{
		ConsistentIndex: 7, Term: 3, Voters: []uint64{1, 1 << 63}, Compact: 4, StorageVersion: Version,
		Leases: []Lease{{ID: 5, TTL: 60}, {ID: 1 << 62, TTL: 9, Remaining: 3}},
		Auth: Auth{
			Enabled: true, Revision: 9, Users: []Named{{"root", []byte("u")}}, Roles: []Named{{"r", []byte("x")}, {"root", []byte("y")}},
		},
		Members: []Member{{ID: 1, Name: "a", PeerURLs: []string{"http://a:1"}}, {ID: 1 << 63, Name: "b", PeerURLs: []string{"http://b:1"}, IsLearner: true, ClientURLs: []string{"http://b:2"}}},
		Removed: []uint64{77},
	}
}

// rows makes n versions of keys, some deleted, some large.
func rows(n int) (out []Row) {
	rnd := rand.New(rand.NewPCG(1, 2))
	type state struct{ create, version int64 }
	live := map[string]state{}
	for rev := int64(2); len(out) < n; rev++ {
		for sub := range 1 + rnd.Int64N(3) {
			key := fmt.Sprintf("k%d", rnd.IntN(n/3+1))
			st := live[key]
			switch {
			case st.version > 0 && rnd.IntN(4) == 0:
				out = append(out, Row{Rev: Rev{rev, sub}, Tombstone: true, Key: []byte(key)})
				delete(live, key)
				continue
			case st.version == 0:
				st.create = rev
			}
			st.version++
			live[key] = st
			size := rnd.IntN(100)
			if rnd.IntN(500) == 0 {
				size = 100_000
			}
			out = append(out, Row{Rev: Rev{rev, sub}, Key: []byte(key), Create: st.create, Version: st.version, Value: make([]byte, size), Lease: rnd.Int64N(2) * 5})
		}
	}
	return out
}

func write(t testing.TB, path string, rs []Row, c *Contents) {
	t.Helper()
	w, err := Create(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rs {
		if err := w.Put(AppendRev(nil, rs[i].Rev, rs[i].Tombstone), rs[i].AppendValue(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(c); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func read(f *File) (out []Row, err error) {
	err = f.Rows(func(r *Row) error {
		c := *r
		c.Key, c.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
		out = append(out, c)
		return nil
	})
	return out, err
}

// TestRoundTrip: what was written is read, and bbolt finds nothing wrong with the file.
func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 40, 30_000} {
		path := filepath.Join(t.TempDir(), "db")
		want := rows(n)
		write(t, path, want, contents())
		f := open(t, path)
		got, err := read(f)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d of %d rows, %v", len(got), len(want), err)
		}
		for i := range got {
			if !bytes.Equal(got[i].AppendValue(nil), want[i].AppendValue(nil)) || got[i].Rev != want[i].Rev || got[i].Tombstone != want[i].Tombstone {
				t.Fatalf("row %d is %+v, was %+v", i, got[i], want[i])
			}
		}
		if c, err := f.Contents(); err != nil || !reflect.DeepEqual(c, contents()) {
			t.Errorf("got %+v, %v", c, err)
		}
		if !errors.Is(f.VerifySum(), ErrNoSum) {
			t.Error("a database has a checksum")
		}
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				t.Error(err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSum: a checksum is believed when it fits, and cutting is noticed.
func TestSum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	write(t, path, rows(500), contents())
	db, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(db)
	for _, c := range []struct {
		what string
		b    []byte
		want error
	}{
		{"whole", append(bytes.Clone(db), sum[:]...), nil},
		{"another sum", append(append(bytes.Clone(db), sum[1:]...), 0), shard.ErrCorrupt},
		{"without", db, ErrNoSum},
		{"half", append(bytes.Clone(db[:len(db)/2]), sum[:]...), shard.ErrCorrupt},
	} {
		name := filepath.Join(t.TempDir(), "snap")
		if err := os.WriteFile(name, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		f := open(t, name)
		if err := f.VerifySum(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
		if _, err := read(f); (err != nil) != (c.what == "half") {
			t.Errorf("%s: read with %v", c.what, err)
		}
	}
}

// TestRefused: what is no file of etcd's is refused, by what is wrong.
func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	write(t, path, rows(50), contents())
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("photos"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path).Contents(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(`"photos"`)) {
		t.Errorf("an unknown bucket: %v", err)
	}
	for _, junk := range [][]byte{nil, []byte("hello"), make([]byte, 1<<16)} {
		if err := os.WriteFile(path, junk, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, path).Contents(); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%d bytes of junk: %v", len(junk), err)
		}
	}
}

// small is a small file, as bytes.
func small(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "db")
	write(t, path, rows(300), contents())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzFile: whatever a file holds, it is read or refused.
func FuzzFile(f *testing.F) {
	good := small(f)
	f.Add([]byte{}, uint32(0), byte(0))
	for i := uint32(0); i < uint32(len(good)); i += 511 {
		f.Add([]byte{}, i, byte(1<<(i%8)))
	}
	f.Fuzz(func(t *testing.T, over []byte, at uint32, flip byte) {
		b := bytes.Clone(good)
		i := int(at) % len(b)
		b[i] ^= flip
		copy(b[i:], over)
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Open(path)
		if err != nil {
			return
		}
		defer func() { _ = file.Close() }()
		_, _ = file.Contents()
		_, _ = file.Status()
		var last Rev
		_ = file.Rows(func(r *Row) error {
			if !last.Less(r.Rev) && last != (Rev{}) {
				t.Fatalf("%v behind %v", r.Rev, last)
			}
			last = r.Rev
			return nil
		})
	})
}

// FuzzRow: a row is refused, or means what it says: written again it is read as the same.
func FuzzRow(f *testing.F) {
	for _, r := range rows(30) {
		f.Add(AppendRev(nil, r.Rev, r.Tombstone), r.AppendValue(nil))
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := ParseRow(key, value)
		if err != nil || len(value) == 0 {
			return
		}
		again, err := ParseRow(AppendRev(nil, r.Rev, r.Tombstone), r.AppendValue(nil))
		if err != nil || again.Rev != r.Rev || !bytes.Equal(again.Key, r.Key) || !bytes.Equal(again.Value, r.Value) ||
			again.Create != r.Create || again.Version != r.Version || again.Lease != r.Lease {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
