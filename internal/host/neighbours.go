package host

import (
	"fmt"

	"pontoon/shard"
	"pontoon/shard/replica"
)

// neighbours are the replicas of this node for one that its right neighbour becomes part of: it is replica.Neighbours.
type neighbours struct{ rs *ranges }

var _ replica.Neighbours = neighbours{}

// Neighbour implements replica.Neighbours.
func (n neighbours) Neighbour(id shard.RangeID) *replica.Replica {
	rep, _ := n.rs.get(id)
	return rep
}

// Await implements replica.Neighbours.
func (n neighbours) Await(right, left shard.RangeID) (*replica.Replica, error) {
	h := n.rs.held
	h.await(right, left) // first: what changes from here on wakes it
	coming := h.expects(right) || n.rs.repairs.isLost(right)
	if rep, open := n.rs.get(right); open {
		return rep, nil
	}
	if coming || n.rs.repairs.isLost(right) { // it may just have been taken out of service
		return nil, fmt.Errorf("%w: %v is not open on this node", replica.ErrComing, right)
	}
	h.changed(right) // nothing will change any more
	return nil, fmt.Errorf("%w: %v is not on this node", shard.ErrInvalid, right)
}

// Changed implements replica.Neighbours.
func (n neighbours) Changed(id shard.RangeID) { n.rs.held.changed(id) }

// Merged implements replica.Neighbours.
func (n neighbours) Merged(id shard.RangeID) { n.rs.removals.push(id) }
