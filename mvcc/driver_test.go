package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pontoon/shard"
)

var errCrash = errors.New("crash")

// smallSteps makes every bound bite on a few dozen keys.
var smallSteps = steps{visits: 7, results: 4, first: 2, bytes: 200, frame: 64, settle: 800}

// step is one applied change, and the floor that holds after it.
type step struct {
	change Change
	floor  int64
}

// driver runs random operations on a store and a model, crashes the store at any commit, and
// compares the two.
type driver struct {
	t               testing.TB
	r               *rand.Rand
	dir             string
	opt             Options
	s               *Store
	m               *model
	log             []step // the Raft log, from index 1
	rev             int64  // last revision handed out
	floor           int64
	locked          map[string]bool // keys of the prepared transaction
	decide          int64           // its commit revision, 0 while undecided
	crash           int             // commits until the next crash; 0: none
	depth           int             // operations within operations
	inGap           bool            // maintenance runs between the two halves of a read
	inHook, opening bool
	whole           bool // store and model have seen the same changes
	files           int
	defragmented    int
	served          shard.Span
}

func newDriver(t testing.TB, seed uint64) *driver {
	d := &driver{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), m: newModel(), floor: math.MaxInt64,
	}
	d.opt = Options{
		Path: filepath.Join(d.dir, "db"), RangeID: 7, NoSync: true, InitialMmapSize: 1 << 20,
		FlushBytes: 2000, SettleBytes: 4000, steps: smallSteps,
	}
	d.hooks()
	d.open()
	return d
}

// hooks let the driver crash its store, and look at it and work on it in the middle of things.
func (d *driver) hooks() {
	d.opt.hook = func(string) error {
		spoilSlabs()
		if d.crash > 0 {
			if d.crash--; d.crash == 0 {
				return errCrash
			}
		}
		if d.inHook = true; d.whole && d.r.IntN(10) == 0 {
			d.check() // before the commit, and between it and the trim
		}
		d.inHook = false
		return nil
	}
	d.opt.gap = func() {
		if !d.opening && !d.inHook && !d.inGap && d.r.IntN(3) == 0 {
			d.inGap = true
			crash := d.crash
			d.crash = 0
			d.s.Maintenance().RequestSettle()
			d.flush()
			d.maintain(d.r.IntN(20))
			d.crash, d.inGap = crash, false
		}
	}
}

func (d *driver) open() {
	d.t.Helper()
	d.whole, d.opening = false, true
	s, err := Open(d.opt)
	if err != nil {
		d.t.Fatal(err)
	}
	d.opening = false
	d.s = s
	// As a replica does: state and floor as of the durable position, then the Raft log.
	at := s.Position()
	if at != s.DurablePosition() || at.Index > uint64(len(d.log)) {
		d.t.Fatalf("opened at %v (durable %v) of %d", at, s.DurablePosition(), len(d.log))
	}
	floor := int64(math.MaxInt64)
	if at.Index > 0 {
		floor = d.log[at.Index-1].floor
	}
	s.SetFloor(floor)
	for _, st := range d.log[at.Index:] {
		if d.r.IntN(4) == 0 {
			d.maintain(1 + d.r.IntN(3))
		}
		if _, err := d.s.Apply(st.change); err != nil {
			d.t.Fatalf("replay %d: %v", st.change.Pos.Index, err)
		}
		d.s.SetFloor(st.floor)
	}
	d.whole = true
}

func (d *driver) close() {
	if err := d.s.Close(); err != nil && !errors.Is(err, errCrash) {
		d.t.Fatal(err)
	}
}

// recover does what a restart after a crash does. The file has what was committed.
func (d *driver) recover() {
	d.crash = 0
	d.s.maintenance.disk.Lock()
	d.s.maintenance.disk.failed = errCrash
	d.s.maintenance.disk.Unlock()
	d.close()
	d.open()
}

// key is one that the store serves.
func (d *driver) key() string {
	for {
		if key := d.anyKey(); d.served.Contains([]byte(key)) {
			return key
		}
	}
}

