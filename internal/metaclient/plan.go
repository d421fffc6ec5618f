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
	return o.plan(ctx, &pb.PlanRequest{Mode: mode})
}

// Holdings returns what is on each member, as the leaders of the ranges have told lately. No plan is made for that. The answer is the caller's.
func (o *ops) Holdings(ctx context.Context) ([]*pb.PlanNode, error) {
	resp, err := o.plan(ctx, &pb.PlanRequest{Mode: "off", NodesOnly: true}) // a leader of before that field plans least in this mode
	return resp.GetNodes(), err
}

func (o *ops) plan(ctx context.Context, req *pb.PlanRequest) (*pb.PlanResponse, error) {
	resp, err := o.calls.one(ctx, &pb.PeerRequest{Plan: req}, false, false)
	if err == nil && resp.GetPlan() == nil {
		err = fmt.Errorf("%w: an answer without a plan", shard.ErrUnimplemented)
	}
	return resp.GetPlan(), err
}
