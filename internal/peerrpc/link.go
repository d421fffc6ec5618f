package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// Link is the end of a link that wants feeds. Send and Recv may be called at the same time, each by one goroutine. Both block: flow control holds the other
// end back. What is sent must not change afterwards; what is received is the caller's.
type Link interface {
	Send(req *pb.LinkRequest) error
	Recv() (*pb.LinkFrame, error)
}

// LinkSource is the end of a link that has feeds; likewise.
type LinkSource interface {
	Send(fr *pb.LinkFrame) error
	Recv() (*pb.LinkRequest, error)
}

// LinkHandler serves a link of another node until ctx ends or the link breaks; it may block.
type LinkHandler func(ctx context.Context, from shard.NodeID, link LinkSource) error

// OpenLink opens a link to a node, has it used, and returns why that has ended: ctx, what use has returned, or shard.ErrUnavailable for one that could not be
// opened. The link breaks when use returns, and with the ctx that use gets.
func (m *Mesh) OpenLink(ctx context.Context, node shard.NodeID, use func(ctx context.Context, l Link) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	if node == m.cfg.Node {
		return fmt.Errorf("%w: a link to the node itself", shard.ErrUnavailable)
	}
	cc, err := m.cfg.DialFeed(node)
	if err != nil {
		return linkError(ctx, node, err)
	}
	stream, err := pb.NewPeerClient(cc).Link(ctx)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err == nil {
		err = use(ctx, stream)
	}
	return linkError(ctx, node, err)
}

// linkError is the reason why a link has ended.
func linkError(ctx context.Context, node shard.NodeID, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		err = errors.New("it has ended the link")
	}
	return fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, node, err)
}

// ServeLink implements peer.CallService.
func (m *Mesh) ServeLink(from shard.NodeID, stream pb.Peer_LinkServer) error {
	if m.cfg.Link == nil {
		return status.Error(codes.Unavailable, "peerrpc: no feeds are served here")
	}
	err := m.cfg.Link(stream.Context(), from, stream)
	if err == nil || stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	return status.Error(codes.Aborted, err.Error())
}
