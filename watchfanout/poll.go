package watchfanout

// Poll appends up to limit deliveries to dst, in order per watcher, and in order with the
// markers that speak for it. Events of one watcher that wait together come as one delivery.
func (s *Stream) Poll(dst []Delivery, limit int) []Delivery {
	s.mu.Lock()
	first, taken := len(dst), 0
	s.mu.load.shed = false
	var left int64
	barrier := first // nothing later is joined with a delivery before it
	var again int64
	for s.mu.out.queue.Len() > 0 {
		e := &s.mu.out.queue.Items()[0]
		if e.w != nil && e.w.reader == readerGone {
			left += e.release()
			s.mu.out.queue.Pop()
			continue
		}
		if len(e.evs) > 0 && s.joinLocked(dst, e, barrier) {
			left += e.release()
			taken += s.takenLocked(e)
			continue
		}
		if e.w == nil && e.heard != s.mu.added {
			// It does not speak for a watcher that was added since, whose reader would take
			// it so all the same.
			again = max(again, e.rev)
			s.mu.out.queue.Pop()
			continue
		}
		if len(dst)-first >= limit {
			break
		}
		dst = append(dst, e.delivery())
		if len(e.evs) > 0 {
			e.w.joined = uint32(len(dst))
		} else {
			barrier = len(dst) // a marker
		}
		left += e.release()
		taken += s.takenLocked(e)
	}
	low := s.lowWatchesLocked()
	s.mu.load.tell(&s.opts)
	s.mu.Unlock()
	s.h.budget.left(left)
	s.h.stats.taken.Add(int64(taken))
	for _, w := range low {
		s.d.in.post(message{kind: msgRoom, w: w})
	}
	if again > 0 {
		s.RequestProgress(again)
	}
	return dst
}

func (e *entry) delivery() Delivery {
	d := Delivery{ID: StreamWide, Batch: Batch{Events: e.evs, Revision: e.rev, CompactRevision: e.compact}}
	if e.w != nil {
		d.ID, d.PrevKV, d.Tag = e.w.id, e.w.options&prevKV != 0, e.w.tag
	}
	return d
}

// joinLocked adds events to a delivery that this Poll has made already for the same watcher.
// The queue's slices have no spare room, so the first join copies: other watchers share them.
func (s *Stream) joinLocked(dst []Delivery, e *entry, barrier int) bool {
	at := int(e.w.joined) - 1
	if at < barrier || at >= len(dst) {
		return false
	}
	to := &dst[at]
	if to.ID != e.w.id || len(to.Events)+len(e.evs) > pollMergeEventsMax {
		return false // the place is from an earlier Poll
	}
	to.Events = append(to.Events, e.evs...)
	to.Revision = e.rev
	return true
}

// takenLocked takes the front entry, e, off the queue and accounts for it. It returns how many events it had.
func (s *Stream) takenLocked(e *entry) int {
	n := len(e.evs)
	if w := e.w; w != nil {
		w.take(e)
		s.mu.load.add(-n, -e.weight)
		if e.compact > 0 {
			s.forgetLocked(w)
		}
	}
	s.mu.out.queue.Pop()
	return n
}

// lowWatchesLocked returns the watches that asked for room and have it now.
func (s *Stream) lowWatchesLocked() []*watch {
	var low []*watch
	keep := s.mu.parked[:0]
	for _, w := range s.mu.parked {
		switch {
		case w.reader == readerGone:
		case s.mu.load.low(&s.opts, &w.backlog):
			w.reader = readerTakes
			low = append(low, w)
		default:
			keep = append(keep, w)
		}
	}
	clear(s.mu.parked[len(keep):])
	s.mu.parked = keep
	return low
}
