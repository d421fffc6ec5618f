package fifo

// Queue gives out what was put in, the oldest first. The zero value is empty and ready. It is not safe for
// concurrent use, and has no bound of its own: whoever owns it knows what may wait.
type Queue[T any] struct {
	// Spare bounds the room, in elements, that an empty queue keeps; 0: it keeps all that it has had.
	Spare int

	all  []T // those before head have been taken
	head int
}

// Len is how many wait.
func (q *Queue[T]) Len() int { return len(q.all) - q.head }

// Items are those that wait, the oldest first. They are the queue's own: good until it changes.
func (q *Queue[T]) Items() []T { return q.all[q.head:] }

// Push puts vs at the end. Room is made by moving what waits where more than half has been taken.
func (q *Queue[T]) Push(vs ...T) {
	if len(q.all)+len(vs) > cap(q.all) && q.head > len(q.all)/2 {
		n := copy(q.all, q.all[q.head:])
		clear(q.all[n:])
		q.all, q.head = q.all[:n], 0
	}
	q.all = append(q.all, vs...)
}

// Pop takes the oldest; false: there is none. The queue no longer refers to it.
func (q *Queue[T]) Pop() (v T, ok bool) {
	if q.Len() == 0 {
		return v, false
	}
	var none T
	v, q.all[q.head] = q.all[q.head], none
	if q.head++; q.head == len(q.all) {
		q.all, q.head = q.all[:0], 0
		if q.Spare > 0 && cap(q.all) > q.Spare {
			q.all = nil
		}
	}
	return v, true
}
