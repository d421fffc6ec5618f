package state

import (
	"fmt"

	"pontoon/internal/moves"
	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// group is what the meta group itself is. Like a range's descriptor it changes only by entries of its own log: configuration changes, and one
// that raises the generation. It is no range: it holds no keys, and the map does not have it. But whatever changes it gives
// the map a new version, which tells every node.
type group struct{ moves.Shape }

// Meta returns the meta group's descriptor.
func (g *group) Meta() shard.Descriptor { return g.Desc }

// Moving is the meta group as package moves sees it.
func (g *group) Moving() moves.Shape { return g.Shape }

// set replaces it, and tells of it with the next version of the map.
func (g *group) set(s *State, to moves.Shape) {
	g.Shape = to
	s.next.note(to.Desc)
	s.ranges.record(s.ranges.now, change{members: true})
}

// rise makes a move impossible that has not begun.
func (g *group) rise(s *State, e *pb.GenRise) error {
	to, err := g.Shape.Rise(e)
	if err != nil {
		return fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	g.set(s, to)
	return nil
}

// Move takes in a committed change of the configuration at index, which Raft logged in term. It is never refused: an error says that the
// log is damaged.
func (s *State) Move(index, term uint64, step *pb.MoveStep) error {
	s.advance(index, term)
	if !s.Bootstrapped() {
		return fmt.Errorf("%w: entry %d of the meta group's log changes the replicas of a group that was never laid out", shard.ErrCorrupt, index)
	}
	to, err := s.group.Shape.After(step)
	if err != nil {
		return fmt.Errorf("entry %d of the meta group's log: %w", index, err)
	}
	s.group.set(s, to)
	return nil
}

// descriptor is what the state says of a range, or of the meta group.
func descriptor(s *State, id shard.RangeID) (shard.Descriptor, bool) {
	switch {
	case !s.Bootstrapped():
		return shard.Descriptor{}, false
	case id == shard.MetaID:
		return s.Meta(), true
	}
	return s.ranges.now.Get(id)
}

// take takes in the ranges that an op has left. Of itself the meta group knows better than any report, so that must be what it knows.
func take(s *State, ds []shard.Descriptor) error {
	if len(ds) != 1 || ds[0].ID != shard.MetaID {
		return s.ApplyRanges(ds...)
	}
	if own := s.Meta(); !own.Equal(&ds[0]) && !mutate.On(mutate.MetaReported) {
		return fmt.Errorf("%w: the meta group is at generation %d, on %s", shard.ErrInvalid, own.Generation, nodesOf(own))
	}
	return nil
}
