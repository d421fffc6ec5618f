package watchfanout

import (
	"slices"

	"pontoon/internal/mutate"
)

// wantsMax bounds the progress requests that one watch or stream keeps open; one more takes
// the place of the newest.
const wantsMax = 16

// addWant keeps wants ascending. The lowest stays, so that a reader which asks for more and
// more while it waits is answered all the same.
func addWant(wants []int64, rev int64) []int64 {
	i, found := slices.BinarySearch(wants, rev)
	switch {
	case found:
		return wants
	case len(wants) < wantsMax:
		return slices.Insert(wants, i, rev)
	case i == len(wants):
		wants[i-1] = rev
	}
	return wants
}

// metWants drops the wants that rev satisfies.
func metWants(wants []int64, rev int64) []int64 {
	i, _ := slices.BinarySearch(wants, rev+1)
	return wants[:copy(wants, wants[i:])]
}

// answer queues the markers that have come true.
func (d *dispatcher) answer() {
	for again := true; again; again = d.letGo(false) {
		d.wantWatches = slices.DeleteFunc(d.wantWatches, d.answerWatch)
		d.wantStreams = slices.DeleteFunc(d.wantStreams, d.answerStream)
	}
}

// answerWatch reports whether nothing is wanted any more.
func (d *dispatcher) answerWatch(w *watch) bool {
	wants := w.wants()
	if len(wants) == 0 {
		return true
	}
	rev, ok := w.progress()
	if ok && rev >= wants[0] {
		named, reach := d.truthful(w.st, rev)
		switch {
		case reach > 0:
			wants = addWant(metWants(wants, named), reach)
		case named >= wants[0]:
			wants = metWants(wants, named)
			w.st.mark(w, named)
			d.touch(w.st)
		}
		w.setWants(wants)
	}
	if len(wants) == 0 {
		return true
	}
	if l := w.lane.Load(); l != nil {
		l.need(wants[len(wants)-1])
	}
	return false
}

// answerStream is the same for all watches of a stream. The one that was in the way is looked
// at first, so that the rest is only walked when something may have come of it.
func (d *dispatcher) answerStream(s *Stream) bool {
	for len(s.wants) > 0 {
		want := s.wants[0]
		if s.blocker != nil && d.blocks(s.blocker, want) {
			return false
		}
		s.blocker = nil
		low := unknown
		for w := s.owned; w != nil; w = w.prev {
			if d.blocks(w, want) {
				s.blocker = w
				return false
			}
			rev, _ := w.progress()
			low = min(low, rev)
		}
		if low == unknown {
			low = s.wants[len(s.wants)-1] // no watchers: true of any revision
		}
		named, reach := d.truthful(s, low)
		switch {
		case reach > 0:
			s.wants = addWant(metWants(s.wants, named), reach)
			continue
		case named < want:
			return false
		}
		low = named
		s.wants = metWants(s.wants, low)
		if mutate.On(mutate.ProgressHigh) {
			low++
		}
		s.mark(nil, low)
		d.touch(s)
	}
	return true
}

// blocks reports whether w lacks something at or below rev, and asks for it.
func (d *dispatcher) blocks(w *watch, rev int64) bool {
	got, ok := w.progress()
	if ok && got >= rev {
		return false
	}
	if l := w.lane.Load(); l != nil {
		l.need(w.st.wants[len(w.st.wants)-1])
	}
	return true
}
