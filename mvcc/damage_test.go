package mvcc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pontoon/shard"
)

const damageKeys = 600

func damageKey(i int) []byte { return []byte(fmt.Sprintf("key/%04d", i)) }

// damageStore fills a store: versions in base and log, deletes, leases, state, a compaction, free
// pages. It returns the closed file.
func damageStore(t *testing.T) Options {
	t.Helper()
	o := Options{Path: filepath.Join(t.TempDir(), "db"), RangeID: 7, NoSync: true, InitialMmapSize: 1 << 20}
	s, err := Open(o)
	must(t, err)
	index, rev := uint64(10), int64(1)
	apply := func(c Change) {
		index++
		c.Pos = Position{index, 6}
		_, err := s.Apply(c)
		must(t, err)
	}
	for round := range 4 {
		for i := range damageKeys {
			rev++
			m := Mutation{Key: damageKey(i), Rev: Rev{rev, 0}, Value: bytes.Repeat([]byte{byte(i)}, 20+i%150)}
			if i%5 == 0 {
				m.Lease = int64(1 + i%3)
			}
			if (i+round)%7 == 0 {
				m = Mutation{Key: m.Key, Rev: m.Rev, Delete: true}
			}
			apply(Change{Muts: []Mutation{m}, State: []StateUpdate{{Key: fmt.Sprintf("s%d", i%20), Value: []byte{byte(round)}}}})
		}
		if round == 1 {
			apply(Change{CompactTo: rev - damageKeys})
		}
		if round == 2 {
			must(t, s.SettleNow())
		}
	}
	must(t, s.Close())
	return o
}

// answers is everything that can be read from a store, one line per question, up to the first error. In
// the end the file is verified as a whole.
func answers(o Options) (lines []string, err error) {
	s, err := Open(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	say("%v %d %d %d", s.Position(), s.LastRevision(), s.CompactRevision(), s.Keys())
	s.RangeState("", func(k string, v []byte) bool { say("state %s %x", k, v); return true })
	compact, last := s.CompactRevision(), s.LastRevision()
	for _, rev := range []int64{compact, compact + 300, last - 100, math.MaxInt64} {
		for i := range damageKeys + 5 {
			kv, ok, err := s.Get(damageKey(i), rev)
			if err != nil {
				return lines, err
			}
			say("get %d@%d %v %+v", i, rev, ok, kv)
			kv, ok, err = s.Head(damageKey(i), rev)
			if err != nil {
				return lines, err
			}
			say("head %d@%d %v %+v", i, rev, ok, kv)
		}
		for _, keysOnly := range []bool{false, true} {
			h := fnv.New64()
			if err := s.Scan(ScanOptions{Rev: rev, KeysOnly: keysOnly, Reverse: keysOnly}, func(kv *shard.KeyValue) bool {
				fmt.Fprintf(h, "%+v", *kv)
				return true
			}); err != nil {
				return lines, err
			}
			say("scan %d %x", rev, h.Sum64())
		}
		n, err := s.Count(shard.All, rev)
		if err != nil {
			return lines, err
		}
		say("count %d %d", rev, n)
	}
	if err := restOf(s, say); err != nil {
		return lines, err
	}
	return lines, scrubAll(s)
}

func scrubAll(s *Store) error {
	for {
		if more, err := s.Maintenance().Scrub(); err != nil || !more {
			return err
		}
	}
}

func restOf(s *Store, say func(string, ...any)) error {
	for from := s.CompactRevision() + 1; from <= s.LastRevision(); {
		evs, next, err := s.History([]shard.Span{shard.All}, from, math.MaxInt64, 1<<16, true)
		if err != nil {
			return err
		}
		h := fnv.New64()
		for i := range evs {
			fmt.Fprintf(h, "%+v %v", evs[i].KV, evs[i].Delete)
			if evs[i].Prev != nil {
				fmt.Fprintf(h, "%+v", *evs[i].Prev)
			}
		}
		say("history %d to %d: %d %x", from, next, len(evs), h.Sum64())
		from = next
	}
	for lease := range int64(4) {
		keys, err := s.LeaseKeys(lease, 0)
		if err != nil {
			return err
		}
		say("lease %d %q", lease, keys)
	}
	hash, err := s.HashKV(math.MaxInt64)
	if err != nil {
		return err
	}
	say("hash %x", hash)
	var snap bytes.Buffer
	pos, err := s.WriteSnapshot(&snap)
	say("snapshot %v %d", pos, snap.Len())
	return err
}

// TestDamage changes bits of a populated store's file, anywhere, and cuts it. Whatever the store says
// after that is what it would have said, or an error that names the file; it neither panics nor
// hangs.
func TestDamage(t *testing.T) {
	o := damageStore(t)
	want, err := answers(o)
	must(t, err)
	whole, err := os.ReadFile(o.Path)
	must(t, err)
	whole = whole[:max(u64(whole[metaPagesAt:]), u64(whole[os.Getpagesize()+metaPagesAt:]))*uint64(os.Getpagesize())] // what is in use
	rounds := 800
	if testing.Short() {
		rounds = 60
	}
	outcomes := map[string]int{}
	for seed := range rounds {
		rnd := rand.New(rand.NewSource(int64(seed)))
		bad, what := damageBytes(rnd, whole)
		o.Path = filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(o.Path, bad, 0o600))
		got, err := answers(o)
		line := firstDifference(got, want, err != nil)
		switch {
		case err != nil && (!errors.Is(err, ErrDamaged) && !errors.Is(err, errOldFormat) || !strings.Contains(err.Error(), o.Path)):
			t.Errorf("seed %d: %s: %v", seed, what, err)
		case line != "" && got[0] < want[0] && (strings.HasPrefix(what, "page 0") || strings.HasPrefix(what, "page 1 ") || strings.HasPrefix(what, "page 1,")):
			// The newest meta page is lost, as a crash may lose it: the store is what it was one
			// transaction ago, and says so by its position. The Raft log has the rest, or lacks it.
			outcomes["older"]++
		case line != "":
			outcomes["wrong"]++
			t.Errorf("seed %d: %s: %s", seed, what, line)
		case err != nil:
			outcomes["error"]++
		default:
			outcomes["right"]++
		}
	}
	t.Logf("%d bytes: %v", len(whole), outcomes)
	if outcomes["error"] < rounds/2 {
		t.Error("most damage was not noticed")
	}
}

