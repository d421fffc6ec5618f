package mvcc

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/shard"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

func TestApplyDerivesVersions(t *testing.T) {
	h := newHarness(t, nil)
	key := []byte("k")
	put := func(rev, sub int64) Mutation { return Mutation{Key: key, Value: []byte("v"), Rev: Rev{rev, sub}} }
	evs := h.change(Change{Muts: []Mutation{put(3, 0), put(4, 0), {Key: key, Delete: true, Rev: Rev{5, 1}},
		{Key: key, Delete: true, Rev: Rev{6, 0}}, put(8, 2)}})
	want := []string{"3 1 3 put", "3 2 4 put", "0 0 5 delete", "8 1 8 put"}
	var got []string
	for _, ev := range evs {
		kind := "put"
		if ev.Delete {
			kind = "delete"
		}
		got = append(got, fmt.Sprintf("%d %d %d %s", ev.KV.CreateRevision, ev.KV.Version, ev.KV.ModRevision, kind))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("create, version, mod: %q, want %q", got, want)
	}
	if evs[0].Prev != nil || evs[1].Prev.ModRevision != 3 || evs[2].Prev.ModRevision != 4 || evs[3].Prev != nil {
		t.Fatal("wrong versions before")
	}
	if h.Keys() != 1 || h.LastRevision() != 8 {
		t.Fatalf("%d keys, last revision %d", h.Keys(), h.LastRevision())
	}
}

