package front

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"pontoon/internal/admission"
	"pontoon/internal/httpapi"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// transfers moves the leaders of ranges for whoever asks by HTTP.
type transfers struct {
	node      *node
	admission *admission.Door
}

var _ httpapi.Transferrer = (*transfers)(nil)

// Transfer implements httpapi.Transferrer.
func (t *transfers) Transfer(ctx context.Context, id uint64, to string) (httpapi.Transferred, error) {
	out, err := t.transfer(ctx, id, to)
	return out, httpError(err)
}

// httpError is an error of package shard as HTTP says it; nil is nil.
func httpError(err error) error {
	if err == nil {
		return nil
	}
	return &httpapi.StatusError{Status: statusOf(err), Err: err}
}

// statusOf is how HTTP says an error of package shard.
func statusOf(err error) int {
	switch {
	case errors.Is(err, shard.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, shard.ErrOpInWay):
		return http.StatusConflict
	case errors.Is(err, shard.ErrTooManyRequests):
		return http.StatusTooManyRequests
	case errors.Is(err, shard.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, shard.ErrAmbiguous):
		return http.StatusGatewayTimeout
	case errors.Is(err, shard.ErrUnimplemented):
		return http.StatusNotImplemented
	default:
		return http.StatusServiceUnavailable
	}
}

func (t *transfers) transfer(ctx context.Context, id uint64, to string) (httpapi.Transferred, error) {
	none := httpapi.Transferred{}
	heir, err := t.node.member(to)
	if err != nil {
		return none, err
	}
	req, err := t.admission.Call(&pb.PeerRequest{Transfer: &pb.TransferRequest{RangeId: id, Node: uint64(heir.ID)}})
	if err != nil {
		return none, err
	}
	resp, err := t.node.router.Transfer(ctx, req.Transfer)
	if err != nil {
		return none, err
	}
	if leader := shard.NodeID(resp.LeaderNode); leader != heir.ID {
		return none, fmt.Errorf("%w: %v did not take over %v: %v was elected", shard.ErrTimeout, heir.ID, shard.RangeID(id), leader)
	}
	return httpapi.Transferred{Range: id, Leader: resp.LeaderNode, Name: heir.Name, Term: resp.Term, StoodMicros: resp.StoodUs}, nil
}
