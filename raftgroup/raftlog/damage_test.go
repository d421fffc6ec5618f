package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// populate fills a log: groups with entries in tables and in the write-ahead log, some truncated.
func populate(t *testing.T, dir string, groups, entries int) {
	t.Helper()
	s, err := Open(dir, Options{MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= entries; i++ {
		var batch []raftgroup.Update
		for g := 1; g <= groups; g++ {
			u := raftgroup.Update{Group: shard.RangeID(g), HardState: &raftgroup.HardState{Term: 5, Vote: uint64(g), Commit: uint64(9 + i)}}
			if i == 1 {
				u.Reset = &raftgroup.Position{Index: 10, Term: 5}
				u.Conf = &raftgroup.Conf{State: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Index: 10}
			}
			u.Entries = []*raftpb.Entry{{Index: new(uint64(10 + i)), Term: new(uint64(5)), Data: entryData(g, 10+i)}}
			batch = append(batch, u)
		}
		if err := s.Save(batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func entryData(g, index int) []byte {
	return []byte(fmt.Sprintf("%d/%d %s", g, index, strings.Repeat("x", 100+index%300)))
}

// readAll reads everything that populate has written. It returns how many entries are missing at the
// end of the groups' logs, and an error for everything that was not read as it was written.
func readAll(s *Store, groups, entries int) (missing int, wrong error, err error) {
	for g := 1; g <= groups; g++ {
		st, ok, err := s.Load(shard.RangeID(g))
		if err != nil {
			return 0, nil, err
		}
		if !ok || st.Truncated.Index != 10 || st.HardState.Vote != uint64(g) || len(st.Conf.State.GetVoters()) != 3 {
			return 0, fmt.Errorf("group %d: %v %+v", g, ok, st), nil
		}
		missing += 10 + entries - int(st.Last)
		if st.HardState.Commit != st.Last-1 {
			return 0, fmt.Errorf("group %d: commit %d, last %d", g, st.HardState.Commit, st.Last), nil
		}
		for at := uint64(11); at <= st.Last; {
			ents, err := s.Entries(shard.RangeID(g), at, st.Last+1, 64<<10)
			if err != nil {
				return 0, nil, err
			}
			for _, e := range ents {
				if e.GetIndex() != at || e.GetTerm() != 5 || string(e.GetData()) != string(entryData(g, int(at))) {
					return 0, fmt.Errorf("group %d: entry %d is %v", g, at, e), nil
				}
				at++
			}
		}
	}
	return missing, nil, nil
}

func copyDir(t *testing.T, from, to string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name := filepath.Base(p)
		files = append(files, name)
		return os.WriteFile(filepath.Join(to, name), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestDamage changes bits anywhere in the files of a populated log. Whatever is read afterwards is
// what was written, or an error; nothing that was synced is missing without one.
func TestDamage(t *testing.T) {
	const groups, entries = 4, 900
	whole := t.TempDir()
	populate(t, whole, groups, entries)
	rounds := 150
	if testing.Short() {
		rounds = 25
	}
	outcomes := map[string]int{}
	for seed := range rounds {
		rnd := rand.New(rand.NewSource(int64(seed)))
		dir := t.TempDir()
		files := copyDir(t, whole, dir)
		name := files[rnd.Intn(len(files))]
		what, harmless := hurt(t, rnd, filepath.Join(dir, name))
		out := inspect(t, dir, groups, entries)
		kind := strings.Split(name, ".")
		outcomes[kind[len(kind)-1]+": "+strings.SplitN(out, ":", 2)[0]]++
		if strings.HasPrefix(out, "wrong") || strings.HasPrefix(out, "missing") && !harmless {
			t.Errorf("seed %d: %s of %s: %s", seed, what, name, out)
		}
	}
	t.Log(outcomes)
}

// hurt changes bits of a file.
func hurt(t *testing.T, rnd *rand.Rand, path string) (what string, harmless bool) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return "nothing", true
	}
	at := rnd.Intn(len(b))
	b[at] ^= 1 << rnd.Intn(8)
	what = fmt.Sprintf("a bit of byte %d of %d", at, len(b))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return what, false
}

// inspect says what becomes of opening and reading a log.
func inspect(t *testing.T, dir string, groups, entries int) (out string) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			out = fmt.Sprintf("wrong: panic: %v", p)
		}
	}()
	s, err := Open(dir, Options{})
	if err != nil {
		if !strings.Contains(err.Error(), dir) {
			return "wrong: the error names no directory: " + err.Error()
		}
		return "refused: " + err.Error()
	}
	missing, wrong, err := readAll(s, groups, entries)
	err = errors.Join(err, s.Close())
	switch {
	case wrong != nil:
		return "wrong: " + wrong.Error()
	case err != nil:
		return "error: " + err.Error()
	case missing > 0:
		return fmt.Sprintf("missing: %d entries", missing)
	}
	return "right"
}
