package etcdapi

import (
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"pontoon/watchfanout"
)

const (
	// tagFragment marks a watch whose responses may come in parts.
	tagFragment = 1
)

// smallestKey is what a watch of no key begins with.
var smallestKey = []byte{0}

// command is a client's request, checked.
type command struct {
	kind     commandKind
	asks     bool  // for the current revision
	notify   bool  // create: wants periodic progress
	revision int64 // create: of the created response, 0: the newest known; progress: to reach
	refused  string
	key, end []byte                   // create: as they were asked for
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
		if c, ok := s.request(&req); ok && !s.requests.push(c) {
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
func (s *watchStream) request(req *watchRequest) (command, bool) {
	if req.creates {
		return createCommand(s.api, req.create), true
	}
	switch u := req.other.GetRequestUnion().(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		if u.CreateRequest == nil {
			return command{}, false
		}
		return createCommand(s.api, u.CreateRequest), true
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

// createCommand lets a watch in. Where its right to is asked for, so is the oracle, which knows of newer users and roles.
func createCommand(api *API, req *etcdserverpb.WatchCreateRequest) command {
	c := command{kind: commandCreate, notify: req.ProgressNotify, key: req.Key, end: req.RangeEnd}
	if len(c.key) == 0 {
		c.key = smallestKey
	}
	var err error
	if c.req, err = api.door.Watch(req); err != nil {
		c.refused = err.Error()
		return c
	}
	c.asks = c.req.Start == 0 || api.guard.on() != nil
	if req.Fragment {
		c.req.Tag = tagFragment
	}
	return c
}