// damageBytes prefers the places where the structure is: the beginnings of pages.
func damageBytes(rnd *rand.Rand, whole []byte) (bad []byte, what string) {
	bad = bytes.Clone(whole)
	page := os.Getpagesize()
	switch rnd.Intn(10) {
	case 0:
		n := rnd.Intn(len(bad))
		return bad[:n], fmt.Sprintf("cut at %d", n)
	case 1, 2, 3, 4, 5:
		at := page*rnd.Intn(len(bad)/page) + rnd.Intn(64)
		bad[at] ^= 1 << rnd.Intn(8)
		return bad, fmt.Sprintf("page %d, byte %d", at/page, at%page)
	case 6:
		at := page * rnd.Intn(len(bad)/page)
		copy(bad[at:at+page], make([]byte, page))
		return bad, fmt.Sprintf("page %d zeroed", at/page)
	case 7:
		from, to := page*rnd.Intn(len(bad)/page), page*rnd.Intn(len(bad)/page)
		copy(bad[to:to+page], whole[from:from+page])
		return bad, fmt.Sprintf("page %d over page %d", from/page, to/page)
	default:
		at := rnd.Intn(len(bad))
		bad[at] ^= 1 << rnd.Intn(8)
		return bad, fmt.Sprintf("page %d, byte %d", at/page, at%page)
	}
}

// firstDifference compares answers; those that an error cut short may be fewer.
func firstDifference(got, want []string, short bool) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%.200s, want %.200s", got[i], want[i])
		}
	}
	if len(got) != len(want) && !short {
		return fmt.Sprintf("%d answers, want %d", len(got), len(want))
	}
	return ""
}

// all verifies a whole file at once.
func (c *treeCheck) all() error {
	if err := c.begin(); err != nil {
		return err
	}
	for bucket, blocks := range c.lazy {
		for i := range blocks {
			if err := c.block(bucket, i); err != nil {
				return err
			}
		}
	}
	return c.end()
}

// BenchmarkOpen shows what it costs to verify a file, which is in the page cache: what is done
// before it is served, and all of it.
func BenchmarkOpen(b *testing.B) {
	o := Options{Path: filepath.Join(b.TempDir(), "db"), RangeID: 7, NoSync: true, InitialMmapSize: 1 << 28}
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte("v"), 256)
	for i := range 200_000 {
		c := Change{Pos: Position{uint64(11 + i), 6}, Muts: []Mutation{{Key: fmt.Appendf(nil, "key/%08d", i), Value: value, Rev: Rev{int64(i + 2), 0}}}}
		if _, err := s.Apply(c); err != nil {
			b.Fatal(err)
		}
		if s.Maintenance().NeedsFlush() {
			if err := s.Maintenance().Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := errors.Join(s.SettleNow(), s.Close()); err != nil {
		b.Fatal(err)
	}
	st, err := os.Stat(o.Path)
	if err != nil {
		b.Fatal(err)
	}
	for name, more := range map[string]bool{"start": false, "all": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(st.Size())
			for b.Loop() {
				l, err := beginScrub(o.Path)
				for more := more; more && err == nil; {
					more, err = l.step()
				}
				if err := errors.Join(err, l.unmap()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzVerify: any bytes are verified without a panic and in bounded time; with fix set the meta
// pages are made whole, so that the trees are reached.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	o := Options{Path: filepath.Join(dir, "db"), RangeID: 7, NoSync: true}
	s, err := Open(o)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 40 {
		m := Mutation{Key: fmt.Appendf(nil, "k%02d", i%25), Rev: Rev{int64(i + 2), 0}, Value: bytes.Repeat([]byte("v"), 150), Lease: int64(i % 3)}
		if _, err := s.Apply(Change{Pos: Position{uint64(11 + i), 6}, Muts: []Mutation{m}, State: []StateUpdate{{"s", []byte{byte(i)}}}}); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(s.SettleNow(), s.Close()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(o.Path)
	if err != nil {
		f.Fatal(err)
	}
	page := os.Getpagesize()
	whole = whole[:int(max(u64(whole[metaPagesAt:]), u64(whole[page+metaPagesAt:])))*page]
	if err := (&treeCheck{data: whole}).all(); err != nil {
		f.Fatal(err)
	}
	f.Add(whole, true)
	f.Add(whole[:len(whole)-page], false)
	for at := page * 2; at < len(whole); at += page / 2 {
		bad := bytes.Clone(whole)
		bad[at+10] ^= 1
		f.Add(bad, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if len(b) < 2*pageSizeMin {
			return
		}
		b = bytes.Clone(b)
		for i := 0; fix && i < 2 && i*page+metaLen <= len(b); i++ {
			m := b[i*page:]
			binary.NativeEndian.PutUint32(m[metaMagicAt:], boltMagic)
			binary.NativeEndian.PutUint32(m[metaPageSizeAt:], uint32(page))
			h := fnv.New64a()
			h.Write(m[metaMagicAt:metaSumAt])
			binary.NativeEndian.PutUint64(m[metaSumAt:], h.Sum64())
		}
		_ = (&treeCheck{data: b}).all() // to return is enough
	})
}
