package mvcc

import (
	"bytes"
	"fmt"

	"pontoon/internal/durable"
	"pontoon/shard"
)

// Split copies the right part of a store into a file of its own, while the store is written to, and makes it the
// store of another range. It copies what is there at its beginning, then in rounds what has been written since, and
// Finish brings the rest. Until Finish or Discard the store deletes nothing that was compacted after BeginSplit.
// Methods may be called from any goroutine, and beside reads, writes and Maintenance of the store; Step, Finish and
// Discard wait for each other. The store is closed only after. Keys is what the Cut takes from the store.
type Split struct {
	copier
}

// BeginSplit begins to copy what the store serves from at on into a new file at path, for the range child. A file that
// is there is replaced; path's directory exists. at lies in what is served, and is not its first key.
func BeginSplit(s *Store, at []byte, child shard.RangeID, path string) (*Split, error) {
	served := s.Span()
	right := &source{s: s, span: shard.Span{Start: bytes.Clone(at), End: served.End}}
	sp := &Split{copier{
		what:    fmt.Sprintf("split of %v at %q", s.opt.RangeID, at[:min(len(at), 64)]),
		sources: sources{right},
	}}
	if !served.PartedBy(at) {
		return nil, sp.fault(fmt.Errorf("%w: not within %v", shard.ErrInvalid, served))
	}
	if err := sp.begin(&copiedFile{by: "split", path: path, id: child, opt: &s.opt}); err != nil {
		return nil, err
	}
	return sp, nil
}

// Finish copies what is left, everything where nothing has been copied yet, and writes the child's state and its
// position in its own log. It makes the file durable under its final name, path, over what is there: when Finish
// returns, Open finds the child. It is called by whoever calls Apply, after all that comes before the cut; the Change
// with the Cut comes next. What is compacted and the last revision are the store's. After an error the Split can only
// be discarded.
func (sp *Split) Finish(path string, pos Position, state []StateUpdate) error {
	return sp.finish(pos, state, func(made string) error { return durable.Rename(made, path) })
}
