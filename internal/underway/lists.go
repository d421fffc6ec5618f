package underway

import (
	"container/list"
	"context"
	"sync"

	"pontoon/internal/mutate"
)

// ListsBytes bounds Lists where nobody states another bound.
const ListsBytes = 256 << 20

// Lists lets large answers be put together as far as there is room for their bytes. Who finds none waits, for as long as its context lasts: in order of arrival,
// but of each who asks one at a time, so that a crowd from one place does not hold up the others. What a list will take is not known before, so it enters with an
// estimate and grows: one that has taken more than that waits, too, where there is too much, all but the one that entered first of those that are in. So all
// of them come to an end, and together they take the bound, that one, and a page each. Any number of goroutines may use it.
//
// It has no bound of its own on how many wait: a Room is before it.
type Lists struct {
	bytesMax int64

	mu    sync.Mutex
	bytes int64
	in    list.List               // of *List, in the order in which they entered
	lines map[string]*line        // of those who wait, by who asks
	turns list.List               // of *line, those in which somebody waits: whose turn it is to enter
	waits int                     // in all lines
	grows map[*List]chan struct{} // that wait for room in the middle
}

// line is those of one place who wait, in order.
type line struct {
	who   string
	lists list.List     // of *List
	turn  *list.Element // in Lists.turns
}

// List is one answer that is put together.
type List struct {
	of      *Lists
	counted int64 // of of.bytes
	taken   int64
	entered chan struct{} // closed: it has
	waits   *line         // in which it waits; nil: in none
	place   *list.Element // there, or in of.in; nil: it has left
}

// NewLists returns room for so many bytes; 0 stands for ListsBytes.
func NewLists(bytes int64) *Lists {
	if bytes <= 0 {
		bytes = ListsBytes
	}
	return &Lists{bytesMax: bytes, lines: map[string]*line{}, grows: map[*List]chan struct{}{}}
}

// Enter waits until there is room for an answer of about so many bytes. The list is to Leave. The error is the context's.
func (l *Lists) Enter(ctx context.Context, who string, bytes int64) (*List, error) {
	n := &List{of: l, counted: min(max(bytes, 1), l.bytesMax), entered: make(chan struct{})}
	l.mu.Lock()
	if l.waits == 0 && l.fitsLocked(n) {
		l.enterLocked(n)
	} else {
		l.lineUpLocked(n, who)
	}
	l.mu.Unlock()
	select {
	case <-n.entered:
		return n, nil
	case <-ctx.Done():
		n.Leave() // if it has entered meanwhile, it gives the room back
		return nil, ctx.Err()
	}
}

func (l *Lists) lineUpLocked(n *List, who string) {
	if mutate.On(mutate.ListsOneLine) {
		who = ""
	}
	of := l.lines[who]
	if of == nil {
		of = &line{who: who}
		of.turn = l.turns.PushBack(of)
		l.lines[who] = of
	}
	n.waits, n.place = of, of.lists.PushBack(n)
	l.waits++
}

// leaveLineLocked takes a list out of its line, and a line that is empty out of the turns.
func (l *Lists) leaveLineLocked(n *List) {
	of := n.waits
	of.lists.Remove(n.place)
	n.waits, n.place = nil, nil
	l.waits--
	if of.lists.Len() == 0 {
		l.turns.Remove(of.turn)
		delete(l.lines, of.who)
	}
}

// fitsLocked reports whether there is room for a list. One of any size is always let in.
func (l *Lists) fitsLocked(n *List) bool {
	return l.in.Len() == 0 || l.bytes+n.counted <= l.bytesMax || mutate.On(mutate.ListsUnbounded)
}

func (l *Lists) enterLocked(n *List) {
	n.place = l.in.PushBack(n)
	l.bytes += n.counted
	close(n.entered)
}

// Took counts bytes that the answer has got, and waits where that is more than there is room for. The error is the context's: the list is still to Leave.
func (n *List) Took(ctx context.Context, bytes int64) error {
	l := n.of
	l.mu.Lock()
	n.taken += bytes
	if more := n.taken - n.counted; more > 0 && n.inLocked() && !mutate.On(mutate.ListsBlind) {
		n.counted += more
		l.bytes += more
	}
	if !l.mustWaitLocked(n) {
		l.mu.Unlock()
		return nil
	}
	room := l.grows[n]
	if room == nil {
		room = make(chan struct{})
		l.grows[n] = room
	}
	l.mu.Unlock()
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// mustWaitLocked reports whether a list that is in has to wait before it takes more. One that keeps within its estimate need not.
func (l *Lists) mustWaitLocked(n *List) bool {
	if !n.inLocked() || n.taken < n.counted || l.bytes <= l.bytesMax {
		return false
	}
	return l.in.Front() != n.place || mutate.On(mutate.ListsStuck)
}

// Taken is how many bytes the answer has got.
func (n *List) Taken() int64 {
	n.of.mu.Lock()
	defer n.of.mu.Unlock()
	return n.taken
}

// Whole says that the answer is put together: of the estimate, what it has not taken is given back.
func (n *List) Whole() {
	l := n.of
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.inLocked() && n.taken < n.counted {
		l.bytes -= n.counted - n.taken
		n.counted = n.taken
		l.wakeLocked()
	}
}

// Leave gives the room back. It may be called again.
func (n *List) Leave() {
	l := n.of
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case n.place == nil:
		return
	case n.waits != nil:
		l.leaveLineLocked(n)
	default:
		l.bytes -= n.counted
		l.in.Remove(n.place)
		n.place = nil
	}
	if room := l.grows[n]; room != nil {
		delete(l.grows, n)
		close(room)
	}
	l.wakeLocked()
}

// wakeLocked lets those go on for whom there is room now: first those that are in.
func (l *Lists) wakeLocked() {
	for n, room := range l.grows {
		if !l.mustWaitLocked(n) {
			delete(l.grows, n)
			close(room)
		}
	}
	for l.waits > 0 {
		of := l.turns.Front().Value.(*line)
		n := of.lists.Front().Value.(*List)
		if !l.fitsLocked(n) {
			return
		}
		l.turns.MoveToBack(of.turn)
		l.leaveLineLocked(n)
		l.enterLocked(n)
	}
}

// inLocked reports whether the list has entered, and not left.
func (n *List) inLocked() bool { return n.place != nil && n.waits == nil }

// Figures are how many lists are in, what they count for, and how many wait.
func (l *Lists) Figures() (in, bytes, waiting int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(l.in.Len()), l.bytes, int64(l.waits)
}
