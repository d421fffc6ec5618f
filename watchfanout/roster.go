package watchfanout

import "slices"

// roster lists the streams of a dispatcher that have watches, and through them all of its watches, in an
// order that a replay repeats.
type roster struct {
	streams []*Stream
}

// add takes a new watch into its stream's list.
func (r *roster) add(w *watch) {
	s := w.st
	if s.newest == nil {
		s.place = len(r.streams)
		r.streams = append(r.streams, s)
	} else {
		s.newest.next, w.prev = w, s.newest
	}
	s.newest = w
}

// remove takes a watch out of the list.
func (r *roster) remove(w *watch) {
	s := w.st
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		s.newest = w.prev
	}
	if w.prev != nil {
		w.prev.next = w.next
	}
	w.prev, w.next = nil, nil
	if s.newest != nil {
		return
	}
	end := len(r.streams) - 1
	last := r.streams[end]
	r.streams[s.place], last.place = last, s.place
	r.streams = slices.Delete(r.streams, end, end+1)
}

// all visits every watch.
func (r *roster) all(visit func(*watch) bool) {
	for _, s := range r.streams {
		for w := s.newest; w != nil; w = w.prev {
			if !visit(w) {
				return
			}
		}
	}
}
