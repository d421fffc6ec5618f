package metaclient

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Gateways returns the gateways that the leader of the meta group has heard of, by id, once it has heard of own: what this process says of itself,
// nil where it is none; ends: that it is about to stop. The answer is the caller's. A leader that was elected a moment ago knows of none yet.
// Errors: shard.ErrTooManyRequests where there are too many to remember one more, shard.ErrUnimplemented where the cluster's release knows none.
func (o *ops) Gateways(ctx context.Context, own *pb.Gateway, ends bool) ([]*pb.Gateway, error) {
	resp, err := o.calls.one(ctx, &pb.PeerRequest{Gateways: &pb.GatewaysRequest{Own: own, Ends: ends}}, false, false)
	if err == nil && resp.GetGateways() == nil {
		err = fmt.Errorf("%w: an answer without gateways", shard.ErrUnimplemented)
	}
	return resp.GetGateways().GetGateways(), err
}
