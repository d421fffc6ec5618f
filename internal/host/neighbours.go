package host

import (
	"fmt"
	"time"

	"pontoon/shard"
	"pontoon/shard/replica"
)

// neighbours are the replicas of this node for one that its right neighbour becomes part of: it is replica.Neighbours.
type neighbours struct{ rs *ranges }

// The right neighbour may be opened after the left, which has an entry to apply that needs it.
const (
	neighbourAtMost = 30 * time.Second
	neighbourLook   = 10 * time.Millisecond
)

var _ replica.Neighbours = neighbours{}

// Neighbour implements replica.Neighbours.
func (n neighbours) Neighbour(id shard.RangeID) *replica.Replica {
	rep, _ := n.rs.get(id)
	return rep
}

// Await implements replica.Neighbours. It is called by a worker that applies, at a start or for a repair; there is no event of it.
func (n neighbours) Await(id shard.RangeID) (*replica.Replica, error) {
	look := time.NewTicker(neighbourLook)
	defer look.Stop()
	for until := time.Now().Add(neighbourAtMost); ; <-look.C {
		switch rep, open := n.rs.get(id); {
		case open:
			return rep, nil
		case !n.rs.held.unopened() && !n.rs.held.here(id) && !n.rs.held.isListed(id):
			return nil, fmt.Errorf("%w: %v is not on this node", shard.ErrInvalid, id)
		case n.rs.births.until.Err() != nil:
			return nil, shard.ErrStopped
		case time.Now().After(until):
			return nil, fmt.Errorf("%w: %v is not open on this node", shard.ErrTimeout, id)
		}
	}
}

// Merged implements replica.Neighbours.
func (n neighbours) Merged(id shard.RangeID) { n.rs.removals.push(id) }
