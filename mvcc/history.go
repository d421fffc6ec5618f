package mvcc

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"sort"

	bolt "go.etcd.io/bbolt"

	"pontoon/shard"
)

// History returns the changes of keys in spans with from <= revision <= to, in revision order.
// It ends after about maxBytes, never within a revision; next is the revision to go on from,
// to+1 when all is done. prev asks for the versions replaced, where they are not compacted
// away. History below the compaction revision is refused with a *shard.CompactedError; at it,
// it is there, as in etcd. Spans that are not served any more are refused with a *shard.WrongRangeError.
func (s *Store) History(spans []shard.Span, from, to int64, maxBytes int, prev bool) (evs []*shard.Event, next int64, err error) {
	to = min(to, math.MaxInt64-1)
	h := history{s: s, spans: orderSpans(spans), next: max(from, 1), to: to, left: max(maxBytes, 1)}
	if err := s.mem.compacted(from); err != nil {
		return nil, from, err
	}
	for _, span := range h.spans {
		if err := s.mem.extent.servesSpan(span); err != nil {
			return nil, from, err
		}
	}
	for h.next <= to && h.left > 0 {
		if err := h.step(); err != nil {
			return nil, from, err
		}
	}
	evs = shard.NewEvents(len(h.out))
	for i, v := range h.out {
		v.describe(evs[i], nil)
	}
	if prev {
		err = h.addPrev(evs)
	}
	return evs, h.next, err
}

// orderSpans sorts spans by start and joins those that touch, so that one search finds whether
// a key lies in any.
func orderSpans(spans []shard.Span) []shard.Span {
	in := slices.Clone(spans)
	slices.SortFunc(in, func(a, b shard.Span) int { return bytes.Compare(a.Start, b.Start) })
	var out []shard.Span
	for _, sp := range in {
		if sp.Empty() {
			continue
		}
		n := len(out)
		if n > 0 && (out[n-1].Unbounded() || bytes.Compare(sp.Start, out[n-1].End) <= 0) {
			if last := &out[n-1]; shard.CompareEnd(sp.End, last.End) > 0 {
				last.End = sp.End
			}
			continue
		}
		out = append(out, sp)
	}
	return out
}

// history collects the versions of one call of History.
type history struct {
	s      *Store
	spans  []shard.Span
	next   int64 // everything below is in out
	to     int64
	left   int // bytes that may still be collected
	out    []*version
	pinned bool // the reader holds a pin, for which all of it stays
}

// whole returns an error when something of what is still to be read may have been deleted.
func (h *history) whole() error {
	if h.pinned {
		return nil
	}
	return cmp.Or(h.uncut(), h.s.mem.compacted(h.next))
}

// uncut returns an error when something of the spans may have been removed because it was cut off.
func (h *history) uncut() error {
	for _, span := range h.spans {
		if err := h.s.mem.extent.whole(span); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) matches(key []byte) bool {
	i := sort.Search(len(h.spans), func(i int) bool { return bytes.Compare(h.spans[i].Start, key) > 0 })
	return i > 0 && h.spans[i-1].Contains(key)
}

// step reads a stretch of the log: what is buffered is taken first, the transaction is opened
// after.
func (h *history) step() error {
	mem := h.s.mem.buffered(h.next, h.to)
	var stored []*version
	end := h.to // the stretch reaches to here
	err := h.s.file.view(func(tx *bolt.Tx) (err error) {
		if err := h.whole(); err != nil {
			return err
		}
		stored, end, err = h.readLog(tx)
		return err
	})
	if err != nil {
		return err
	}
	h.merge(stored, mem, end)
	return nil
}

// readLog copies the wanted versions of a stretch of the log; it ends between two revisions.
func (h *history) readLog(tx *bolt.Tx) (stored []*version, end int64, err error) {
	c := h.s.file.cursor(tx, bucketLog)
	lim := &h.s.opt.steps
	size, last := 0, int64(0)
	k, rec := c.Seek(appendLogKey(nil, Rev{h.next, 0}))
	for visits := 0; k != nil; visits++ {
		v, err := decodeLogRecord(k, rec)
		if err != nil {
			return nil, 0, h.s.file.corrupt(bucketLog, k, err)
		}
		rev := v.kv.ModRevision
		if rev > h.to {
			break
		}
		if rev != last && (size >= min(h.left, lim.bytes) || visits >= lim.visits) {
			return stored, last, nil
		}
		if last = rev; h.matches(v.kv.Key) {
			stored = append(stored, v.clone())
			size += v.bytes() + len(v.kv.Key)
		}
		k, rec = c.Next()
	}
	return stored, h.to, nil
}

// merge takes over both lists up to revision end, whole revisions only, as far as the bytes
// reach.
func (h *history) merge(stored, mem []*version, end int64) {
	last := int64(0)
	for len(stored) > 0 || len(mem) > 0 {
		var v *version
		switch {
		case len(mem) == 0 || len(stored) > 0 && stored[0].rev().Less(mem[0].rev()):
			v, stored = stored[0], stored[1:]
		default:
			if len(stored) > 0 && stored[0].rev() == mem[0].rev() {
				stored = stored[1:] // flushed meanwhile
			}
			v, mem = mem[0], mem[1:]
		}
		rev := v.kv.ModRevision
		if rev > end {
			break
		}
		if rev != last && h.left <= 0 {
			h.next = rev
			return
		}
		if last = rev; h.matches(v.kv.Key) {
			h.out = append(h.out, v)
			h.left -= v.bytes() + len(v.kv.Key)
		}
	}
	h.next = end + 1
}

// addPrev fills in Prev of events whose predecessor is certainly still there: a read at the
// revision before must not be compacted.
func (h *history) addPrev(evs []*shard.Event) error {
	for len(evs) > 0 {
		n := min(len(evs), h.s.opt.steps.results)
		if err := h.addPrevStep(evs[:n]); err != nil {
			return err
		}
		evs = evs[n:]
	}
	return nil
}

func (h *history) addPrevStep(evs []*shard.Event) error {
	prevs := make([]*version, len(evs))
	h.s.mem.mu.RLock()
	for i := range evs {
		prevs[i] = h.s.mem.mu.index.get(evs[i].KV.Key).below(revOf(evs[i]))
	}
	h.s.mem.mu.RUnlock()
	return h.s.file.view(func(tx *bolt.Tx) error {
		if err := h.uncut(); err != nil {
			return err
		}
		c := newBaseCursor(&h.s.file, tx)
		compact := h.s.mem.compact.Load()
		for i := range evs {
			ev := evs[i]
			if ev.KV.ModRevision <= compact || !ev.Delete && ev.KV.Version == 1 {
				continue
			}
			if prevs[i] == nil {
				v, err := c.seekAtMost(ev.KV.Key, revOf(ev).before())
				if err != nil {
					return err
				}
				prevs[i] = v
			}
			if v := prevs[i]; v != nil && !v.del {
				ev.Prev = &v.kv
			}
		}
		return nil
	})
}

func revOf(e *shard.Event) Rev { return Rev{e.KV.ModRevision, e.Sub} }
