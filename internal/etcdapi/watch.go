package etcdapi

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"pontoon/shard"
	"pontoon/watchfanout"
)

// watchServer is etcd's Watch service.
type watchServer struct {
	etcdserverpb.UnsafeWatchServer
	api *API
}

type watchRPC = grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]

const (
	// commandsWaitingMax bounds what the reader of a stream hands to its writer; beyond it
	// the reader stops reading from the client.
	commandsWaitingMax = 16

	currentRetryMin = 10 * time.Millisecond
	currentRetryMax = time.Second
)

// command is a client's request, checked and with what had to be asked for, on its way from
// the stream's reader to its writer. One of the three is set.
type command struct {
	create   *createCommand
	cancel   *int64 // watch id
	progress int64  // revision to reach
}

type createCommand struct {
	id       int64 // 0: the stream chooses
	req      watchfanout.WatchRequest
	header   int64 // revision for the created response; 0: the newest known
	notify   bool
	fragment bool
	refused  string // reason, if it was refused already
}

// Watch serves one stream with any number of watches. This goroutine writes and owns all of
// the stream's state; a second one reads, because Recv cannot be interrupted: it ends with
// the stream's context, when this function has returned.
func (s *watchServer) Watch(rpc watchRPC) error {
	ctx := rpc.Context()
	r := &watchReader{api: s.api, rpc: rpc, commands: make(chan command, commandsWaitingMax), failed: make(chan error, 1)}
	go r.run(ctx)

	w := newWatchWriter(s.api, rpc)
	defer w.hub.Close()
	guard := s.api.guardLeader(ctx)
	defer guard.stop()
	progress := time.NewTicker(jittered(s.api.cfg.ProgressInterval))
	defer progress.Stop()

	for {
		var err error
		select {
		case c := <-r.commands:
			err = w.execute(c)
		case <-w.ready():
			err = w.deliver()
		case <-progress.C:
			w.requestProgress()
		case <-guard.tick():
			if guard.lost(w.spans()) {
				return rpctypes.ErrGRPCNoLeader
			}
		case err = <-r.failed:
			return watchEnd(err)
		case <-s.api.closing:
			return rpctypes.ErrGRPCStopped
		case <-ctx.Done():
			return watchEnd(ctx.Err())
		}
		if err != nil {
			return err
		}
	}
}

// watchEnd is what a stream ends with that the client, or the connection, has ended.
func watchEnd(err error) error {
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return toRPC(err)
}

// jittered spreads the notifications of watches that began together.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration(rand.Int64N(int64(d)/10+1))
}

// watchReader reads a client's requests, checks them, and asks the oracle where that is needed:
// so that the stream's deliveries do not wait for it.
type watchReader struct {
	api      *API
	rpc      watchRPC
	commands chan command
	failed   chan error // at most one
}

func (r *watchReader) run(ctx context.Context) {
	for {
		req, err := r.rpc.Recv()
		if errors.Is(err, io.EOF) {
			return // the client has no more requests, but may go on listening
		}
		if err != nil {
			r.failed <- err
			return
		}
		c, ok := r.command(ctx, req)
		if !ok {
			continue
		}
		select {
		case r.commands <- c:
		case <-ctx.Done():
			return
		}
	}
}

// command turns a request into what the writer does; false if it is nothing to be done. As in
// etcd an invalid request does not end the stream.
func (r *watchReader) command(ctx context.Context, req *etcdserverpb.WatchRequest) (command, bool) {
	switch u := req.GetRequestUnion().(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		if u.CreateRequest == nil {
			return command{}, false
		}
		create := r.create(ctx, u.CreateRequest)
		return command{create: create}, create != nil
	case *etcdserverpb.WatchRequest_CancelRequest:
		id := u.CancelRequest.GetWatchId()
		return command{cancel: &id}, u.CancelRequest != nil
	case *etcdserverpb.WatchRequest_ProgressRequest:
		rev, err := r.currentSoon(ctx)
		if err != nil {
			r.api.log.Debug("no current revision for a progress request, which is dropped", "error", err)
			return command{}, false
		}
		return command{progress: rev}, true
	default:
		r.api.log.Info("a watch request of an unknown kind was left out")
		return command{}, false
	}
}

// create checks a watch and fixes its start; nil if the stream ended meanwhile.
func (r *watchReader) create(ctx context.Context, req *etcdserverpb.WatchCreateRequest) *createCommand {
	c := &createCommand{id: req.WatchId, notify: req.ProgressNotify, fragment: req.Fragment}
	span, ok := watchSpan(req.Key, req.RangeEnd)
	switch {
	case req.StartRevision < 0:
		c.refused = rpctypes.ErrCompacted.Error()
		return c
	case !ok:
		c.refused = reasonEmptyRange
		return c
	case req.WatchId < 0:
		c.refused = "etcdserver: a watch id must not be negative"
		return c
	}
	c.req = watchfanout.WatchRequest{Span: span, Start: req.StartRevision, PrevKV: req.PrevKv}
	for _, f := range req.Filters {
		c.req.NoPut = c.req.NoPut || f == etcdserverpb.WatchCreateRequest_NOPUT
		c.req.NoDelete = c.req.NoDelete || f == etcdserverpb.WatchCreateRequest_NODELETE
	}
	if c.req.Start == 0 {
		current, err := r.currentPatiently(ctx)
		if err != nil {
			return nil
		}
		c.header, c.req.Start = current, current+1
	}
	return c
}

// currentPatiently asks the oracle until it answers or the stream ends. To refuse the watch
// instead would end it for good in the client, for a change of leaders that takes a second.
func (r *watchReader) currentPatiently(ctx context.Context) (int64, error) {
	pause := currentRetryMin
	for {
		rev, err := r.api.cfg.KV.Current(ctx)
		if err == nil {
			return rev, nil
		}
		if ctx.Err() != nil || errors.Is(err, shard.ErrStopped) {
			return 0, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0, ctx.Err()
		}
		pause = min(2*pause, currentRetryMax)
	}
}

// currentSoon asks the oracle once. A client repeats a progress request that is not answered.
func (r *watchReader) currentSoon(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.api.cfg.ElectionTimeout)
	defer cancel()
	return r.api.cfg.KV.Current(ctx)
}
