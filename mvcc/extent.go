package mvcc

import (
	"encoding/binary"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// extent is which keys a store serves, and which its file may still hold beside them. It begins as everything, and
// becomes less with each Cut: first what is served, then, once the file says so too and no pinned reader is of a
// moment before, what is kept.
type extent struct {
	served atomic.Pointer[shard.Span] // nil: everything. Changed with the memtable's mu
	// kept is set before anything outside of it is deleted, be it in memory or in the file: a reader that looks at it
	// after opening its transaction knows whether what it sees is whole. nil: everything is kept.
	kept atomic.Pointer[shard.Span]

	durable shard.Span // what the file says is served. Changed with Maintenance.disk and the memtable's mu
	pending bool       // the file may hold keys outside of durable. Changed with both, too
	id      shard.RangeID
}

// span is what is served.
func (e *extent) span() shard.Span {
	if s := e.served.Load(); s != nil {
		return *s
	}
	return shard.All
}

// keeps reports whether key is in what nothing is deleted of.
func (e *extent) keeps(key []byte) bool {
	s := e.kept.Load()
	return s == nil || s.Contains(key)
}

// serves returns an error for a key that the store does not serve any more.
func (e *extent) serves(key []byte) error {
	if s := e.served.Load(); s != nil && !s.Contains(key) && !mutate.On(mutate.CutRead) {
		return e.refused()
	}
	return nil
}

// servesSpan is serves for all keys of a span.
func (e *extent) servesSpan(span shard.Span) error {
	if s := e.served.Load(); s != nil && !s.ContainsSpan(span) && !mutate.On(mutate.CutRead) {
		return e.refused()
	}
	return nil
}

// whole returns an error when something of a span that the store has served may have been deleted since, because it was
// cut off. It is called with the transaction open, after memory was looked at.
func (e *extent) whole(span shard.Span) error {
	if s := e.kept.Load(); s != nil && !s.ContainsSpan(span) && !mutate.On(mutate.CutUnnoticed) {
		return e.refused()
	}
	return nil
}

// wholeKey is whole for one key.
func (e *extent) wholeKey(key []byte) error {
	if !e.keeps(key) && !mutate.On(mutate.CutUnnoticed) {
		return e.refused()
	}
	return nil
}

func (e *extent) refused() error { return &shard.WrongRangeError{Range: e.id} }

// Span is which keys the store serves. It only becomes less.
func (s *Store) Span() shard.Span { return s.mem.extent.span() }

// narrowLocked gives up what was cut off, where the file says that it was and no pinned reader is of a moment before.
// It reports whether there is something to trim.
func (m *memtable) narrowLocked() bool {
	e := &m.extent
	if mutate.On(mutate.TrimNoFile) && !e.durable.Equal(e.span()) {
		e.durable, e.pending = e.span(), true
	}
	if !e.pending {
		return false
	}
	for p := range m.mu.pins {
		if !e.durable.ContainsSpan(p.span) && !mutate.On(mutate.TrimNoPins) {
			return false
		}
	}
	span := e.durable
	e.kept.Store(&span)
	return true
}

// encode is what the file says: whether there may be keys outside of the span, and the span.
func (e *extent) encode() []byte {
	b := append(make([]byte, crcLen), 0)
	if e.pending {
		b[crcLen] = 1
	}
	b = binary.AppendUvarint(b, uint64(len(e.durable.Start)))
	b = append(b, e.durable.Start...)
	return sealed(metaExtent, append(b, e.durable.End...))
}

// decode reads what encode wrote.
func (e *extent) decode(rec []byte) error {
	b, err := unseal(metaExtent, rec)
	if err != nil {
		return err
	}
	if len(b) < 1 || b[0] > 1 {
		return errRecordField
	}
	start, end, err := cutBytes(b[1:])
	if err != nil {
		return err
	}
	e.pending = b[0] == 1
	e.durable = shard.Span{Start: append([]byte{}, start...), End: append([]byte{}, end...)}
	if e.durable.Empty() {
		return errRecordField
	}
	return nil
}

func putExtent(tx *bolt.Tx, span shard.Span, pending bool) error {
	e := extent{durable: span, pending: pending}
	return tx.Bucket(bucketMeta).Put(metaExtent, e.encode())
}

// load reads the extent of a file that is being opened; nobody else has the store yet.
func (e *extent) load(f *file, tx *bolt.Tx) error {
	rec := tx.Bucket(bucketMeta).Get(metaExtent)
	if rec == nil {
		return nil // never cut
	}
	if err := e.decode(rec); err != nil {
		return f.corrupt(bucketMeta, metaExtent, err)
	}
	if mutate.On(mutate.TrimForgotten) {
		e.pending = false
	}
	span := e.durable
	e.served.Store(&span)
	e.kept.Store(&span) // there is no reader from before
	return nil
}
