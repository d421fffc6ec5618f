package state

// recent are the last changes of something that has versions, one a version. Beyond a bound the oldest go. What is in items is never written: who has taken
// a part of it keeps that. It is no part of the replicated state: a replica that has restored a snapshot begins without.
type recent[T interface{ weight() int }] struct {
	items  []T
	weight int // of items
}

// add puts one behind the others, of which it keeps as many as may be, and as weigh no more than they may.
func (r *recent[T]) add(item T, itemsMax, weightMax int) {
	if len(r.items) == cap(r.items) { // the oldest have only been cut off so far
		kept := make([]T, len(r.items), max(2*len(r.items), 16))
		copy(kept, r.items)
		r.items = kept
	}
	r.items = append(r.items, item)
	r.weight += item.weight()
	for len(r.items) > itemsMax || r.weight > weightMax {
		r.weight -= r.items[0].weight()
		r.items = r.items[1:]
	}
}

// since returns those that have led from a version to the present one. It reports false if they are not known.
func (r *recent[T]) since(version, now uint64) ([]T, bool) {
	if version == 0 || version > now || now-version > uint64(len(r.items)) {
		return nil, false
	}
	return r.items[uint64(len(r.items))-(now-version):], true
}
