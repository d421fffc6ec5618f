package metaclient

import (
	"context"
	"sync"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// aliveCalls is how many keep-alive calls may be under way, and aliveBatch what one carries.
	aliveCalls = 2
	aliveBatch = 4096
)

// keepAlives gathers keep-alives: those that come while calls are under way share the next.
type keepAlives struct {
	c  *Client
	mu struct {
		sync.Mutex
		closed   bool
		queue    []renewal
		underWay int
	}
}

// renewal is one caller.
type renewal struct {
	id int64
	cb func(Lease, error)
}

// KeepAlive renews a lease and returns it with its full TTL, or with a TTL of 0 if it does not exist, and
// the revision that was current then; spans and grant are not told. One that is about to end is waited for.
func (c *Client) KeepAlive(ctx context.Context, id int64) (Lease, error) {
	return wait(ctx, func(cb func(Lease, error)) { c.KeepAliveFunc(id, cb) })
}

// KeepAliveFunc is KeepAlive with a callback, which must not block.
func (c *Client) KeepAliveFunc(id int64, cb func(Lease, error)) { c.keepAlives.add(renewal{id, cb}) }

func (k *keepAlives) add(r renewal) {
	k.mu.Lock()
	if k.mu.closed || len(k.mu.queue) >= queueMax {
		err := shard.ErrUnavailable
		if !k.mu.closed {
			err = shard.ErrTooManyRequests
		}
		k.mu.Unlock()
		r.cb(Lease{}, err)
		return
	}
	k.mu.queue = append(k.mu.queue, r)
	k.sendUnlock()
}

// close refuses whoever comes from now on.
func (k *keepAlives) close() {
	k.mu.Lock()
	k.mu.closed = true
	k.mu.Unlock()
}

// sendUnlock begins calls while somebody waits, and releases mu.
func (k *keepAlives) sendUnlock() {
	for len(k.mu.queue) > 0 && k.mu.underWay < aliveCalls {
		n := min(len(k.mu.queue), aliveBatch)
		batch := k.mu.queue[:n:n]
		if k.mu.queue = k.mu.queue[n:]; len(k.mu.queue) == 0 {
			k.mu.queue = nil
		}
		k.mu.underWay++
		k.mu.Unlock()
		k.send(batch)
		k.mu.Lock()
	}
	k.mu.Unlock()
}

func (k *keepAlives) send(batch []renewal) {
	c := k.c
	req := &pb.LeaseKeepAliveRequest{Ids: make([]int64, len(batch))}
	for i, a := range batch {
		req.Ids[i] = a.id
	}
	if len(batch) == 1 { // the leader would wait for one that ends: not in this queue
		req.Ids = append(req.Ids, 0)
	}
	c.call(&attempt{req: &pb.PeerRequest{LeaseKeepAlive: req}, done: func(resp *pb.PeerResponse, err error) {
		k.mu.Lock()
		k.mu.underWay--
		k.sendUnlock()
		leases, rev := resp.GetLeaseInfo().GetLeases(), resp.GetLeaseInfo().GetRevision()
		c.NoteRevision(rev)
		for i, a := range batch {
			switch {
			case err != nil:
				a.cb(Lease{}, err)
			case i >= len(leases):
				a.cb(Lease{}, shard.ErrCorrupt)
			case leases[i].Revoking:
				k.awaitEnding(a)
			default:
				l := toLease(leases[i])
				l.Revision = rev
				a.cb(l, nil)
			}
		}
	}})
}

// awaitEnding asks about a lease that is ending, alone: the answer comes with the outcome.
func (k *keepAlives) awaitEnding(a renewal) {
	c := k.c
	req := &pb.PeerRequest{LeaseKeepAlive: &pb.LeaseKeepAliveRequest{Ids: []int64{a.id}}}
	c.call(&attempt{req: req, long: true, done: func(resp *pb.PeerResponse, err error) {
		l, err := firstLease(resp, err)
		c.NoteRevision(l.Revision)
		a.cb(l, err)
	}})
}
