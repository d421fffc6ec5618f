package mvcc

import (
	"maps"
	"math"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// tapBytesMax bounds what a tap holds. One that nobody has taken from by then is lost, and its copier copies anew.
const tapBytesMax = 16 << 20

// tap is told of what is applied to a part of a store, for a copier that copies it: enough to find the versions again
// in log and buffer, and what became of lease index and number of keys, which only Apply knows. It is guarded by the
// memtable's mu, and ends with its pin.
type tap struct {
	m      *memtable
	span   shard.Span
	upto   int64              // versions above it are found by revision
	late   map[int64]struct{} // revisions at or below it that were inserted since
	leases map[int64]map[string]bool
	keys   int64 // live keys, more than at the pin
	bytes  int64 // of versions since the last round began
	taken  int64 // of versions of the round under way; math.MaxInt64 during the first copy
	held   int   // bytes of late and leases
	lost   bool  // they would have been too many
}

// newTap is newPin with a tap on a span.
func newTap(m *memtable, span shard.Span) *pin {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.newPinLocked()
	p.tap = &tap{m: m, span: span, upto: p.last, taken: math.MaxInt64}
	return p
}

// note is called for each version that is applied; lease is that of the version before.
func (t *tap) note(v *version, lease int64, live bool) {
	if t == nil || t.lost || !t.span.Contains(v.kv.Key) {
		return
	}
	t.bytes += int64(recordOverhead + len(v.kv.Key) + len(v.kv.Value))
	switch {
	case live && v.del:
		t.keys--
	case !live && !v.del:
		t.keys++
	}
	if v.kv.ModRevision <= t.upto && !mutate.On(mutate.SplitLate) {
		t.noteLate(v.kv.ModRevision)
	}
	if lease != v.kv.Lease && !mutate.On(mutate.SplitLeases) {
		t.noteLease(lease, v.kv.Key, false)
		t.noteLease(v.kv.Lease, v.kv.Key, true)
	}
	if t.held > tapBytesMax {
		t.lost, t.late, t.leases = true, nil, nil
	}
}

func (t *tap) noteLate(rev int64) {
	if t.late == nil {
		t.late = make(map[int64]struct{})
	}
	t.late[rev] = struct{}{}
	t.held += pointOverhead
}

func (t *tap) noteLease(lease int64, key []byte, carries bool) {
	if lease == 0 {
		return
	}
	if t.leases == nil {
		t.leases = make(map[int64]map[string]bool)
	}
	keys := t.leases[lease]
	if keys == nil {
		keys = make(map[string]bool)
		t.leases[lease] = keys
		t.held += recordOverhead
	}
	if _, is := keys[string(key)]; !is {
		t.held += recordOverhead + len(key)
	}
	keys[string(key)] = carries
}

// take begins a round: what was applied since the last one.
func (t *tap) take() copyRound {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	last := t.m.mu.last
	r := copyRound{
		from: t.upto + 1, to: last, late: slices.Sorted(maps.Keys(t.late)), leases: t.leases, settle: min(t.m.mu.floor, last),
		later: true,
	}
	if mutate.On(mutate.SplitFloor) {
		r.settle = last
	}
	t.upto, t.late, t.leases, t.held = last, nil, nil, 0
	t.taken, t.bytes = t.bytes, 0
	return r
}

// copied says that the round, or the first copy, is in the new file.
func (t *tap) copied() {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.taken = 0
}

// left is how many bytes are still to be copied; math.MaxInt64 during the first copy.
func (t *tap) left() int64 {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	if t.taken == math.MaxInt64 {
		return math.MaxInt64
	}
	return t.taken + t.bytes
}

// bytesSince is left without the round under way.
func (t *tap) bytesSince() int64 {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	return t.bytes
}

// isLost reports whether too much was applied to remember it.
func (t *tap) isLost() bool {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	return t.lost && !mutate.On(mutate.SplitLost)
}

// moreKeys is how many live keys there are more than at the pin.
func (t *tap) moreKeys() int64 {
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	if mutate.On(mutate.SplitCount) {
		return 0
	}
	return t.keys
}
