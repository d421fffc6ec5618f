package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"pontoon/shard"
)

// scrubStore fills a store of many blocks and returns its closed file. Key i has version i+1, and every
// other key a second one, rounds*scrubKeys later.
const scrubKeys = 12_000

func scrubKey(i int) []byte { return fmt.Appendf(nil, "key/%06d", i) }

func scrubValue(i, round int) []byte { return bytes.Repeat([]byte{byte('a' + round), byte(i)}, 150) }

func scrubStore(t *testing.T) Options {
	t.Helper()
	o := Options{Path: filepath.Join(t.TempDir(), "db"), RangeID: 7, NoSync: true, InitialMmapSize: 1 << 20}
	s, err := Open(o)
	must(t, err)
	for round := range 2 {
		var c Change
		for i := range scrubKeys {
			if round == 1 && i%2 == 1 {
				continue
			}
			c.Muts = append(c.Muts, Mutation{Key: scrubKey(i), Value: scrubValue(i, round), Rev: Rev{int64(1 + i + round*scrubKeys), 0}})
			if len(c.Muts) == 1000 || i >= scrubKeys-2 {
				c.Pos = Position{Index: s.Position().Index + 1, Term: 1}
				_, err := s.Apply(c)
				must(t, err)
				c.Muts = nil
			}
		}
		if round == 0 {
			must(t, s.SettleNow())
		}
	}
	must(t, s.Close())
	return o
}

// scrubReader asks a store what it should know.
type scrubReader struct {
	s   *Store
	rnd *rand.Rand
	new int // keys written since
}

// ask does something at random, and returns what was wrong with the answer, or the store's error.
func (r *scrubReader) ask() (wrong string, err error) {
	i := r.rnd.Intn(scrubKeys)
	switch r.rnd.Intn(7) {
	case 0, 1:
		kv, ok, err := r.s.Get(scrubKey(i), scrubKeys)
		if err == nil && (!ok || !bytes.Equal(kv.Value, scrubValue(i, 0))) {
			return fmt.Sprintf("get %d: %v %v", i, ok, kv), nil
		}
		return "", err
	case 2, 3:
		return r.scan(i, r.rnd.Intn(2) == 0)
	case 4:
		n := int64(1 + r.rnd.Intn(500))
		evs, _, err := r.s.History([]shard.Span{shard.All}, int64(i+1), min(int64(i)+n, scrubKeys), math.MaxInt, false)
		if err == nil && int64(len(evs)) != min(n, int64(scrubKeys-i)) {
			return fmt.Sprintf("history from %d: %d of %d", i+1, len(evs), n), nil
		}
		return "", err
	case 5:
		r.new++
		m := Mutation{Key: fmt.Appendf(nil, "new/%d", r.new), Value: []byte("v"), Rev: Rev{r.s.LastRevision() + 1, 0}}
		if _, err := r.s.Apply(Change{Pos: Position{Index: r.s.Position().Index + 1, Term: 1}, Muts: []Mutation{m}}); err != nil {
			return "", err
		}
		return "", r.s.Maintenance().Flush()
	default:
		_, err := r.s.Maintenance().Scrub()
		return "", err
	}
}

// scan reads some keys from the i-th on, or back from it.
func (r *scrubReader) scan(i int, reverse bool) (wrong string, err error) {
	o := ScanOptions{Span: shard.Span{Start: scrubKey(i)}, Rev: scrubKeys, Reverse: reverse}
	if reverse {
		o.Span = shard.Span{End: scrubKey(i + 1)}
	}
	n, next := r.rnd.Intn(1500), i
	err = r.s.Scan(o, func(kv *shard.KeyValue) bool {
		if !bytes.Equal(kv.Key, scrubKey(next)) || !bytes.Equal(kv.Value, scrubValue(next, 0)) {
			wrong = fmt.Sprintf("scan from %d: %q where %d belongs", i, kv.Key, next)
			return false
		}
		if next++; reverse {
			next -= 2
		}
		n--
		return n > 0
	})
	if atEnd := next == scrubKeys || next < 0; err == nil && wrong == "" && n > 0 && !atEnd {
		wrong = fmt.Sprintf("scan from %d ends at %d", i, next)
	}
	return wrong, err
}

