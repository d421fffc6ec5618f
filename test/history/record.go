package history

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Recorder gathers a history. Its clients may work concurrently.
type Recorder struct {
	began time.Time
	ids   atomic.Int64

	mu sync.Mutex
	h  History
}

// NewRecorder begins a history.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Now is the time of the history's clock.
func (r *Recorder) Now() int64 { return int64(time.Since(r.began)) }

// History returns what was recorded. Nothing may be recorded any more.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &r.h
}

// Counts tells how many commands were answered, refused and left unknown, and how many events
// came, so far.
func (r *Recorder) Counts() (ok, refused, unknown, events int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, op := range r.h.Ops {
		switch op.Fate {
		case OK:
			ok++
		case Refused:
			refused++
		default:
			unknown++
		}
	}
	for _, w := range r.h.Watches {
		for i := range w.Responses {
			events += len(w.Responses[i].Events)
		}
	}
	return ok, refused, unknown, events
}

// Client makes requests of one etcd client and records them.
type Client struct {
	rec *Recorder
	id  int
	cl  *clientv3.Client
}

// Client records what is done through cl under the number id.
func (r *Recorder) Client(id int, cl *clientv3.Client) *Client {
	return &Client{rec: r, id: id, cl: cl}
}

// Do makes a request and records it with its outcome, which it returns.
func (c *Client) Do(ctx context.Context, cmd Cmd) *Op {
	op := &Op{ID: c.rec.ids.Add(1), Client: c.id, Cmd: cmd, Call: c.rec.Now()}
	res, err := c.call(ctx, &cmd)
	op.Return = c.rec.Now()
	if err != nil {
		op.Err = err.Error()
		op.Fate = fate(err)
		if op.Fate == Unknown && (mayWrite(&cmd) || cmd.Kind == Compact || cmd.Kind == Grant || cmd.Kind == Revoke) {
			op.Return = Never
		}
	} else {
		op.Fate, op.Result = OK, res
	}
	c.rec.mu.Lock()
	c.rec.h.Ops = append(c.rec.h.Ops, op)
	c.rec.mu.Unlock()
	return op
}

// fate tells what an error says about a request: codes that a server gives before it begins, or
// when it has seen that nothing was changed, are refusals.
func fate(err error) string {
	var known rpctypes.EtcdError
	code := codes.Unknown
	if errors.As(err, &known) {
		code = known.Code()
	} else if s, ok := status.FromError(err); ok {
		code = s.Code()
	}
	if errors.Is(err, rpctypes.ErrNoSpace) || errors.Is(err, rpctypes.ErrTooManyRequests) { // others with their code may come behind the request
		return Refused
	}
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.FailedPrecondition, codes.AlreadyExists, codes.Unimplemented:
		return Refused
	}
	return Unknown
}

func (c *Client) call(ctx context.Context, cmd *Cmd) (*Result, error) {
	switch cmd.Kind {
	case Compact:
		r, err := c.cl.Compact(ctx, cmd.Rev)
		if err != nil {
			return nil, err
		}
		return &Result{Rev: r.Header.GetRevision()}, nil
	case Grant:
		// clientv3 cannot name the id, without which a grant of unknown outcome has no name.
		pb := &etcdserverpb.LeaseGrantRequest{ID: cmd.Lease, TTL: cmd.TTL}
		r, err := etcdserverpb.NewLeaseClient(c.cl.ActiveConnection()).LeaseGrant(ctx, pb)
		if err != nil {
			return nil, err
		}
		return &Result{Rev: r.GetHeader().GetRevision(), TTL: r.GetTTL()}, nil
	case Revoke:
		// clientv3 asks again when it has lost an answer, and takes the second one's word.
		r, err := etcdserverpb.NewLeaseClient(c.cl.ActiveConnection()).LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: cmd.Lease})
		if err != nil {
			return nil, err
		}
		return &Result{Rev: r.GetHeader().GetRevision()}, nil
	case KeepAlive:
		r, err := c.cl.KeepAliveOnce(ctx, clientv3.LeaseID(cmd.Lease))
		if err != nil {
			return nil, err
		}
		return &Result{TTL: r.TTL}, nil
	}
	r, err := c.cl.Do(ctx, toOp(cmd))
	if err != nil {
		return nil, err
	}
	return fromOp(r), nil
}

