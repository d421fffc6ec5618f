package meta

// question names what a client asks, so that it may ask again. The zero value names nothing.
type question struct{ asker, seq uint64 }

// repliesMax bounds the answers that are remembered for a question asked again.
const repliesMax = 4096

// replyCache is what this leadership has allocated for named questions, the latest repliesMax of them.
type replyCache struct {
	answers map[question]allocation
	order   []question // a ring once it is full
	next    int
}

// allocation is a run of revisions.
type allocation struct{ first, n int64 }

func (c *replyCache) find(q question, n int64) (first int64, ok bool) {
	a, ok := c.answers[q]
	return a.first, ok && a.n == n
}

func (c *replyCache) note(q question, a allocation) {
	if q == (question{}) {
		return
	}
	if c.answers == nil {
		c.answers = make(map[question]allocation)
	}
	if len(c.order) < repliesMax {
		c.order = append(c.order, q)
	} else {
		delete(c.answers, c.order[c.next])
		c.order[c.next] = q
		c.next = (c.next + 1) % repliesMax
	}
	c.answers[q] = a
}
