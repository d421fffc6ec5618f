package meta

// requestID names a request for revisions, so that a client may repeat it. The zero value names nothing.
type requestID struct{ client, seq uint64 }

// repliesMax bounds the allocations that are remembered for a repeated request.
const repliesMax = 4096

// replyCache is what this leadership has allocated for named requests, the latest repliesMax of them.
type replyCache struct {
	answers map[requestID]allocation
	order   []requestID // a ring once it is full
	next    int
}

// allocation is a run of revisions.
type allocation struct{ first, n int64 }

func (c *replyCache) find(id requestID, n int64) (first int64, ok bool) {
	a, ok := c.answers[id]
	return a.first, ok && a.n == n
}

func (c *replyCache) note(id requestID, a allocation) {
	if id == (requestID{}) {
		return
	}
	if c.answers == nil {
		c.answers = make(map[requestID]allocation)
	}
	if len(c.order) < repliesMax {
		c.order = append(c.order, id)
	} else {
		delete(c.answers, c.order[c.next])
		c.order[c.next] = id
		c.next = (c.next + 1) % repliesMax
	}
	c.answers[id] = a
}
