package front

import (
	"context"

	"pontoon/internal/admission"
	"pontoon/internal/httpapi"
	"pontoon/internal/metaclient"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// plans tells what the planner would do to whoever asks by HTTP.
type plans struct {
	client    *metaclient.Client
	admission *admission.Door
	names     func() map[shard.NodeID]string // of the members
}

var _ httpapi.Planner = (*plans)(nil)

// Plan implements httpapi.Planner.
func (p *plans) Plan(ctx context.Context, mode string) (httpapi.Plan, error) {
	req, err := p.admission.Call(&pb.PeerRequest{Plan: &pb.PlanRequest{Mode: mode}})
	if err != nil {
		return httpapi.Plan{}, httpError(err)
	}
	resp, err := p.client.Plan(ctx, req.Plan.Mode)
	if err != nil {
		return httpapi.Plan{}, httpError(err)
	}
	names := p.names()
	name := func(id uint64) string {
		if id == 0 {
			return ""
		}
		if n := names[shard.NodeID(id)]; n != "" {
			return n
		}
		return shard.NodeID(id).String()
	}
	out := httpapi.Plan{Mode: resp.Mode, Acts: resp.Acts, AgeMillis: resp.AgeMs, Ops: []httpapi.PlannedOp{}}
	for _, op := range resp.Ops {
		out.Ops = append(out.Ops, httpapi.PlannedOp{Kind: op.Kind, Rule: op.Rule, Range: op.RangeId, Generation: op.Generation, From: name(op.From),
			To: name(op.To), Leader: name(op.Leader), Right: op.Right, Key: op.Key, KeyText: keyText(op.Key), Why: op.Why, Blocked: op.Blocked, Text: op.Text})
	}
	for _, n := range resp.Nodes {
		out.Nodes = append(out.Nodes, httpapi.PlanNode{Node: n.NodeId, Name: name(n.NodeId), State: n.State, SinceSeconds: n.SinceS, Leaves: n.Leaves,
			Ranges: n.Ranges, Leads: n.Leads, Bytes: n.Bytes})
	}
	return out, nil
}
