package fifo

// Batches is a queue that is emptied by batches: what is taken is the taker's until it gives the room back. The
// zero value is empty and ready. It is not safe for concurrent use, and has no bound of its own.
type Batches[T any] struct {
	// Spare bounds the room, in elements, that is kept for later; 0: whatever is given back.
	Spare int

	waiting []T
	spare   []T // empty: where waiting goes on once it has been taken
}

// Len is how many wait.
func (q *Batches[T]) Len() int { return len(q.waiting) }

// Items are those that wait, the oldest first. They are the queue's own: good until it changes.
func (q *Batches[T]) Items() []T { return q.waiting }

// Push puts v at the end.
func (q *Batches[T]) Push(v T) { q.waiting = append(q.waiting, v) }

// Take takes the n oldest.
func (q *Batches[T]) Take(n int) []T {
	if n < len(q.waiting) {
		batch := q.waiting[:n:n]
		q.waiting = q.waiting[n:]
		return batch
	}
	batch := q.waiting
	q.waiting, q.spare = q.spare, nil
	return batch
}

// Recycle clears a batch, and keeps its room if it is more than there is, and not too much.
func (q *Batches[T]) Recycle(batch []T) {
	clear(batch)
	if cap(batch) > cap(q.spare) && (q.Spare == 0 || cap(batch) <= q.Spare) {
		q.spare = batch[:0]
	}
}
