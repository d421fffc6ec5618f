package watchfanout

import (
	"slices"
	"sync/atomic"

	"pontoon/internal/mutate"
)

// requestsMax bounds the progress requests that one watch or stream keeps open; one more takes
// the place of the newest.
const requestsMax = 16

// progressRequests are the revisions for which a marker was asked, ascending. Pure.
type progressRequests []int64

// with adds a revision. The lowest stays, so that a reader which asks for more and more while it waits is
// answered all the same.
func (p progressRequests) with(rev int64) progressRequests {
	i, found := slices.BinarySearch(p, rev)
	switch {
	case found:
		return p
	case len(p) < requestsMax:
		return slices.Insert(p, i, rev)
	case i == len(p):
		p[i-1] = rev
	}
	return p
}

// above drops what a marker of rev answers.
func (p progressRequests) above(rev int64) progressRequests {
	i, _ := slices.BinarySearch(p, rev+1)
	return p[:copy(p, p[i:])]
}

// highest is the last of them, of which there is one.
func (p progressRequests) highest() int64 { return p[len(p)-1] }

// progress answers the progress requests of a dispatcher's watches and streams.
type progress struct {
	closing *closing
	ready   *readyList
	watches []*watch  // with requests
	streams []*Stream // with requests
	held    []*Stream // that hold something back
}

// onRequest notes a request, of a watch or a stream.
func (p *progress) onRequest(m *message) {
	if m.w != nil {
		if m.w.mode == modeEnded {
			return
		}
		requests := m.w.requests()
		if len(requests) == 0 {
			p.watches = append(p.watches, m.w)
		}
		m.w.setRequests(requests.with(m.rev))
		return
	}
	if len(m.stream.requests) == 0 {
		p.streams = append(p.streams, m.stream)
	}
	m.stream.requests = m.stream.requests.with(m.rev)
}

// answer queues the markers that have come true.
func (p *progress) answer() {
	for again := true; again; again = p.release(false) {
		p.watches = slices.DeleteFunc(p.watches, p.answerWatch)
		p.streams = slices.DeleteFunc(p.streams, p.answerStream)
	}
}

// answerWatch reports whether no request is open any more.
func (p *progress) answerWatch(w *watch) bool {
	requests := w.requests()
	if len(requests) == 0 {
		return true
	}
	rev, ok := w.progress()
	if ok && rev >= requests[0] {
		named, reach := p.markerRevision(w.st, rev)
		switch {
		case reach > 0:
			requests = requests.above(named).with(reach)
		case named >= requests[0]:
			requests = requests.above(named)
			w.st.enqueueMarker(w, named)
			p.ready.add(w.st)
		}
		w.setRequests(requests)
	}
	if len(requests) == 0 {
		return true
	}
	if l := w.lane.Load(); l != nil {
		p.closing.require(l, requests.highest())
	}
	return false
}

// answerStream is the same for all watches of a stream. The one that was in the way is looked
// at first, so that the rest is only walked when something may have come of it.
func (p *progress) answerStream(s *Stream) bool {
	for len(s.requests) > 0 {
		lowest := s.requests[0]
		if s.blocker != nil && p.blocks(s.blocker, lowest) {
			return false
		}
		s.blocker = nil
		low := unknown
		for w := s.newest; w != nil; w = w.prev {
			if p.blocks(w, lowest) {
				s.blocker = w
				return false
			}
			rev, _ := w.progress()
			low = min(low, rev)
		}
		if low == unknown {
			low = s.requests.highest() // no watchers: true of any revision
		}
		named, reach := p.markerRevision(s, low)
		switch {
		case reach > 0:
			s.requests = s.requests.above(named).with(reach)
			continue
		case named < lowest:
			return false
		}
		s.requests = s.requests.above(named)
		if mutate.On(mutate.ProgressHigh) {
			named++
		}
		s.enqueueMarker(nil, named)
		p.ready.add(s)
	}
	return true
}

// blocks reports whether w lacks something at or below rev, and requires it.
func (p *progress) blocks(w *watch, rev int64) bool {
	got, ok := w.progress()
	if ok && got >= rev {
		return false
	}
	if l := w.lane.Load(); l != nil {
		p.closing.require(l, w.st.requests.highest())
	}
	return true
}

// markerRevision is that of s's queue. What is held back goes on at the end of the round in which a marker
// is named.
func (p *progress) markerRevision(s *Stream, rev int64) (named, reach int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.mu.out.holdAt
	named, reach = s.mu.out.markerRevision(rev)
	switch {
	case was == 0 && reach > 0:
		s.answered = false
		p.held = append(p.held, s)
	case was > 0 && reach == 0:
		s.answered = true
	}
	return named, reach
}

// release ends the holds of streams that have been given a marker, or of all of them: what these wait for is a
// request like others from now on. It reports whether there were any.
func (p *progress) release(all bool) (any bool) {
	p.held = slices.DeleteFunc(p.held, func(s *Stream) bool {
		if !all && !s.answered {
			return false
		}
		s.mu.Lock()
		s.mu.out.release()
		s.mu.Unlock()
		p.ready.add(s)
		any = true
		return true
	})
	return any
}

// readyList are the streams to whose readers something was given in this round.
type readyList struct {
	streams []*Stream
	events  int64 // queued for them
}

// add has the stream's reader woken at the end of the round.
func (r *readyList) add(s *Stream) {
	if !s.ready {
		s.ready = true
		r.streams = append(r.streams, s)
	}
}

// wake tells the readers, and counts what they were given.
func (r *readyList) wake(queued *atomic.Int64) {
	for i, s := range r.streams {
		s.ready = false
		s.signal()
		r.streams[i] = nil
	}
	r.streams = r.streams[:0]
	queued.Add(r.events)
	r.events = 0
}