// TestDamageIsFoundBeforeItIsRead damages pages of a file of many blocks. Whatever is read or written
// while it is being verified is answered rightly or with ErrDamaged, and in the end the damage
// is found.
func TestDamageIsFoundBeforeItIsRead(t *testing.T) {
	o := scrubStore(t)
	whole, err := os.ReadFile(o.Path)
	must(t, err)
	page := os.Getpagesize()
	pages := int(max(u64(whole[metaPagesAt:]), u64(whole[page+metaPagesAt:])))
	rounds := 150
	if testing.Short() {
		rounds = 25
	}
	late := 0
	for seed := range rounds {
		rnd := rand.New(rand.NewSource(int64(seed)))
		bad := bytes.Clone(whole)
		id := 2 + rnd.Intn(pages-2)
		if f := u16(bad[id*page+8:]); f != flagLeaf {
			continue // a free page, or one that is looked at first: TestDamage
		}
		at := id*page + rnd.Intn(200) // head, elements
		bad[at] ^= 1 << rnd.Intn(8)
		o.Path = filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(o.Path, bad, 0o600))
		s, err := Open(o)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue
		}
		late++
		r := scrubReader{s: s, rnd: rnd}
		for n := 0; n < 200 && err == nil; n++ {
			var wrong string
			if wrong, err = r.ask(); wrong != "" {
				t.Errorf("seed %d, page %d, byte %d: %s", seed, id, at%page, wrong)
			}
		}
		if err == nil {
			err = scrubAll(s)
		}
		inUse := s.file.scrub.Load() != nil
		if err == nil && inUse || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("seed %d, page %d, byte %d: %v", seed, id, at%page, err)
		}
		if again := scrubAll(s); err != nil && !errors.Is(again, ErrDamaged) {
			t.Errorf("seed %d: damage is forgotten: %v", seed, again)
		}
		_ = s.Close() // of a damaged file
	}
	if late == 0 {
		t.Error("no damage was left for later")
	}
}

// emptyBlock makes all leaves of a block look empty, so that bbolt passes over them, and returns a path
// to the file.
func emptyBlock(t *testing.T, o Options, bucket []byte) (bad Options, lo, hi []byte) {
	t.Helper()
	l, err := beginScrub(o.Path)
	must(t, err)
	blocks := l.trees[string(bucket)].blocks
	i := len(blocks) / 2
	p := l.check.data[int(blocks[i].page)*l.check.pageSize:]
	below, err := children(p[:(int(u32(p[12:]))+1)*l.check.pageSize], treeBounds{blocks[i].lo, blocks[i+1].lo})
	must(t, err)
	file := bytes.Clone(l.check.data)
	for _, ch := range below {
		clear(file[int(ch.page)*l.check.pageSize+10:][:2])
	}
	bad = o
	bad.Path = filepath.Join(t.TempDir(), "db")
	must(t, errors.Join(l.unmap(), os.WriteFile(bad.Path, file, 0o600)))
	return bad, blocks[i].lo, blocks[i+1].lo
}

// justBelow is a key between scrubKey(i-1) and scrubKey(i), which it is given.
func justBelow(t *testing.T, key []byte) []byte {
	t.Helper()
	var i int
	_, err := fmt.Sscanf(string(key), "key/%d", &i)
	must(t, err)
	return append(scrubKey(i-1), 0xff)
}

