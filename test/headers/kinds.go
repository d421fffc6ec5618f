package headers

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// kind is one kind of call.
type kind struct {
	name string
	// local: a member answers from its own memory, so that only what it has acknowledged itself is a bound.
	local bool
	// stale: what is answered may be as old as it likes.
	stale bool
	// call makes one through the worker, times it with do, and says what was done and shown.
	call func(ctx context.Context, w *worker, c *call) error
}

// putKind is also what others prepare themselves with.
var putKind = &kind{name: "put", call: put}

// kinds is every kind of call that has a header with a revision.
var kinds = []*kind{
	putKind,
	{name: "delete", call: del},
	{name: "delete of nothing", call: delNothing},
	{name: "txn that writes", call: txnWrites},
	{name: "txn that compares and writes nothing", call: txnReads},
	{name: "txn that reads", call: txnReadOnly},
	{name: "range", call: rangeKeys},
	{name: "range over everything", call: rangeAll},
	{name: "serializable range", local: true, stale: true, call: rangeSerializable},
	{name: "grant", call: grant},
	{name: "grant that is used at once", call: grantRaced},
	{name: "revoke with keys", call: revokeKeys},
	{name: "revoke without keys", call: revokeNothing},
	{name: "revoke of keys that are gone", call: revokeGone},
	{name: "keep-alive", local: true, call: keepAlive},
	{name: "time to live", local: true, call: timeToLive},
	{name: "time to live with keys", local: true, call: timeToLiveKeys},
	{name: "leases", local: true, call: leases},
	{name: "compact", call: compact},
}

// head is the revision of a header, where there is one.
func head[T any](resp *T, err error, of func(*T) *etcdserverpb.ResponseHeader) (int64, error) {
	if err != nil {
		return 0, err
	}
	return of(resp).Revision, nil
}

