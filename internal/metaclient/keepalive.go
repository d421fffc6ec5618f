package metaclient

import (
	"sync"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const (
	// keepAliveCalls is how many keep-alive calls may be in flight, and keepAliveBatch what one carries.
	keepAliveCalls = 2
	keepAliveBatch = 4096
)

// keepAlives gathers keep-alives: those that come while calls are in flight share the next.
type keepAlives struct {
	calls *caller
	mu    struct {
		sync.Mutex
		closed   bool
		queue    []renewal
		inFlight int
	}
}

// renewal is one caller.
type renewal struct {
	id int64
	cb func(Lease, error)
}

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
	for len(k.mu.queue) > 0 && k.mu.inFlight < keepAliveCalls {
		n := min(len(k.mu.queue), keepAliveBatch)
		batch := k.mu.queue[:n:n]
		if k.mu.queue = k.mu.queue[n:]; len(k.mu.queue) == 0 {
			k.mu.queue = nil
		}
		k.mu.inFlight++
		k.mu.Unlock()
		k.send(batch)
		k.mu.Lock()
	}
	k.mu.Unlock()
}

func (k *keepAlives) send(batch []renewal) {
	req := &pb.LeaseKeepAliveRequest{Ids: make([]int64, len(batch))}
	for i, a := range batch {
		req.Ids[i] = a.id
	}
	if len(batch) == 1 { // the leader would wait for one that ends: not in this queue
		req.Ids = append(req.Ids, 0)
	}
	k.calls.call(&attempt{req: &pb.PeerRequest{LeaseKeepAlive: req}, done: func(resp *pb.PeerResponse, err error) {
		k.mu.Lock()
		k.mu.inFlight--
		k.sendUnlock()
		leases, rev := resp.GetLeaseInfo().GetLeases(), resp.GetLeaseInfo().GetRevision()
		k.calls.NoteRevision(rev)
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
	req := &pb.PeerRequest{LeaseKeepAlive: &pb.LeaseKeepAliveRequest{Ids: []int64{a.id}}}
	k.calls.call(&attempt{req: req, long: true, done: func(resp *pb.PeerResponse, err error) {
		l, err := firstLease(resp, err)
		k.calls.NoteRevision(l.Revision)
		a.cb(l, err)
	}})
}