func (d *driver) anyKey() string {
	keys := []string{"a", "a\x00", "a\x00\x00", "a\x00\xff", "a\x01", "b", "b\xff", "b\xff\xff", "c", "\x00", "\x00\x01", "\xff"}
	if d.r.IntN(2) == 0 {
		return keys[d.r.IntN(len(keys))]
	}
	return fmt.Sprintf("k%02d", d.r.IntN(40))
}

func (d *driver) span() shard.Span {
	switch d.r.IntN(4) {
	case 0:
		return d.served
	case 1:
		return shard.Point([]byte(d.key()))
	case 2:
		return shard.Span{Start: []byte(d.key()), End: d.served.End}
	default:
		return shard.Span{Start: []byte(d.key()), End: []byte(d.key())}
	}
}

func (d *driver) value() []byte {
	return bytes.Repeat([]byte{byte('a' + d.r.IntN(26))}, d.r.IntN(30))
}

func (d *driver) mutation(key string, rev Rev) Mutation {
	m := Mutation{Key: []byte(key), Rev: rev, Delete: d.r.IntN(3) == 0}
	if !m.Delete {
		m.Value = d.value()
		if d.r.IntN(3) == 0 {
			m.Lease = int64(1 + d.r.IntN(3))
		}
	}
	return m
}

// apply logs the change, applies it to both sides and compares the events.
func (d *driver) apply(c Change) {
	d.t.Helper()
	c.Pos = Position{Index: uint64(len(d.log)) + 1, Term: 3}
	d.whole = false
	got, err := d.s.Apply(c)
	d.whole = true
	if err != nil {
		d.t.Fatal(err)
	}
	d.s.SetFloor(d.floor)
	d.log = append(d.log, step{c, d.floor})
	if err := sameEvents(got, d.m.apply(c)); err != nil {
		d.t.Fatalf("apply %d: %v", c.Pos.Index, err)
	}
}

func (d *driver) write() {
	var c Change
	for range 1 + d.r.IntN(3) {
		d.rev += 1 + int64(d.r.IntN(2))
		var used []string
		for sub := range 1 + d.r.IntN(3) {
			key := d.key()
			if d.locked[key] || slices.Contains(used, key) {
				continue
			}
			used = append(used, key)
			c.Muts = append(c.Muts, d.mutation(key, Rev{d.rev, int64(sub)}))
		}
	}
	if d.r.IntN(4) == 0 {
		u := StateUpdate{Key: fmt.Sprintf("s/%d", d.r.IntN(9))}
		if d.r.IntN(3) > 0 {
			u.Value = d.value()
		}
		c.State = append(c.State, u)
	}
	d.apply(c)
}

// transaction takes the next step of a prepared transaction: Prepare, decision, Resolve.
func (d *driver) transaction() {
	switch {
	case d.locked == nil:
		d.locked = make(map[string]bool)
		for range 1 + d.r.IntN(3) {
			d.locked[d.key()] = true
		}
		d.floor = max(d.s.LastRevision(), d.rev)
		d.apply(Change{State: []StateUpdate{{"lock", []byte("held")}}})
	case d.decide == 0:
		d.rev++
		d.decide = d.rev
	default:
		c := Change{State: []StateUpdate{{"lock", nil}}}
		sub := int64(0)
		for key := range d.locked {
			c.Muts = append(c.Muts, d.mutation(key, Rev{d.decide, sub}))
			sub++
		}
		d.locked, d.decide, d.floor = nil, 0, math.MaxInt64
		d.apply(c)
	}
}

func (d *driver) compact() {
	top := min(d.floor, d.rev)
	if top <= d.m.compact {
		return
	}
	d.apply(Change{CompactTo: d.m.compact + 1 + d.r.Int64N(top-d.m.compact)})
}

func (d *driver) flush() {
	if err := d.s.Maintenance().Flush(); errors.Is(err, errCrash) {
		d.recover()
	} else if err != nil {
		d.t.Fatal(err)
	}
}

