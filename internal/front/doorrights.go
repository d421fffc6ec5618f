package front

import (
	"context"

	"pontoon/internal/auth"
	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/shard"
)

// doorRights is what routing clients may do, whose word counts for nothing: each call is judged by the token of the stream that it came by, under
// settings that every acknowledged change is in.
type doorRights struct {
	access access
	tokens *token.Tokens // nil: nobody is asked who he is
}

// callRules judge the calls that clients may make at all, by what has been made anew of them. A test fails while one is missing.
var callRules = [calls.Kinds]func(v *auth.View, w shard.Who, req *pb.PeerRequest) error{
	calls.Write:       mayCallWrite,
	calls.Fence:       func(v *auth.View, w shard.Who, req *pb.PeerRequest) error { return mayCallRead(v, w, req.Fence.Span) },
	calls.Read:        func(v *auth.View, w shard.Who, req *pb.PeerRequest) error { return mayCallRead(v, w, req.Read.Span) },
	calls.Oracle:      identifiedCall,
	calls.Descriptors: identifiedCall,
	calls.Transfer:    rootCall,
	calls.Compact:     rootCall,
	calls.BeginOp:     rootCall,
	calls.Ops:         rootCall,
	calls.Plan:        rootCall,
	calls.Unstick:     rootCall,
	calls.Borders:     rootCall,
}

func identifiedCall(v *auth.View, w shard.Who, _ *pb.PeerRequest) error { return v.Identified(w) }

func rootCall(v *auth.View, w shard.Who, _ *pb.PeerRequest) error { return v.Admin(w) }

// mayCallRead judges a read of a range. It is of a part of what was asked of the client, which is allowed where all of its parts are.
func mayCallRead(v *auth.View, w shard.Who, s *pb.Span) error {
	end := s.GetEnd()
	if len(end) == 0 {
		end = []byte{0} // a span without an end, and not a key
	}
	return v.MayRead(w, s.GetStart(), end)
}

// mayCallWrite judges a write. Whose keys a lease has is asked elsewhere: with a lease only root writes this way. The range's leader judges it again.
func mayCallWrite(v *auth.View, w shard.Who, req *pb.PeerRequest) error {
	if err := v.May(w, req.Write.Op); err != nil {
		return err
	}
	if len(auth.Leases(req.Write.Op)) > 0 && !v.IsRoot(w) {
		return shard.ErrPermissionDenied
	}
	req.Write.Who = pb.FromWho(w)
	return nil
}

// judge calls done, perhaps before it returns, with why a call is refused, or nil.
func (r *doorRights) judge(ctx context.Context, req *pb.PeerRequest, done func(error)) {
	if r.tokens == nil || r.access.Lent() {
		done(r.by(ctx, req))
		return
	}
	r.access.BorrowFunc(func(err error) {
		if err == nil {
			err = r.by(ctx, req)
		}
		done(err)
	})
}

func (r *doorRights) by(ctx context.Context, req *pb.PeerRequest) error {
	if r.tokens == nil {
		return nil
	}
	v := r.access.View()
	if !v.Enabled() {
		return nil
	}
	kind, _ := calls.Of(req)
	rule := callRules[kind]
	if rule == nil {
		return shard.ErrPermissionDenied
	}
	w, err := r.tokens.Who(ctx, v)
	if err != nil {
		return err
	}
	return rule(v, w, req)
}
