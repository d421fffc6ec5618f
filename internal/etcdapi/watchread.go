package etcdapi

import (
	"errors"
	"io"
	"sync"

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

// requestReader reads a stream's requests and has them executed.
type requestReader struct {
	api    *API
	source requestSource
	queue  requestQueue
}

// asideMax is how many requests of a stream are looked at aside: most have one, and then wait. Who has many watches does not mind a larger stack.
const asideMax = 4

// read takes a client's requests, until there are no more, which is no error, or the stream has ended.
func (r *requestReader) read() error {
	if !r.source.bare() {
		return r.readDecoded()
	}
	for n := 0; ; n++ {
		data, err := r.source.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		var more bool
		if n < asideMax {
			more, err = r.takeAside(data)
		} else {
			more, err = r.take(data)
		}
		if !more {
			return err
		}
	}
}

// readDecoded is read by gRPC's API.
func (r *requestReader) readDecoded() error {
	var req watchRequest
	for {
		err := r.source.rpc.RecvMsg(&req)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if c, ok := r.request(&req); ok && !r.queue.push(c) {
			return nil
		}
	}
}

func (r *requestReader) takeAside(data mem.BufferSlice) (more bool, err error) {
	aside(func() { more, err = r.take(data) })
	return more, err
}

var requestPool = sync.Pool{New: func() any { return &watchRequest{} }}

// take checks a request and lets turns have it. No more are to be read if the stream has ended, or with an error.
func (r *requestReader) take(data mem.BufferSlice) (more bool, err error) {
	defer data.Free()
	req := requestPool.Get().(*watchRequest)
	defer requestPool.Put(req)
	if err := req.decode(data); err != nil {
		return false, errUndecodable(err)
	}
	c, ok := r.request(req)
	return !ok || r.queue.push(c), nil
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
func (r *requestReader) request(req *watchRequest) (command, bool) {
	if req.creates {
		return createCommand(r.api, req.create), true
	}
	switch u := req.other.GetRequestUnion().(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		if u.CreateRequest == nil {
			return command{}, false
		}
		return createCommand(r.api, u.CreateRequest), true
	case *etcdserverpb.WatchRequest_CancelRequest:
		c := command{kind: commandCancel}
		c.req.ID = u.CancelRequest.GetWatchId()
		return c, u.CancelRequest != nil
	case *etcdserverpb.WatchRequest_ProgressRequest:
		return command{kind: commandProgress, asks: true}, true
	default:
		r.api.log.Info("a watch request of an unknown kind was left out")
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
