package mvcc

import (
	"bytes"
	"fmt"
	"math"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// source is a part of a store that a copier copies.
type source struct {
	s     *Store
	span  shard.Span
	pin   *pin // the moment of the first copy
	first firstCopy
	round copyRound
}

// sources are all that a copier copies.
type sources []*source

// left is how many bytes are not in the new file yet; math.MaxInt64 during the first copy.
func (all sources) left() (sum int64) {
	for _, src := range all {
		left := src.pin.tap.left()
		if left == math.MaxInt64 {
			return left
		}
		sum += left
	}
	return sum
}

// since is left without the round under way.
func (all sources) since() (sum int64) {
	for _, src := range all {
		sum += src.pin.tap.bytesSince()
	}
	return sum
}

// lost tells whether so much was applied to one that it was not remembered.
func (all sources) lost() bool {
	for _, src := range all {
		if src.pin.tap.isLost() {
			return true
		}
	}
	return false
}

// begin pins the present moment.
func (src *source) begin() {
	src.pin = newTap(&src.s.mem, src.span)
	p := src.pin
	src.first = firstCopy{walk: versionWalk{s: src.s, p: p, span: src.span}, keep: survivors{compact: p.compact}}
	// As in any store: everything from the compaction revision on. What has not been settled and is older the first copy
	// brings, as far as it lives.
	src.round = copyRound{settle: p.settle, from: max(1, p.compact), to: p.last}
}

// served returns an error where the store has been cut since, and serves less than is copied.
func (src *source) served() error {
	if served := src.s.Span(); !served.ContainsSpan(src.span) {
		return fmt.Errorf("%w: %v serves %v only", shard.ErrInvalid, src.s.opt.RangeID, served)
	}
	return nil
}

// firstCopy is what is alive of a source at the pinned moment, as a store has it that was settled and compacted then.
type firstCopy struct {
	walk versionWalk
	keep survivors
	key  []byte // of the last version
	seen bool   // there was one
	keys int64  // live ones
}

// put writes a version to the base, if it belongs there, and of each key's newest what follows from it. The log has
// what is above the settle revision: from the compaction revision on a round brings it.
func (c *firstCopy) put(tx *bolt.Tx, v *version, mem *slab, f *copiedFile) error {
	if !c.walk.p.sees(v) {
		return nil
	}
	// A delete at the compaction revision is no state any more, but still history.
	rev := v.kv.ModRevision
	stays := c.keep.keeps(v) || mutate.On(mutate.SplitDead) || v.del && rev == c.keep.compact
	var err error
	switch {
	case stays && rev <= f.settle:
		base := tx.Bucket(bucketBase)
		base.FillPercent = fillAppend
		err = putBase(base, v, mem)
	case stays && rev < c.keep.compact && !mutate.On(mutate.MergeUnsettled):
		err = f.putLog(tx.Bucket(bucketLog), v, mem)
	}
	if err != nil || c.seen && bytes.Equal(c.key, v.kv.Key) {
		return err
	}
	c.seen, c.key = true, append(c.key[:0], v.kv.Key...)
	if v.del {
		return nil
	}
	c.keys++
	if v.kv.Lease == 0 {
		return nil
	}
	k := appendLeaseKey(nil, v.kv.Lease, v.kv.Key)
	return tx.Bucket(bucketLease).Put(k, leaseRecord(k))
}

// copyRound is what is to be copied from log and buffer: once what was there at the pinned moment, and then each time
// what was applied since.
type copyRound struct {
	from, to int64   // revisions
	late     []int64 // others below them
	leases   map[int64]map[string]bool
	settle   int64    // what is copied then may be settled up to here
	later    bool     // what was applied since: nothing of it is where the new file is settled
	reading  *history // nil: the next part has not been begun
}

// next begins the next part of the log; false: there is none.
func (r *copyRound) next(src *source) bool {
	h := &history{s: src.s, spans: []shard.Span{src.span}, left: math.MaxInt, pinned: true}
	switch {
	case r.reading != nil:
		return true
	case r.from <= r.to:
		h.next, h.to = r.from, r.to
		r.from = r.to + 1
	case len(r.late) > 0:
		h.next, h.to = r.late[0], r.late[0]
		r.late = r.late[1:]
	default:
		return false
	}
	r.reading = h
	return true
}

// copy copies about budget versions of the round, and about so many bytes, into the new file; end says that these were
// the last, and that the lease index is as it was when the round began.
func (src *source) copy(tx *bolt.Tx, mem *slab, f *copiedFile, budget, bytes int) (end bool, err error) {
	r := &src.round
	bk := tx.Bucket(bucketLog)
	bk.FillPercent = fillAppend
	for n, size := 0, 0; n < budget && size < bytes; {
		if !r.next(src) {
			b := buffer{leases: r.leases}
			return true, b.writeLeases(tx.Bucket(bucketLease))
		}
		h := r.reading
		if err := h.step(); err != nil {
			return false, err
		}
		for _, v := range h.out {
			n++
			size += recordOverhead + len(v.kv.Key) + len(v.kv.Value)
			if err := f.putRound(bk, v, mem, r.later); err != nil {
				return false, err
			}
		}
		if h.out = nil; h.next > h.to {
			r.reading = nil
		} else {
			n += budget / copyStretch
		}
	}
	return false, nil
}
