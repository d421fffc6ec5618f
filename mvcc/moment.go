package mvcc

import (
	"bytes"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Pin holds one moment of a store for a reader that comes back for page after page: nothing of that moment is deleted from the file before End. Its
// methods may be called from any goroutine. The store is closed only after End.
type Pin struct {
	s *Store
	p *pin
}

// NewPin pins the present moment of a store.
func NewPin(s *Store) *Pin {
	p := s.mem.newPin()
	if mutate.On(mutate.ExportUnpinned) {
		s.mem.unpin(p)
	}
	return &Pin{s, p}
}

// End lets go of the moment.
func (p *Pin) End() { p.s.mem.unpin(p.p) }

// Compact is the compaction revision of the moment: history below is not whole.
func (p *Pin) Compact() int64 { return p.p.compact }

// Span is what the store served then.
func (p *Pin) Span() shard.Span { return p.p.span }

// Cursor is the last version that was read; the zero value is before all.
type Cursor struct {
	Key  []byte
	Rev  Rev
	Seen bool // there was one
}

// Export is what is read of a pinned moment.
type Export struct {
	Span    shard.Span
	To      int64 // versions above are left out
	Compact int64 // as if everything were compacted here; not below the pin's
	After   Cursor
	// Bytes is how many bytes of keys and values a page has; it is exceeded by one version at most.
	Bytes int
}

// Page reads the next versions in key order, of each key the newest first: those at or below a revision that are left once everything is compacted at
// another, and deletes at that one, since a watch may begin there. fn owns what it gets. next is where to go on; more is false behind the last.
func (p *Pin) Page(e Export, fn func(kv *shard.KeyValue, sub int64, del bool)) (next Cursor, more bool, err error) {
	w := versionWalk{s: p.s, p: p.p, span: e.Span, seen: e.After.Seen, key: bytes.Clone(e.After.Key), rev: e.After.Rev}
	keep := survivors{compact: e.Compact}
	next = e.After
	if e.After.Seen { // versions come newest first: whether one at or below the compaction was there is told by the last
		keep.key, keep.settled = bytes.Clone(e.After.Key), e.After.Rev.Main <= e.Compact && e.After.Rev.Main <= e.To
	}
	left := e.Bytes
	for done := e.Span.Empty(); !done; {
		vers, end, err := w.step()
		if err != nil {
			return Cursor{}, false, err
		}
		for i, v := range vers {
			next = Cursor{v.kv.Key, v.rev(), true}
			if !p.p.sees(v) || v.kv.ModRevision > e.To && !mutate.On(mutate.ExportAbove) || !exported(&keep, v) {
				continue
			}
			fn(&v.kv, v.sub, v.del)
			if left -= len(v.kv.Key) + len(v.kv.Value); left <= 0 {
				return next, !end || i < len(vers)-1, nil
			}
		}
		done = end
	}
	return next, false, nil
}

// exported reports whether a version is there once everything is compacted.
func exported(keep *survivors, v *version) bool {
	kept := keep.keeps(v)
	return kept || v.del && (v.kv.ModRevision == keep.compact || mutate.On(mutate.ExportTombstones))
}
