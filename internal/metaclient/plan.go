package metaclient

import (
	"context"
	"fmt"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Plan returns what the planner would do now in a mode, "on", "repair" or "off"; empty: in the one that it acts in. Nothing of it
// is done by that. shard.ErrInvalid: there is no such mode. The answer is the caller's.
func (o *ops) Plan(ctx context.Context, mode string) (*pb.PlanResponse, error) {
	resp, err := o.calls.one(ctx, &pb.PeerRequest{Plan: &pb.PlanRequest{Mode: mode}}, false, false)
	if err == nil && resp.GetPlan() == nil {
		err = fmt.Errorf("%w: an answer without a plan", shard.ErrUnimplemented)
	}
	return resp.GetPlan(), err
}
