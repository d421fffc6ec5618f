package etcdapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/admission"
	"pontoon/shard"
	"pontoon/watchfanout"
)

const (
	// commandsMax bounds what the reader of a stream hands to its turns; beyond it the reader
	// stops reading from the client.
	commandsMax = 64

	currentRetryMin = 10 * time.Millisecond
	currentRetryMax = time.Second

	// tagFragment marks a watch whose responses may come in parts.
	tagFragment = 1
)

// command is a client's request, checked.
type command struct {
	kind     commandKind
	asks     bool  // for the current revision
	notify   bool  // create: wants periodic progress
	revision int64 // create: of the created response, 0: the newest known; progress: to reach
	refused  string
	req      watchfanout.WatchRequest // create: ID 0 lets the stream choose, and so does Start 0; cancel: ID
}

type commandKind uint8

const (
	commandCreate commandKind = iota
	commandCancel
	commandProgress
)

// read reads a client's requests and checks them.
func (s *watchStream) read() {
	var req watchRequest
	for {
		err := s.rpc.RecvMsg(&req)
		if errors.Is(err, io.EOF) {
			return // the client has no more requests, but may go on listening
		}
		if err != nil {
			s.fail(err)
			return
		}
		if c, ok := s.command(&req); ok && !s.push(c) {
			return
		}
	}
}

// watchRequest is a WatchRequest that is decoded into the same memory again and again, if it is one
// that creates a watch, like nearly all of them.
type watchRequest struct {
	create  *etcdserverpb.WatchCreateRequest
	creates bool
	other   *etcdserverpb.WatchRequest
}

// createField is the number of WatchRequest.create_request on the wire.
const createField protowire.Number = 1

// decode reads a WatchRequest.
func (r *watchRequest) decode(data mem.BufferSlice) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	b := buf.ReadOnlyData()
	r.creates, r.other = false, nil
	if num, typ, n := protowire.ConsumeTag(b); n > 0 && num == createField && typ == protowire.BytesType {
		body, m := protowire.ConsumeBytes(b[n:])
		if m > 0 && n+m == len(b) {
			if r.create == nil {
				r.create = &etcdserverpb.WatchCreateRequest{}
			}
			r.creates = true
			return proto.Unmarshal(body, r.create)
		}
	}
	r.other = &etcdserverpb.WatchRequest{}
	return proto.Unmarshal(b, r.other)
}

// command turns a request into what a turn executes; false if it is nothing to be done. As in
// etcd an invalid request does not end the stream.
func (s *watchStream) command(req *watchRequest) (command, bool) {
	if req.creates {
		return createCommand(s.api.door, req.create), true
	}
	switch u := req.other.GetRequestUnion().(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		if u.CreateRequest == nil {
			return command{}, false
		}
		return createCommand(s.api.door, u.CreateRequest), true
	case *etcdserverpb.WatchRequest_CancelRequest:
		c := command{kind: commandCancel}
		c.req.ID = u.CancelRequest.GetWatchId()
		return c, u.CancelRequest != nil
	case *etcdserverpb.WatchRequest_ProgressRequest:
		return command{kind: commandProgress, asks: true}, true
	default:
		s.api.log.Info("a watch request of an unknown kind was left out")
		return command{}, false
	}
}

// createCommand lets a watch in.
func createCommand(door *admission.Door, req *etcdserverpb.WatchCreateRequest) command {
	c := command{kind: commandCreate, notify: req.ProgressNotify}
	var err error
	if c.req, err = door.Watch(req); err != nil {
		c.refused = err.Error()
		return c
	}
	c.asks = c.req.Start == 0
	if req.Fragment {
		c.req.Tag = tagFragment
	}
	return c
}

// push appends a command, when there is room; false if the stream has ended. Commands that need the
// current revision wait for it, and those behind them, too, so that answers come in order.
func (s *watchStream) push(c command) bool {
	ready, ok := s.enter(c)
	if ready {
		s.kick()
	}
	return ok
}

// enter does push's work; ready says that the command may be executed.
func (s *watchStream) enter(c command) (ready, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.mu.commands) >= commandsMax && !s.mu.closed {
		s.mu.room.Wait()
	}
	if s.mu.closed {
		return false, false
	}
	s.mu.commands = append(s.mu.commands, c)
	switch {
	case s.mu.asking:
		return false, true
	case c.asks:
		s.mu.asking = true
		go s.ask()
		return false, true
	default:
		s.mu.asked++
		return true, true
	}
}

// ask asks the oracle for all commands that wait for it: the answer holds for what the client has
// sent before the question. It goes on until none waits.
func (s *watchStream) ask() {
	pause := currentRetryMin
	for {
		s.mu.Lock()
		covered := len(s.mu.commands) - s.mu.asked
		s.mu.Unlock()
		rev, err := s.current()
		over := s.ctx.Err() != nil || errors.Is(err, shard.ErrStopped)
		if s.answer(covered, rev, err, over) {
			return
		}
		if err == nil {
			pause = currentRetryMin
			continue
		}
		s.api.log.Debug("no current revision for a watch stream, will ask again", "error", err)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
		pause = min(2*pause, currentRetryMax)
	}
}

func (s *watchStream) current() (int64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.api.cfg.ElectionTimeout)
	defer cancel()
	return s.api.cfg.KV.Current(ctx)
}

// answer gives the revision to the commands that were there when it was asked for. After an error
// those that create watches go on waiting: to refuse a watch would end it for good in the client, for
// a change of leaders that takes a second. Requests for progress are dropped: a client repeats them.
// It reports whether nobody waits any more.
func (s *watchStream) answer(covered int, rev int64, err error, over bool) bool {
	defer s.kick()
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.mu.commands[s.mu.asked:]
	switch {
	case over:
		s.mu.commands = s.mu.commands[:s.mu.asked]
	case err == nil:
		for i := range waiting[:covered] {
			waiting[i].know(rev)
		}
		s.mu.asked += covered
	default:
		kept := slices.DeleteFunc(waiting, func(c command) bool { return c.kind == commandProgress })
		s.mu.commands = s.mu.commands[:s.mu.asked+len(kept)]
	}
	for s.mu.asked < len(s.mu.commands) && !s.mu.commands[s.mu.asked].asks {
		s.mu.asked++
	}
	s.mu.asking = s.mu.asked < len(s.mu.commands)
	return !s.mu.asking
}

// know takes the current revision.
func (c *command) know(rev int64) {
	if !c.asks {
		return
	}
	c.revision = rev
	if c.kind == commandCreate {
		c.req.Start, c.req.FromNow = rev+1, true
	}
}
