package replica

import (
	"sync/atomic"

	"pontoon/internal/mutate"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// holding says which keys a store has, for those who read it without the replica's mutex.
//
// A split shrinks a store in place, while it is read. So who reads looks twice: the keys must be held when the read
// begins, and the store must not have lost any when it has ended. That is enough because of the order in which things
// change. Where keys go, hold is called first, and then the store lets go of them: a read that missed one finds
// another number of losses afterwards. Where keys come, the store has them first, and then hold is called: a read
// that finds them held finds them there. The number tells more than the descriptor could, as a range that has lost
// keys may have got them back before the read looks again.
//
// It belongs to one store, as a snapshot brings another store with a descriptor of its own: a read that has pinned the
// old one is answered from the old one, by what that holds.
type holding struct {
	now atomic.Pointer[held]
}

// announce tells readers of a cut before the store has it. The entry is committed, so that it will have it.
func (s *storage) announce(cut *apply.Cut) {
	if mutate.On(mutate.CutUnannounced) {
		return
	}
	s.store.hold([]shard.Descriptor{cut.Left, cut.Right})
}

// held is what is known of a store from one change of the range's descriptor to the next.
type held struct {
	known  []shard.Descriptor // the range's own, then what it has given away last
	losses uint64             // how often the store has lost keys
}

// hold takes what the replica's state knows of ranges, its own first. It is called by whoever changes the descriptor: the
// worker that applies.
func (h *holding) hold(known []shard.Descriptor) {
	next := &held{known: known}
	if old := h.now.Load(); old != nil {
		next.losses = old.losses
		if !known[0].Span.ContainsSpan(old.known[0].Span) {
			next.losses++
		}
	}
	h.now.Store(next)
}

// reading calls read, which reads the store, if within says that what the store holds is enough for it. It does so again
// where the store has lost keys meanwhile, which may have been others. *shard.WrongRangeError: it is not enough.
func (h *holding) reading(within func(holds shard.Span) bool, read func() error) error {
	for {
		before := h.now.Load()
		if !within(before.known[0].Span) {
			return before.refusal()
		}
		err := read()
		if h.now.Load().losses == before.losses || mutate.On(mutate.SpanBeforeStore) {
			return err
		}
	}
}

// refusal is the error for whoever needs more than what is held.
func (h *held) refusal() error { return &shard.WrongRangeError{Range: h.known[0].ID, Known: h.known} }

// containing is what a read of spans needs to be held.
func containing(spans ...shard.Span) func(holds shard.Span) bool {
	return func(holds shard.Span) bool {
		for _, s := range spans {
			if !holds.ContainsSpan(s) {
				return false
			}
		}
		return true
	}
}