func TestApplyRefusals(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 10)
	h.change(Change{CompactTo: 12})
	mut := func(rev, sub int64) Mutation { return Mutation{Key: []byte("k"), Rev: Rev{rev, sub}} }
	pos := Position{Index: h.index + 1, Term: 1}
	for name, c := range map[string]Change{
		"index":      {Pos: Position{h.index, 1}},
		"order":      {Pos: pos, Muts: []Mutation{mut(20, 1), mut(20, 1)}},
		"zero":       {Pos: pos, Muts: []Mutation{mut(0, 0)}},
		"later":      {Pos: pos, Muts: []Mutation{mut(10, 0)}},
		"compacted":  {Pos: pos, Muts: []Mutation{mut(12, 0)}},
		"long key":   {Pos: pos, Muts: []Mutation{{Key: make([]byte, MaxKeyBytes+1), Rev: Rev{20, 0}}}},
		"negative":   {Pos: pos, Muts: []Mutation{mut(20, -1)}},
		"two orders": {Pos: pos, Muts: []Mutation{mut(30, 0), mut(29, 0)}},
	} {
		if _, err := h.Apply(c); !errors.Is(err, shard.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h.Position().Index != h.index || h.LastRevision() != 10 {
		t.Fatal("a refused change left something")
	}
}

func TestLongestKeyReachesTheBase(t *testing.T) {
	h := newHarness(t, nil)
	key := string(make([]byte, MaxKeyBytes)) // all zeros: every byte is escaped
	h.change(Change{Muts: []Mutation{{Key: []byte(key), Value: []byte("v"), Lease: 3, Rev: Rev{1, 0}}}})
	h.ok(h.SettleNow())
	h.want(key, 1, 1)
	keys, err := h.LeaseKeys(3, 0)
	if err != nil || len(keys) != 1 || len(keys[0]) != MaxKeyBytes {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
}

func TestOpenRefusesInUse(t *testing.T) {
	h := newHarness(t, nil)
	_, err := Open(h.o)
	if err == nil || !strings.Contains(err.Error(), h.o.Path) || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second open: %v", err)
	}
	if errors.Is(err, shard.ErrCorrupt) {
		t.Fatalf("in use is not damaged: %v", err)
	}
}

// reopenErr changes the closed file and returns what Open says.
func reopenErr(t *testing.T, change func(path string)) error {
	t.Helper()
	h := newHarness(t, nil)
	for i := range int64(300) {
		h.put(fmt.Sprintf("key%d", i), i+1)
	}
	h.ok(h.Close())
	change(h.o.Path)
	s, err := Open(h.o)
	if err == nil {
		h.ok(s.Close())
	} else if !strings.Contains(err.Error(), h.o.Path) {
		t.Fatalf("the error does not name the file: %v", err)
	}
	return err
}

func rewrite(t *testing.T, bucket, key []byte, change func(v []byte) []byte) func(path string) {
	return func(path string) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			return b.Put(key, change(bytes.Clone(b.Get(key))))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	flip := func(v []byte) []byte { v[len(v)-1] ^= 1; return v }
	cases := map[string]func(path string){
		"progress": rewrite(t, bucketMeta, metaProgress, flip),
		"format":   rewrite(t, bucketMeta, metaFormat, func(v []byte) []byte { v[0] ^= 1; return v }),
		"log":      rewrite(t, bucketLog, appendLogKey(nil, Rev{9, 0}), flip),
		"cut":      func(path string) { must(t, os.Truncate(path, 20<<10)) },
		"empty":    func(path string) { must(t, os.WriteFile(path, []byte("not bolt"), 0o600)) },
	}
	for name, change := range cases {
		if err := reopenErr(t, change); !errors.Is(err, shard.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	later := rewrite(t, bucketMeta, metaFormat, func(v []byte) []byte { v[crcLen+3]++; return v })
	if err := reopenErr(t, later); !errors.Is(err, errOldFormat) {
		t.Errorf("another format: %v", err)
	}
	other := rewrite(t, bucketMeta, metaFormat, func([]byte) []byte { return encodeFormat(99) })
	if err := reopenErr(t, other); !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("another range: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadNamesCorruptRecord(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 1)
	h.ok(h.SettleNow())
	h.ok(h.Store.file.db.Load().Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBase).Put(appendBaseKey(nil, []byte("k"), Rev{1, 0}), []byte("damaged"))
	}))
	_, _, getErr := h.Get([]byte("k"), 1)
	scanErr := h.Scan(ScanOptions{Rev: 1}, func(*shard.KeyValue) bool { return true })
	_, hashErr := h.HashKV(1)
	_, snapErr := h.WriteSnapshot(&bytes.Buffer{})
	_, applyErr := h.Apply(Change{Pos: Position{9, 9}, Muts: []Mutation{{Key: []byte("k"), Rev: Rev{5, 0}}}})
	for _, err := range []error{getErr, scanErr, hashErr, snapErr, applyErr} {
		if !errors.Is(err, shard.ErrCorrupt) || !strings.Contains(err.Error(), h.o.Path) {
			t.Errorf("got %v", err)
		}
	}
}

func TestFailedWriteIsSticky(t *testing.T) {
	fail := false
	h := newHarness(t, func(o *Options) {
		o.hook = func(string) error {
			if fail {
				return errCrash
			}
			return nil
		}
	})
	h.put("k", 1)
	fail = true
	first := h.Flush()
	fail = false
	_, again := h.Maintain(10)
	if !errors.Is(first, errCrash) || !errors.Is(again, errCrash) || !errors.Is(h.Flush(), errCrash) {
		t.Fatalf("%v, then %v", first, again)
	}
	h.want("k", 1, 1) // what was applied can still be read
}

func TestRestoreRefusesAndLeavesNothing(t *testing.T) {
	h := newHarness(t, nil)
	h.put("k", 1)
	var buf bytes.Buffer
	_, err := h.WriteSnapshot(&buf)
	h.ok(err)
	path := filepath.Join(t.TempDir(), "incoming")
	must(t, os.WriteFile(path, []byte("left over"), 0o600))
	if _, err := RestoreSnapshot(path, bytes.NewReader(buf.Bytes()[:buf.Len()-1])); !errors.Is(err, shard.ErrCorrupt) {
		t.Fatalf("cut snapshot: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("something was left: %v", err)
	}
	if pos, err := RestoreSnapshot(path, &buf); err != nil || pos != h.Position() {
		t.Fatalf("%v, %v", pos, err)
	}
}

func TestCacheServesRecords(t *testing.T) {
	c, err := NewCache(1 << 20)
	must(t, err)
	defer c.Close()
	h := newHarness(t, func(o *Options) { o.Cache = c })
	h.put("k\x00", 1)
	h.put("k", 2)
	h.ok(h.SettleNow())
	get := func() *byte {
		kv, ok, err := h.Get([]byte("k\x00"), 2)
		if h.ok(err); !ok || string(kv.Key) != "k\x00" {
			t.Fatalf("%+v %v", kv, ok)
		}
		return &kv.Value[0]
	}
	first := get()
	c.c.Wait()
	if get() != first {
		t.Fatal("the second read did not come from the cache")
	}
	if c.get(appendBaseKey(nil, []byte("k\x00"), Rev{1, 1}), appendEscaped(nil, []byte("k\x00")), Rev{1, 1}) != nil {
		t.Fatal("another revision was served")
	}
}

func TestCompactionSemantics(t *testing.T) {
	h := newHarness(t, nil)
	h.put("a", 1)
	h.put("a", 2)
	h.del("b", 3)
	h.put("b", 4)
	h.del("b", 5)
	h.put("c", 6)
	h.compactTo(5)
	h.compactTo(4) // lower: no effect
	h.maintainAll(1, nil)
	h.want("a", 5, 2)
	h.want("b", 5, 0)
	h.want("c", 6, 6)
	evs, next, err := h.History([]shard.Span{shard.All}, 5, 6, math.MaxInt, true)
	h.ok(err)
	if len(evs) != 2 || !evs[0].Delete || next != 7 {
		t.Fatalf("history from the compaction revision: %+v, next %d", evs, next)
	}
	if st := h.Stats(); st.FileBytes == 0 || st.InUseBytes > st.FileBytes || st.SettleRevision != 6 {
		t.Fatalf("%+v", st)
	}
}