func (d *driver) maintain(n int) {
	for range n {
		more, err := d.s.Maintenance().Maintain(1 + d.r.IntN(6))
		if errors.Is(err, errCrash) {
			d.recover()
			return
		} else if err != nil {
			d.t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

// op does one random operation.
func (d *driver) op() {
	switch n := d.r.IntN(100); {
	case n < 30:
		d.write()
	case n < 38:
		d.transaction()
	case n < 42:
		d.compact()
	case n < 52:
		d.flush()
	case n < 57:
		d.s.Maintenance().RequestSettle()
	case n < 77:
		d.maintain(1 + d.r.IntN(8))
	case n < 79 && d.depth == 0:
		d.recover()
	case n < 80 && d.depth == 0:
		d.close()
		d.open()
	case n < 83 && d.depth == 0:
		d.crash = 1 + d.r.IntN(6)
	case n < 86 && d.depth == 0:
		d.snapshot()
	case n < 88 && d.depth == 0:
		d.defragment()
	case n < 90:
		d.scanWhile()
	case n < 94:
		d.historyCheck()
	default:
		d.check()
	}
}

// within does a few operations in the middle of another one; no crash then.
func (d *driver) within() {
	if d.depth > 0 {
		return
	}
	crash := d.crash
	d.crash = 0
	d.depth++
	for range d.r.IntN(4) {
		d.op()
	}
	d.depth--
	d.crash = crash
}

// writerFunc lets operations run while a snapshot is written.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// snapshot writes a snapshot while operations go on, restores it, and compares it with the
// model as it was at the beginning. Half of the time the restored file becomes the store.
func (d *driver) snapshot() {
	d.t.Helper()
	then := d.m.clone()
	floor := d.floor
	var buf bytes.Buffer
	pos, err := d.s.WriteSnapshot(writerFunc(func(p []byte) (int, error) {
		d.within()
		return buf.Write(p)
	}))
	if err != nil || pos != then.pos {
		d.t.Fatalf("snapshot at %v, want %v: %v", pos, then.pos, err)
	}
	d.files++
	path := filepath.Join(d.dir, fmt.Sprintf("restored%d", d.files))
	if got, err := restoreFile(path, &buf, 500); err != nil || got != pos {
		d.t.Fatalf("restored at %v, want %v: %v", got, pos, err)
	}
	opt := d.opt
	opt.Path, opt.hook, opt.gap = path, nil, nil
	s, err := Open(opt)
	if err != nil {
		d.t.Fatal(err)
	}
	s.SetFloor(floor)
	compare(d.t, d.r, s, then, d)
	if err := s.Close(); err != nil {
		d.t.Fatal(err)
	}
	if d.r.IntN(2) == 0 {
		if err := os.Remove(path); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	d.crash = 0
	d.close()
	if err := os.Rename(path, d.opt.Path); err != nil {
		d.t.Fatal(err)
	}
	d.open()
}

// defragment writes the store's file anew while operations go on, until it gives way to one of them.
func (d *driver) defragment() {
	d.t.Helper()
	s := d.s
	x, err := s.Maintenance().Defragment()
	if errors.Is(err, errCrash) {
		d.recover()
		return
	}
	for more := true; more && err == nil; {
		d.inGap = true // nothing else writes to the file within a step
		more, err = x.Step(1 + d.r.IntN(20))
		d.inGap = false
		if err == nil && more && d.r.IntN(3) == 0 {
			d.within()
		}
	}
	switch {
	case errors.Is(err, errCrash):
		if d.s == s {
			d.recover()
		}
	case err != nil && !errors.Is(err, ErrGivenUp):
		d.t.Fatal(err)
	case err == nil:
		d.defragmented++
	}
	d.check()
}

// scanWhile scans while operations go on: it shows the state at its revision, or says that this
// was compacted away meanwhile.
func (d *driver) scanWhile() {
	then := d.m.clone()
	o := ScanOptions{Span: d.span(), Rev: pickRev(d.r, then), Reverse: d.r.IntN(2) == 0, KeysOnly: d.r.IntN(3) == 0}
	if d.floor < math.MaxInt64 && o.Rev > d.floor {
		o.Rev = max(d.floor, then.compact) // above it the prepared transaction may yet write
	}
	limit := d.r.IntN(60)
	var got []*shard.KeyValue
	err := d.s.Scan(o, func(kv *shard.KeyValue) bool {
		d.within()
		got = append(got, kv)
		return len(got) <= limit
	})
	var gone *shard.CompactedError
	if errors.As(err, &gone) && gone.Revision <= d.m.compact && d.m.compact > then.compact {
		return
	}
	if err != nil {
		d.t.Fatal(err)
	}
	compareScan(d.t, o, got, then, limit)
}

// compareInPlace: a scan in place finds the same, up to where it is stopped.
func compareInPlace(t testing.TB, s *Store, o ScanOptions, m *model, limit int) {
	t.Helper()
	o.InPlace, o.KeysOnly = true, limit%3 == 0
	var got []*shard.KeyValue
	err := s.Scan(o, func(kv *shard.KeyValue) bool {
		got = append(got, &shard.KeyValue{Key: bytes.Clone(kv.Key), Value: bytes.Clone(kv.Value), Lease: kv.Lease,
			CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version})
		return len(got) <= limit
	})
	if err != nil {
		t.Fatal(err)
	}
	compareScan(t, o, got, m, limit)
}

func compareScan(t testing.TB, o ScanOptions, got []*shard.KeyValue, m *model, limit int) {
	t.Helper()
	want := m.scan(o.Span, o.Rev)
	if o.Reverse {
		slices.Reverse(want)
	}
	want = want[:min(len(want), limit+1)]
	if len(got) != len(want) {
		t.Fatalf("scan %v at %d (reverse %v): %d keys, want %d", o.Span, o.Rev, o.Reverse, len(got), len(want))
	}
	for i, v := range want {
		kv := v.kv
		if o.KeysOnly {
			kv.Value = nil
		}
		if !sameKV(got[i], &kv) {
			t.Fatalf("scan %v at %d: key %d is %+v, want %+v", o.Span, o.Rev, i, *got[i], kv)
		}
	}
}

func pickRev(r *rand.Rand, m *model) int64 {
	if r.IntN(3) == 0 || m.last <= m.compact {
		return max(m.last, m.compact)
	}
	return m.compact + r.Int64N(m.last-m.compact+1)
}

func (d *driver) historyCheck() { compareHistory(d.t, d.r, d.s, d.m, d) }

func (d *driver) check() { compare(d.t, d.r, d.s, d.m, d) }

// compare asks both sides everything.
func compare(t testing.TB, r *rand.Rand, s *Store, m *model, d *driver) {
	t.Helper()
	if s.Position() != m.pos || s.LastRevision() != m.last || s.CompactRevision() != m.compact {
		t.Fatalf("at %v last %d compact %d, want %+v", s.Position(), s.LastRevision(), s.CompactRevision(), m)
	}
	newest := m.scan(shard.All, math.MaxInt64)
	if s.Keys() != int64(len(newest)) {
		t.Fatalf("%d live keys, want %d", s.Keys(), len(newest))
	}
	checkIndex(t, s)
	for range 10 {
		compareGet(t, s, m, d.key(), pickRev(r, m))
		compareGet(t, s, m, d.key(), math.MaxInt64)
	}
	for range 4 {
		o := ScanOptions{Span: d.span(), Rev: pickRev(r, m), Reverse: r.IntN(2) == 0}
		var got []*shard.KeyValue
		if err := s.Scan(o, func(kv *shard.KeyValue) bool { got = append(got, kv); return true }); err != nil {
			t.Fatal(err)
		}
		compareScan(t, o, got, m, math.MaxInt-1)
		compareInPlace(t, s, o, m, r.IntN(60))
		if n, err := s.Count(o.Span, o.Rev); err != nil || n != int64(len(got)) {
			t.Fatalf("count %v at %d: %d (%v), want %d", o.Span, o.Rev, n, err, len(got))
		}
		if h, err := s.HashKV(o.Rev); err != nil || h != m.hash(o.Rev) {
			t.Fatalf("hash at %d: %x, %v; want %x", o.Rev, h, err, m.hash(o.Rev))
		}
	}
	compareRest(t, s, m)
	compareHistory(t, r, s, m, d)
}

// spoilSlabs writes over memory that slabs have given back.
func spoilSlabs() {
	c := slabChunks.Get().(*[slabChunk]byte)
	for i := range c {
		c[i] = 0xa5
	}
	slabChunks.Put(c)
}

// checkIndex counts again what the index holds, and finds each entry both ways.
func checkIndex(t testing.TB, s *Store) {
	t.Helper()
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	x, bytes, entries := s.mem.mu.index, 0, 0
	x.tree.Ascend(func(it indexItem) bool {
		entries++
		bytes += entryOverhead + len(it.key)
		for _, v := range it.e.vers {
			bytes += v.bytes()
		}
		if it.e.dead || len(it.e.vers) == 0 || x.get(it.key) != it.e {
			t.Fatalf("entry of %q with %d versions, dead: %v", it.key, len(it.e.vers), it.e.dead)
		}
		return true
	})
	if x.bytes != bytes || len(x.points) != entries {
		t.Fatalf("index of %d entries says %d bytes, holds %d in %d", len(x.points), x.bytes, bytes, entries)
	}
}

func compareGet(t testing.TB, s *Store, m *model, key string, rev int64) {
	t.Helper()
	kv, ok, err := s.Get([]byte(key), rev)
	want := m.at(key, rev)
	if err != nil || ok != (want != nil) || ok && !sameKV(&kv, &want.kv) {
		t.Fatalf("get %q at %d: %+v %v %v, want %+v", key, rev, kv, ok, err, want)
	}
	kv.Value = nil
	if head, is, err := s.Head([]byte(key), rev); err != nil || is != ok || fmt.Sprint(head) != fmt.Sprint(kv) {
		t.Fatalf("head %q at %d: %+v %v %v, want %+v", key, rev, head, is, err, kv)
	}
}

func compareRest(t testing.TB, s *Store, m *model) {
	t.Helper()
	state := make(map[string]string)
	s.RangeState("", func(k string, v []byte) bool { state[k] = string(v); return true })
	if fmt.Sprint(state) != fmt.Sprint(m.state) {
		t.Fatalf("state %v, want %v", state, m.state)
	}
	for lease := range int64(4) {
		want := m.leaseKeys(lease)
		if lease == 0 {
			want = nil
		}
		got, err := s.LeaseKeys(lease, 0)
		if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("lease %d: %q, %v; want %q", lease, got, err, want)
		}
		if two, err := s.LeaseKeys(lease, 2); err != nil || fmt.Sprintf("%q", two) != fmt.Sprintf("%q", want[:min(2, len(want))]) {
			t.Fatalf("lease %d, two: %q, %v; want %q", lease, two, err, want)
		}
	}
	if m.compact > 0 {
		var gone *shard.CompactedError
		if _, _, err := s.Get(s.Span().Start, m.compact-1); !errors.As(err, &gone) || gone.Revision != m.compact {
			t.Fatalf("read below compaction: %v", err)
		}
		if _, _, err := s.History([]shard.Span{s.Span()}, m.compact-1, m.last, 1, false); !errors.As(err, &gone) {
			t.Fatalf("history below compaction: %v", err)
		}
	}
}

func compareHistory(t testing.TB, r *rand.Rand, s *Store, m *model, d *driver) {
	t.Helper()
	spans := []shard.Span{d.span(), d.span()}
	if r.IntN(2) == 0 {
		spans = []shard.Span{d.served}
	}
	from, to := pickRev(r, m), m.last+int64(r.IntN(3))
	want := m.history(spans, from, to)
	var got []*shard.Event
	for next := from; next <= to; {
		evs, after, err := s.History(spans, next, to, 1+r.IntN(300), true)
		if err != nil || after <= next {
			t.Fatalf("history from %d: next %d, %v", next, after, err)
		}
		if n := len(evs); n > 0 && (evs[n-1].KV.ModRevision >= after || evs[0].KV.ModRevision < next) {
			t.Fatalf("history from %d to %d holds %d..%d", next, after, evs[0].KV.ModRevision, evs[n-1].KV.ModRevision)
		}
		got, next = append(got, evs...), after
	}
	if err := sameEvents(got, want); err != nil {
		t.Fatalf("history %v from %d to %d: %v", spans, from, to, err)
	}
}
