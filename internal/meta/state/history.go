package state

import (
	"fmt"
	"slices"

	"pontoon/shard"
)

// What is kept of changes, so that who has an older map is told the differences. Beyond either bound the oldest go,
// and who is further behind gets all of the map.
const (
	changesMax   = 10_000
	changeIDsMax = 100_000 // in all that are kept: 800 kB
)

// history is the range map, and what has changed lately. It is no part of the replicated state: a replica that has
// restored a snapshot begins with the map alone.
type history struct {
	now     *shard.Map // nil before the bootstrap entry
	changes recent[change]
	// placed counts the replicas of ranges on each node; one that has none is not in it.
	placed map[shard.NodeID]int
}

// change is what one version of the map has otherwise than the one before.
type change struct {
	ranges  []shard.RangeID // all that are new, otherwise or no more, and perhaps others
	members bool            // members or the meta group's descriptor
}

func (c change) weight() int { return len(c.ranges) }

// begin is a map about whose past nothing is known.
func (h *history) begin(m *shard.Map) {
	*h = history{now: m, placed: make(map[shard.NodeID]int)}
	for d := range m.All() {
		h.place(d, 1)
	}
}

// place counts the replicas of a range so many times.
func (h *history) place(d shard.Descriptor, times int) {
	for _, r := range d.Replicas {
		if h.placed[r.Node] += times; h.placed[r.Node] == 0 {
			delete(h.placed, r.Node)
		}
	}
}

// recount follows what has become of some ranges in m.
func (h *history) recount(m *shard.Map, ids []shard.RangeID) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if d, ok := h.now.Get(id); ok {
			h.place(d, -1)
		}
		if d, ok := m.Get(id); ok {
			h.place(d, 1)
		}
	}
}

// record makes m, under the next version, the map.
func (h *history) record(m *shard.Map, c change) {
	h.recount(m, c.ranges)
	h.now = m.WithVersion(h.now.Version() + 1)
	h.changes.add(c, changesMax, changeIDsMax)
}

// since returns the changes that have been made to the map of a version. It reports false if they are not known.
func (h *history) since(version uint64) ([]change, bool) {
	return h.changes.since(version, h.now.Version())
}

// ApplyRanges takes in the outcome of a change of ranges, as their logs have it: all descriptors that it has left, for a
// split both parts. One that is as old as what it would displace says nothing new. What would leave a hole in the map is
// shard.ErrInvalid.
func (s *State) ApplyRanges(ds ...shard.Descriptor) error {
	was := s.ranges.now
	m, err := was.Apply(ds...)
	if err != nil {
		return fmt.Errorf("%w: %w", shard.ErrInvalid, err)
	}
	if m == was {
		return nil
	}
	var c change
	for _, d := range ds {
		s.next.note(d)
		c.ranges = append(c.ranges, d.ID)
		for old := range was.Overlapping(d.Span) {
			if old.ID != d.ID {
				c.ranges = append(c.ranges, old.ID)
			}
		}
	}
	s.ranges.record(m, c)
	return nil
}