func toOp(c *Cmd) clientv3.Op {
	var opts []clientv3.OpOption
	if c.End == "\x00" {
		opts = append(opts, clientv3.WithFromKey())
	} else if c.End != "" {
		opts = append(opts, clientv3.WithRange(c.End))
	}
	if c.Prev {
		opts = append(opts, clientv3.WithPrevKV())
	}
	switch c.Kind {
	case Put:
		if c.Lease != 0 {
			opts = append(opts, clientv3.WithLease(clientv3.LeaseID(c.Lease)))
		}
		return clientv3.OpPut(c.Key, c.Value, opts...)
	case Delete:
		return clientv3.OpDelete(c.Key, opts...)
	case Range:
		return clientv3.OpGet(c.Key, append(opts, rangeOptions(c)...)...)
	}
	var cmps []clientv3.Cmp
	for i := range c.Cmps {
		cmps = append(cmps, toCmp(&c.Cmps[i]))
	}
	return clientv3.OpTxn(cmps, toOps(c.Then), toOps(c.Else))
}

func rangeOptions(c *Cmd) (opts []clientv3.OpOption) {
	if c.Rev > 0 {
		opts = append(opts, clientv3.WithRev(c.Rev))
	}
	if c.Limit > 0 {
		opts = append(opts, clientv3.WithLimit(c.Limit))
	}
	if c.CountOnly {
		opts = append(opts, clientv3.WithCountOnly())
	}
	if c.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if c.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	return opts
}

func toOps(cs []Cmd) (out []clientv3.Op) {
	for i := range cs {
		out = append(out, toOp(&cs[i]))
	}
	return out
}

func toCmp(c *Cmp) clientv3.Cmp {
	var base clientv3.Cmp
	var v any = c.Number
	switch c.Target {
	case "value":
		base, v = clientv3.Value(c.Key), c.Value
	case "mod":
		base = clientv3.ModRevision(c.Key)
	case "create":
		base = clientv3.CreateRevision(c.Key)
	case "version":
		base = clientv3.Version(c.Key)
	default:
		base, v = clientv3.LeaseValue(c.Key), clientv3.LeaseID(c.Number)
	}
	if c.End != "" {
		base = base.WithRange(c.End)
	}
	return clientv3.Compare(base, c.Op, v)
}

func fromOp(r clientv3.OpResponse) *Result {
	switch {
	case r.Put() != nil:
		out := fromPut((*etcdserverpb.PutResponse)(r.Put()))
		out.Rev = r.Put().Header.GetRevision()
		return &out
	case r.Get() != nil:
		out := fromRange((*etcdserverpb.RangeResponse)(r.Get()))
		out.Rev = r.Get().Header.GetRevision()
		return &out
	case r.Del() != nil:
		out := fromDelete((*etcdserverpb.DeleteRangeResponse)(r.Del()))
		out.Rev = r.Del().Header.GetRevision()
		return &out
	}
	out := fromTxn((*etcdserverpb.TxnResponse)(r.Txn()))
	out.Rev = r.Txn().Header.GetRevision()
	return &out
}

func fromPut(r *etcdserverpb.PutResponse) Result { return Result{Prev: fromKVOrNil(r.GetPrevKv())} }

func fromRange(r *etcdserverpb.RangeResponse) Result {
	return Result{Kvs: fromKVs(r.GetKvs()), Count: r.GetCount(), More: r.GetMore()}
}

func fromDelete(r *etcdserverpb.DeleteRangeResponse) Result {
	return Result{Deleted: r.GetDeleted(), Kvs: fromKVs(r.GetPrevKvs())}
}

func fromTxn(r *etcdserverpb.TxnResponse) Result {
	out := Result{Succeeded: r.GetSucceeded()}
	for _, in := range r.GetResponses() {
		switch {
		case in.GetResponsePut() != nil:
			out.Results = append(out.Results, fromPut(in.GetResponsePut()))
		case in.GetResponseRange() != nil:
			out.Results = append(out.Results, fromRange(in.GetResponseRange()))
		case in.GetResponseDeleteRange() != nil:
			out.Results = append(out.Results, fromDelete(in.GetResponseDeleteRange()))
		default:
			out.Results = append(out.Results, fromTxn(in.GetResponseTxn()))
		}
	}
	return out
}

func fromKV(kv *mvccpb.KeyValue) KV {
	return KV{
		Key: string(kv.GetKey()), Value: string(kv.GetValue()), Lease: kv.GetLease(),
		Create: kv.GetCreateRevision(), Mod: kv.GetModRevision(), Version: kv.GetVersion(),
	}
}

func fromKVOrNil(kv *mvccpb.KeyValue) *KV {
	if kv == nil {
		return nil
	}
	out := fromKV(kv)
	return &out
}

func fromKVs(kvs []*mvccpb.KeyValue) (out []KV) {
	for _, kv := range kvs {
		out = append(out, fromKV(kv))
	}
	return out
}