// Cursors look before they move: a block that bbolt would pass over is found by whoever comes to it, from
// either side, and by nobody else.
func TestNoCursorPassesOverDamage(t *testing.T) {
	whole := scrubStore(t)
	base, lo, hi := emptyBlock(t, whole, bucketBase)
	first, _, err := splitBaseKey(lo)
	must(t, err)
	from, err := unescape(first)
	must(t, err)
	next, _, err := splitBaseKey(hi)
	must(t, err)
	to, err := unescape(next)
	must(t, err)
	log, lo, hi := emptyBlock(t, whole, bucketLog)
	rev, err := decodeLogKey(lo)
	must(t, err)
	end, err := decodeLogKey(hi)
	must(t, err)
	scan := func(o ScanOptions) func(*Store) error {
		o.Rev = scrubKeys
		return func(s *Store) error { return s.Scan(o, func(*shard.KeyValue) bool { return true }) }
	}
	history := func(from, to int64) func(*Store) error {
		return func(s *Store) error {
			_, _, err := s.History([]shard.Span{shard.All}, from, to, math.MaxInt, false)
			return err
		}
	}
	for name, c := range map[string]struct {
		o    Options
		do   func(*Store) error
		good bool
	}{
		"get":              {o: base, do: func(s *Store) error { _, _, err := s.Get(append(bytes.Clone(from), 0), scrubKeys); return err }},
		"get ends in it":   {o: base, do: func(s *Store) error { _, _, err := s.Get(justBelow(t, from), scrubKeys); return err }},
		"scan into it":     {o: base, do: scan(ScanOptions{Span: shard.Span{End: append(bytes.Clone(from), 0)}})},
		"scan in it":       {o: base, do: scan(ScanOptions{Span: shard.Span{Start: append(bytes.Clone(from), 0), End: to}})},
		"scan back":        {o: base, do: scan(ScanOptions{Reverse: true})},
		"scan before it":   {o: base, do: scan(ScanOptions{Span: shard.Span{End: scrubKey(10)}}), good: true},
		"scan behind it":   {o: base, do: scan(ScanOptions{Span: shard.Span{Start: scrubKey(scrubKeys - 10)}}), good: true},
		"history into it":  {o: log, do: history(rev.Main-5, rev.Main+1)},
		"history in it":    {o: log, do: history(rev.Main+1, end.Main-1)},
		"history before":   {o: log, do: history(1, 10), good: true},
		"snapshot":         {o: base, do: func(s *Store) error { _, err := s.WriteSnapshot(new(bytes.Buffer)); return err }},
		"all, in the base": {o: base, do: scrubAll},
		"all, in the log":  {o: log, do: scrubAll},
		"settling":         {o: base, do: func(s *Store) error { return s.SettleNow() }},
		"a write behind the log's end": {o: log, good: true, do: func(s *Store) error {
			m := Mutation{Key: []byte("k"), Rev: Rev{s.LastRevision() + 1, 0}}
			if _, err := s.Apply(Change{Pos: Position{Index: s.Position().Index + 1, Term: 1}, Muts: []Mutation{m}}); err != nil {
				return err
			}
			return s.Maintenance().Flush()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := os.ReadFile(c.o.Path)
			must(t, err)
			c.o.Path = filepath.Join(t.TempDir(), "db")
			must(t, os.WriteFile(c.o.Path, file, 0o600))
			s, err := Open(c.o)
			must(t, err)
			if s.mem.mu.durable.settle != scrubKeys {
				t.Fatalf("settled up to %d", s.mem.mu.durable.settle)
			}
			if err := c.do(s); c.good && err != nil || !c.good && !errors.Is(err, ErrDamaged) {
				t.Errorf("%v", err)
			}
			_ = s.Close() // damaged
		})
	}
}

// A store that is whole says so, and settles only after that.
func TestScrubComesBeforeSettling(t *testing.T) {
	o := scrubStore(t)
	s, err := Open(o)
	must(t, err)
	l := s.file.scrub.Load()
	if l == nil || len(l.trees[string(bucketLog)].blocks) < 3 || len(l.trees[string(bucketBase)].blocks) < 3 {
		t.Fatal("the file has too few blocks for this test")
	}
	s.Maintenance().RequestSettle()
	steps := 0
	for more := true; more; steps++ {
		if more, err = s.Maintenance().Maintain(1000); err != nil {
			t.Fatal(err)
		}
		if s.file.scrub.Load() != nil && s.mem.durable().settle != scrubKeys {
			t.Fatal("it has settled over pages that nobody has seen")
		}
	}
	if s.file.scrub.Load() != nil || s.mem.durable().settle == scrubKeys {
		t.Fatal("it has not settled")
	}
	must(t, s.Close())
}
