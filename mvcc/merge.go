package mvcc

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"pontoon/internal/durable"
	"pontoon/internal/mutate"
	"pontoon/shard"
)

// ErrMergeUnsettled is wrapped by BeginMerge where a prepared transaction may still write at or below what the caller
// takes to be final. It may be tried again later, or with a lower revision.
var ErrMergeUnsettled = errors.New("a prepared transaction may still write below what is taken to be final")

// Merge copies what two neighbouring stores of one node serve into a file of its own, while they are written to, and
// makes it one store in the place of the left one. It copies what is there at its beginning, then in rounds what has been
// written since, and Finish brings the rest. Until Finish or Discard neither store deletes anything that was compacted
// after BeginMerge. Methods may be called from any goroutine, and beside reads, writes and Maintenance of both stores;
// Step, Finish and Discard wait for each other. The stores are closed only after.
type Merge struct {
	copier
}

// BeginMerge begins to copy spans[0] of left and spans[1] of right, which they serve and which are neighbours, into a new
// file at path, for the range that left is of. A file that is there is replaced; path's directory exists. settle is a
// revision at or below which nothing comes to either store any more. What is above it the merged store has to read when
// it is opened, and holds in memory; so it is better a high one. It may be above the last revision of either.
// A version that comes at or below it all the same ends the Merge with an error. The revisions of both, with the numbers
// within them, are not used twice.
func BeginMerge(left, right *Store, spans [2]shard.Span, settle int64, path string) (*Merge, error) {
	m := &Merge{copier{
		what:    fmt.Sprintf("merge of %v with %v", left.opt.RangeID, right.opt.RangeID),
		sources: sources{{s: left, span: spans[0]}, {s: right, span: spans[1]}},
		settle:  settle,
	}}
	if err := m.check(left, right, spans); err != nil {
		return nil, m.fault(err)
	}
	if err := m.begin(&copiedFile{by: "merge", path: path, id: left.opt.RangeID, opt: &left.opt, shared: true}); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Merge) check(left, right *Store, spans [2]shard.Span) error {
	l, r := spans[0], spans[1]
	switch {
	case left == right:
		return fmt.Errorf("%w: it is one store", shard.ErrInvalid)
	case l.Empty() || r.Empty() || l.Unbounded() || string(l.End) != string(r.Start):
		return fmt.Errorf("%w: %v and %v are no neighbours", shard.ErrInvalid, l, r)
	case !left.Span().ContainsSpan(l) || !right.Span().ContainsSpan(r):
		return fmt.Errorf("%w: %v of what serves %v, %v of what serves %v", shard.ErrInvalid, l, left.Span(), r, right.Span())
	case m.settle < 0 || m.settle == math.MaxInt64:
		return fmt.Errorf("%w: final up to %d", shard.ErrInvalid, m.settle)
	}
	for _, s := range []*Store{left, right} {
		if floor := s.mem.floor(); floor < m.settle && !mutate.On(mutate.MergeFloor) {
			return fmt.Errorf("%w: %v is held back at %d, and %d is taken to be final", ErrMergeUnsettled, s.opt.RangeID, floor, m.settle)
		}
	}
	return nil
}

// Finish copies what is left, everything where nothing has been copied yet, and writes the merged store's whole state and
// its position, which is one in the left's log. The last revision, and what is compacted, are the higher ones of the two.
// When Finish returns, the file is durable at the path that BeginMerge was given, and closed: the caller renames it over
// the left's. It is called by whoever calls Apply of the left, after all that comes before the merge; the right is not
// written any more. After an error the Merge can only be discarded, and both stores are as they were.
func (m *Merge) Finish(pos Position, state []StateUpdate) error {
	return m.finish(pos, state, func(made string) error { return durable.SyncDir(filepath.Dir(made)) })
}
