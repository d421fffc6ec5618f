package placement

// notedMax is how many ranges a rule looks at in a round.
const notedMax = 256

// noted is a range that a rule may have something to do for; the lowest key is looked at first.
type noted struct {
	key uint64
	at  int32
}

func (a noted) less(b noted) bool { return a.key < b.key || a.key == b.key && a.at < b.at }

// top keeps the ranges with the lowest keys, in a heap with the highest of them in front.
type top struct {
	items []noted
	total int // that were added
}

func (t *top) add(key uint64, at int32) {
	t.total++
	n := noted{key, at}
	if len(t.items) == notedMax {
		if n.less(t.items[0]) {
			t.items[0] = n
			t.sink(0, len(t.items))
		}
		return
	}
	t.items = append(t.items, n)
	for i := len(t.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !t.items[up].less(t.items[i]) {
			return
		}
		t.items[up], t.items[i] = t.items[i], t.items[up]
		i = up
	}
}

func (t *top) sink(i, n int) {
	for {
		c := 2*i + 1
		if c >= n {
			return
		}
		if c+1 < n && t.items[c].less(t.items[c+1]) {
			c++
		}
		if !t.items[i].less(t.items[c]) {
			return
		}
		t.items[i], t.items[c] = t.items[c], t.items[i]
		i = c
	}
}

// sorted returns the ranges, the lowest key first, and empties the heap.
func (t *top) sorted() []noted {
	for n := len(t.items) - 1; n > 0; n-- {
		t.items[0], t.items[n] = t.items[n], t.items[0]
		t.sink(0, n)
	}
	out := t.items
	t.items = nil
	return out
}

// mix turns a number and the round into another number that looks drawn at random.
func mix(round uint64, i int32) uint64 {
	x := round*0x9e3779b97f4a7c15 + uint64(uint32(i))*0xbf58476d1ce4e5b9 + 0x94d049bb133111eb
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