func put(ctx context.Context, w *worker, c *call) error {
	key, value := w.key(w.rounds, "put"), w.r.value()
	c.wrote = []event{{key: key, value: value}}
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Put(ctx, key, value)
		return head(resp, err, func(r *clientv3.PutResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

// del deletes two keys by one range.
func del(ctx context.Context, w *worker, c *call) error {
	prefix := w.key(w.rounds, "del/")
	for _, name := range []string{"a", "b"} {
		if err := w.prepare(ctx, prefix+name); err != nil {
			return err
		}
		c.wrote = append(c.wrote, event{key: prefix + name, del: true})
	}
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Delete(ctx, prefix, clientv3.WithPrefix())
		return head(resp, err, func(r *clientv3.DeleteResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

func delNothing(ctx context.Context, w *worker, c *call) error {
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Delete(ctx, w.key(w.rounds, "nothing"))
		return head(resp, err, func(r *clientv3.DeleteResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

// txnWrites writes in every part at once.
func txnWrites(ctx context.Context, w *worker, c *call) error {
	var ops []clientv3.Op
	for part := range w.r.opt.Prefixes {
		e := event{key: w.key(part, "txn"), value: w.r.value()}
		ops, c.wrote = append(ops, clientv3.OpPut(e.key, e.value)), append(c.wrote, e)
	}
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Txn(ctx).Then(ops...).Commit()
		return head(resp, err, func(r *clientv3.TxnResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

// txnReads would write, if a key were there that is not.
func txnReads(ctx context.Context, w *worker, c *call) error {
	return w.do(c, func() (int64, error) {
		key := w.key(w.rounds, "never")
		resp, err := w.cli().Txn(ctx).If(clientv3.Compare(clientv3.Version(key), ">", 0)).
			Then(clientv3.OpPut(key, "x")).Else(clientv3.OpGet(w.key(w.rounds+1, "txn"))).Commit()
		if err == nil {
			c.saw = shown(w.key(w.rounds+1, "txn"), resp.Responses[0].GetResponseRange())
		}
		return head(resp, err, func(r *clientv3.TxnResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

// txnReadOnly reads one part, of all workers.
func txnReadOnly(ctx context.Context, w *worker, c *call) error {
	prefix := w.r.opt.Prefixes[w.rounds%len(w.r.opt.Prefixes)] + w.r.tag
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Txn(ctx).Then(clientv3.OpGet(prefix, clientv3.WithPrefix())).Commit()
		if err == nil {
			c.saw = shown(prefix, resp.Responses[0].GetResponseRange())
		}
		return head(resp, err, func(r *clientv3.TxnResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

func rangeKeys(ctx context.Context, w *worker, c *call) error {
	return get(ctx, w, c, w.key(w.rounds, "txn"))
}

func rangeAll(ctx context.Context, w *worker, c *call) error {
	return get(ctx, w, c, "", clientv3.WithFromKey())
}

func rangeSerializable(ctx context.Context, w *worker, c *call) error {
	return get(ctx, w, c, w.r.opt.Prefixes[w.rounds%len(w.r.opt.Prefixes)]+w.r.tag, clientv3.WithPrefix(), clientv3.WithSerializable())
}

func get(ctx context.Context, w *worker, c *call, key string, opts ...clientv3.OpOption) error {
	return w.do(c, func() (int64, error) {
		from := key
		if from == "" {
			from = "\x00"
		}
		resp, err := w.cli().Get(ctx, from, opts...)
		if err == nil {
			c.saw = shown(key, (*etcdserverpb.RangeResponse)(resp))
			for k := range c.saw.keys {
				if !w.r.mine(k) {
					delete(c.saw.keys, k)
				}
			}
		}
		return head(resp, err, func(r *clientv3.GetResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

func shown(prefix string, r *etcdserverpb.RangeResponse) *content {
	c := &content{prefix: prefix, keys: map[string]version{}}
	for _, kv := range r.Kvs {
		c.keys[string(kv.Key)] = version{kv.ModRevision, string(kv.Value)}
	}
	return c
}

// lease names a lease that nobody has named.
func (w *worker) lease() int64 { return w.r.leases.Add(1) }

const leaseTTL = 600 // seconds: none expires

// granted creates a lease with a name of the worker's choice.
func (w *worker) granted(ctx context.Context, client int, id int64) (*etcdserverpb.LeaseGrantResponse, error) {
	lc := etcdserverpb.NewLeaseClient(w.r.clients[client].ActiveConnection())
	return lc.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: id, TTL: leaseTTL})
}

func grantHead(resp *etcdserverpb.LeaseGrantResponse, err error) (int64, error) {
	return head(resp, err, func(r *etcdserverpb.LeaseGrantResponse) *etcdserverpb.ResponseHeader { return r.Header })
}

func grant(ctx context.Context, w *worker, c *call) error {
	return w.do(c, func() (int64, error) { return grantHead(w.granted(ctx, w.client, w.lease())) })
}

// grantRaced lets another client put a key with the lease as soon as it can.
func grantRaced(ctx context.Context, w *worker, c *call) error {
	id, key, value := w.lease(), w.key(w.rounds, "raced"), w.r.value()
	other := (w.client + 1) % len(w.r.clients)
	p := &call{kind: putKind, client: other, wrote: []event{{key: key, value: value}}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	used := make(chan error, 1)
	go func() {
		for {
			err := w.do(p, func() (int64, error) {
				resp, err := w.r.clients[other].Put(ctx, key, value, clientv3.WithLease(clientv3.LeaseID(id)))
				return head(resp, err, func(r *clientv3.PutResponse) *etcdserverpb.ResponseHeader { return r.Header })
			})
			if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				used <- err
				return
			}
		}
	}()
	err := w.do(c, func() (int64, error) { return grantHead(w.granted(ctx, w.client, id)) })
	if err != nil {
		cancel()
	}
	if putErr := <-used; err != nil || putErr != nil {
		return errors.Join(err, putErr)
	}
	c.after = p.rev
	w.r.note(p)
	return nil
}

func revoke(ctx context.Context, w *worker, c *call, id int64) error {
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Revoke(ctx, clientv3.LeaseID(id))
		return head(resp, err, func(r *clientv3.LeaseRevokeResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
}

// revokeKeys revokes a lease with a key in each of up to all parts of the key space.
func revokeKeys(ctx context.Context, w *worker, c *call) error {
	id := w.lease()
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	for part := range 1 + w.rounds%len(w.r.opt.Prefixes) {
		key := w.key(part, fmt.Sprintf("leased%d", id))
		if err := w.prepare(ctx, key, clientv3.WithLease(clientv3.LeaseID(id))); err != nil {
			return err
		}
		c.wrote = append(c.wrote, event{key: key, del: true})
	}
	return revoke(ctx, w, c, id)
}

func revokeNothing(ctx context.Context, w *worker, c *call) error {
	id := w.lease()
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	return revoke(ctx, w, c, id)
}

// revokeGone revokes a lease whose one key has lost it.
func revokeGone(ctx context.Context, w *worker, c *call) error {
	id, key := w.lease(), w.key(w.rounds, "overwritten")
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	if err := w.prepare(ctx, key, clientv3.WithLease(clientv3.LeaseID(id))); err != nil {
		return err
	}
	if err := w.prepare(ctx, key); err != nil {
		return err
	}
	return revoke(ctx, w, c, id)
}

func keepAlive(ctx context.Context, w *worker, c *call) error {
	id := w.lease()
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	stream, err := etcdserverpb.NewLeaseClient(w.cli().ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	err = w.do(c, func() (int64, error) {
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return 0, err
		}
		resp, err := stream.Recv()
		return head(resp, err, func(r *etcdserverpb.LeaseKeepAliveResponse) *etcdserverpb.ResponseHeader { return r.Header })
	})
	return errors.Join(err, stream.CloseSend())
}

func timeToLive(ctx context.Context, w *worker, c *call) error {
	id := w.lease()
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().TimeToLive(ctx, clientv3.LeaseID(id))
		return head(resp, err, func(r *clientv3.LeaseTimeToLiveResponse) *etcdserverpb.ResponseHeader { return r.ResponseHeader })
	})
}

func timeToLiveKeys(ctx context.Context, w *worker, c *call) error {
	id := w.lease()
	if _, err := w.granted(ctx, w.client, id); err != nil {
		return err
	}
	if err := w.prepare(ctx, w.key(w.rounds, "ttl"), clientv3.WithLease(clientv3.LeaseID(id))); err != nil {
		return err
	}
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().TimeToLive(ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
		return head(resp, err, func(r *clientv3.LeaseTimeToLiveResponse) *etcdserverpb.ResponseHeader { return r.ResponseHeader })
	})
}

func leases(ctx context.Context, w *worker, c *call) error {
	return w.do(c, func() (int64, error) {
		resp, err := w.cli().Leases(ctx)
		return head(resp, err, func(r *clientv3.LeaseLeasesResponse) *etcdserverpb.ResponseHeader { return r.ResponseHeader })
	})
}

// compact forgets what is below what the watch has told of. Somebody else may have been faster: then it
// tries again, higher.
func compact(ctx context.Context, w *worker, c *call) error {
	if err := w.prepare(ctx, w.key(0, "compacted")); err != nil {
		return err
	}
	for {
		err := w.do(c, func() (int64, error) {
			rev, err := w.r.history.seen()
			if err != nil {
				return 0, err
			}
			resp, err := w.cli().Compact(ctx, rev)
			return head(resp, err, func(r *clientv3.CompactResponse) *etcdserverpb.ResponseHeader { return r.Header })
		})
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
	}
}
