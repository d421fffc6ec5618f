package runs

import (
	"bytes"
	"fmt"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// undoneOverheadBytes is what a change takes beside what was there before it.
const undoneOverheadBytes = 96

// chunkChanges is how many changes share memory: they are forgotten together.
const chunkChanges = 256

// change is one of a key, and how it is undone.
type change struct {
	rev  int64
	key  []byte
	was  []byte // the element that was there before; nil: none
	here bool   // there is one now
}

func (c *change) bytes() int { return undoneOverheadBytes + len(c.key) + len(c.was) }

// State is the keys of a span at the revisions from Floor to Last.
type State struct {
	tip         tree
	changes     [][]change // ascending by revision, in chunks
	changeBytes int
	floor, last int64
}

// Floor is the lowest revision that the state is known at.
func (s *State) Floor() int64 { return s.floor }

// Last is the revision of the newest change, or the one that the state began with.
func (s *State) Last() int64 { return s.last }

// Keys is how many there are at present.
func (s *State) Keys() int { return s.tip.n }

// Bytes is the memory that the keys take which there are at present, and HistoryBytes what the changes take that lead back from there.
func (s *State) Bytes() int { return s.tip.size }

// HistoryBytes is what the changes take that lead back to Floor.
func (s *State) HistoryBytes() int { return s.changeBytes }

// Apply takes the next change, whose key is in the span. It fails where that does not lie above what the state began with, or below the newest: nothing is
// right any more then.
func (s *State) Apply(ev *shard.Event) error {
	if ev.Rev() <= s.floor || ev.Rev() < s.last {
		return fmt.Errorf("%w: a change at revision %d behind %d", shard.ErrCorrupt, ev.Rev(), s.last)
	}
	var element []byte
	if !ev.Delete {
		element = pb.AppendRangeKey(nil, pb.FromKeyValue(&ev.KV))
	}
	tip, was, whole := s.tip.put(ev.KV.Key, element)
	c := change{rev: ev.Rev(), here: element != nil}
	switch {
	case was == nil:
		c.key = bytes.Clone(ev.KV.Key)
	case whole:
		c.was = was
	default:
		c.was = bytes.Clone(was) // not to hold its run
	}
	if c.was != nil {
		c.key, _, _ = pb.NextRangeKey(c.was)
	}
	s.tip, s.last = tip, ev.Rev()
	s.note(c)
	return nil
}

func (s *State) note(c change) {
	n := len(s.changes)
	if n == 0 || len(s.changes[n-1]) == chunkChanges {
		s.changes = append(s.changes, make([]change, 0, chunkChanges))
		n++
	}
	s.changes[n-1] = append(s.changes[n-1], c)
	s.changeBytes += c.bytes()
}

// Forget gives up what is known of revisions below one, as far as that frees memory.
func (s *State) Forget(rev int64) {
	n := 0
	for n < len(s.changes) && s.changes[n][len(s.changes[n])-1].rev <= rev {
		n++
	}
	s.forget(n)
}

// Shrink gives up what is known of the oldest revisions until their changes take so many bytes at most, or nearly.
func (s *State) Shrink(bytesMax int) {
	left, n := s.changeBytes, 0
	for n < len(s.changes) && left > bytesMax {
		for i := range s.changes[n] {
			left -= s.changes[n][i].bytes()
		}
		n++
	}
	s.forget(n)
}

func (s *State) forget(chunks int) {
	if chunks == 0 {
		return
	}
	for _, chunk := range s.changes[:chunks] {
		for i := range chunk {
			s.changeBytes -= chunk[i].bytes()
		}
		s.floor = chunk[len(chunk)-1].rev
	}
	s.changes = slices.Clone(s.changes[chunks:]) // what is forgotten is not to be held
}

// Cut leaves the keys below one here and returns the others.
func (s *State) Cut(key []byte) *State {
	right := &State{floor: s.floor, last: s.last}
	changes := s.changes
	s.changes, s.changeBytes = nil, 0
	s.tip, right.tip = s.tip.split(key)
	for _, chunk := range changes {
		for _, c := range chunk {
			if bytes.Compare(c.key, key) < 0 {
				s.note(c)
			} else {
				right.note(c)
			}
		}
	}
	return right
}

// At is the state at a revision from Floor on, if nothing changes any more up to there. false: it is not known.
func (s *State) At(rev int64) (View, bool) {
	if rev < s.floor && !mutate.On(mutate.MirrorForgotten) {
		return View{}, false
	}
	v := View{tip: s.tip, rev: rev}
	for _, chunk := range slices.Backward(s.changes) {
		if chunk[len(chunk)-1].rev <= rev {
			break
		}
		v.behind = append(v.behind, chunk[:len(chunk):len(chunk)])
	}
	return v, true
}
