package peerrpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// keyError is the trailer that carries a pb.Error when a feed was ended by its handler.
const keyError = "pontoon-error-bin"

// OpenFeed opens a feed on a node and calls recv with every frame, in order, until the feed
// ends, ctx ends or recv fails; it returns why. recv may block: flow control then holds the
// sender back. Errors of the far handler are those of package shard; a feed that could not be
// opened or broke is shard.ErrUnavailable, and may be opened again.
func (m *Mesh) OpenFeed(ctx context.Context, node shard.NodeID, req *pb.FeedRequest, recv func(*pb.FeedFrame) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(m.ctx, cancel)
	defer stop()
	if node == m.cfg.Node {
		if m.cfg.Feed == nil {
			return shard.ErrUnavailable
		}
		return m.cfg.Feed(ctx, &pb.FeedRequest{RangeId: req.RangeId, NodeId: uint64(node)}, recv)
	}
	cc, err := m.cfg.DialFeed(node)
	if err != nil {
		return fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, node, err)
	}
	stream, err := pb.NewPeerClient(cc).Feed(ctx, req)
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if err != nil {
		return feedError(ctx, node, nil, err)
	}
	for {
		f, err := stream.Recv()
		if err != nil {
			return feedError(ctx, node, stream.Trailer(), err)
		}
		if err := recv(f); err != nil {
			return err
		}
	}
}

// feedError is the reason why a feed has ended.
func feedError(ctx context.Context, node shard.NodeID, trailer metadata.MD, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if vs := trailer.Get(keyError); len(vs) > 0 {
		var e pb.Error
		if derr := e.UnmarshalVT([]byte(vs[0])); derr == nil {
			return pb.ErrorFromPB(&e)
		}
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: node %v has ended the feed", shard.ErrUnavailable, node)
	}
	return fmt.Errorf("%w: node %v: %w", shard.ErrUnavailable, node, err)
}

// ServeFeed implements peer.CallService.
func (m *Mesh) ServeFeed(from shard.NodeID, req *pb.FeedRequest, stream pb.Peer_FeedServer) error {
	if m.cfg.Feed == nil {
		return status.Error(codes.Unavailable, "peerrpc: no feeds are served here")
	}
	req.NodeId = uint64(from)
	err := m.cfg.Feed(stream.Context(), req, stream.Send)
	if err == nil || stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	e := pb.ErrorToPB(err)
	buf, merr := e.MarshalVT()
	if merr != nil {
		return status.Errorf(codes.Internal, "peerrpc: encode error: %v", merr)
	}
	stream.SetTrailer(metadata.Pairs(keyError, string(buf)))
	return status.Error(codes.Aborted, err.Error())
}
