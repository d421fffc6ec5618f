package metaclient

import (
	"context"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// aliveCalls is how many keep-alive calls may be under way, and aliveBatch what one carries.
	aliveCalls = 2
	aliveBatch = 4096
)

// aliveQueue gathers keep-alives: those that come while calls are under way share the next.
type aliveQueue struct {
	queue    []aliveAsk
	underWay int
}

type aliveAsk struct {
	id int64
	cb func(Lease, error)
}

// KeepAlive renews a lease and returns it with its full TTL, or with a TTL of 0 if it does not exist, and
// the revision that was current then; spans and grant are not told. One that is about to end is waited for.
func (c *Client) KeepAlive(ctx context.Context, id int64) (Lease, error) {
	return wait(ctx, func(cb func(Lease, error)) { c.KeepAliveFunc(id, cb) })
}

// KeepAliveFunc is KeepAlive with a callback, which must not block.
func (c *Client) KeepAliveFunc(id int64, cb func(Lease, error)) {
	c.mu.Lock()
	q := &c.mu.keepAlive
	if c.mu.closed || len(q.queue) >= queueMax {
		err := shard.ErrUnavailable
		if !c.mu.closed {
			err = shard.ErrTooManyRequests
		}
		c.mu.Unlock()
		cb(Lease{}, err)
		return
	}
	q.queue = append(q.queue, aliveAsk{id, cb})
	c.keepAliveUnlock()
}

// keepAliveUnlock begins calls while somebody waits, and releases mu.
func (c *Client) keepAliveUnlock() {
	q := &c.mu.keepAlive
	for len(q.queue) > 0 && q.underWay < aliveCalls {
		n := min(len(q.queue), aliveBatch)
		batch := q.queue[:n:n]
		if q.queue = q.queue[n:]; len(q.queue) == 0 {
			q.queue = nil
		}
		q.underWay++
		c.mu.Unlock()
		c.sendAlive(batch)
		c.mu.Lock()
	}
	c.mu.Unlock()
}

func (c *Client) sendAlive(batch []aliveAsk) {
	req := &pb.LeaseKeepAliveRequest{Ids: make([]int64, len(batch))}
	for i, a := range batch {
		req.Ids[i] = a.id
	}
	if len(batch) == 1 { // the leader would wait for one that ends: not in this queue
		req.Ids = append(req.Ids, 0)
	}
	c.call(&attempt{req: &pb.PeerRequest{LeaseKeepAlive: req}, done: func(resp *pb.PeerResponse, err error) {
		c.mu.Lock()
		c.mu.keepAlive.underWay--
		c.keepAliveUnlock()
		leases, rev := resp.GetLeaseInfo().GetLeases(), resp.GetLeaseInfo().GetRevision()
		c.NoteRevision(rev)
		for i, a := range batch {
			switch {
			case err != nil:
				a.cb(Lease{}, err)
			case i >= len(leases):
				a.cb(Lease{}, shard.ErrCorrupt)
			case leases[i].Revoking:
				c.awaitEnding(a)
			default:
				l := toLease(leases[i])
				l.Revision = rev
				a.cb(l, nil)
			}
		}
	}})
}

// awaitEnding asks about a lease that is ending, alone: the answer comes with the outcome.
func (c *Client) awaitEnding(a aliveAsk) {
	req := &pb.PeerRequest{LeaseKeepAlive: &pb.LeaseKeepAliveRequest{Ids: []int64{a.id}}}
	c.call(&attempt{req: req, long: true, done: func(resp *pb.PeerResponse, err error) {
		l, err := firstLease(resp, err)
		c.NoteRevision(l.Revision)
		a.cb(l, err)
	}})
}
