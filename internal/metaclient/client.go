package metaclient

import (
	"context"
	"errors"
	"math/rand/v2"

	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Client asks the leader of the meta group, wherever that is. All methods are safe for concurrent use.
type Client struct {
	caller
	views
	oracle
	settings
	leases
	ops
	members
}

// New returns a client that has asked nobody yet.
func New(cfg Config) *Client {
	cfg.setDefaults()
	c := &Client{caller: caller{cfg: cfg}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.meta.Store(&c.cfg.Meta)
	c.views.init(&c.caller)
	c.settings.init(&c.caller, &c.oracle)
	c.oracle.init(&c.caller, &c.views, &c.settings, rand.Uint64())
	c.leases.init(&c.caller)
	c.ops.calls = &c.caller
	c.members.calls, c.members.views = &c.caller, &c.views
	return c
}

// Close ends every call with shard.ErrUnavailable or, where it had been sent, without saying
// what became of it.
func (c *Client) Close() {
	queue := c.oracle.close()
	c.views.close()
	c.keepAlives.close()
	waiting := c.settings.close()
	c.cancel()
	for _, w := range waiting {
		w.cb(shard.ErrUnavailable)
	}
	for _, r := range queue {
		r.cb(shard.Now{}, shard.ErrUnavailable)
	}
}

// Compact decides that revisions below rev may be dropped, and tells the revision that was current then;
// with physical set it returns when their space is free.
func (c *Client) Compact(ctx context.Context, rev int64, physical bool) (current int64, err error) {
	resp, err := c.one(ctx, &pb.PeerRequest{Compact: &pb.CompactRequest{Revision: rev, Physical: physical}}, true, physical)
	var compacted *shard.CompactedError
	switch {
	case err == nil:
		raise(&c.compact, rev)
	case errors.As(err, &compacted):
		raise(&c.compact, compacted.Revision)
	}
	current = resp.GetCompact().GetRevision()
	c.NoteRevision(current)
	return current, err
}

// Publish makes a member's name and client URLs known to the cluster, and which formats it speaks. A
// member that does not speak the cluster's version is refused.
func (c *Client) Publish(ctx context.Context, id shard.NodeID, name string, clientURLs []string) error {
	req := &pb.MemberAttrsRequest{Id: uint64(id), Name: name, ClientUrls: clientURLs, Formats: uint32(c.cfg.Formats)}
	_, err := c.one(ctx, &pb.PeerRequest{MemberAttrs: req}, false, false)
	return err
}

// Alarm gets, raises or clears alarms (etcd's actions 0, 1, 2) and returns the leader's status
// with those that are raised.
func (c *Client) Alarm(ctx context.Context, action int32, member shard.NodeID, kind int32) (*pb.MetaStatusResponse, error) {
	req := &pb.AlarmRequest{Action: action, MemberId: uint64(member), Alarm: kind}
	resp, err := c.one(ctx, &pb.PeerRequest{Alarm: req}, false, false)
	return resp.GetMetaStatus(), err
}

// SetAlarm raises an alarm of a member or clears it, and returns once that is in force.
func (c *Client) SetAlarm(ctx context.Context, member shard.NodeID, kind int32, raise bool) error {
	action := pb.AlarmClear
	if raise {
		action = pb.AlarmRaise
	}
	_, err := c.Alarm(ctx, action, member, kind)
	return err
}

// ChangeAuth has a change of users and roles decided, and returns once nothing begins anywhere any more under what was before. The errors are those of
// package auth; shard.ErrAmbiguous where it may have been decided. It keeps e.
func (c *Client) ChangeAuth(ctx context.Context, e *pb.MetaAuth) error {
	_, err := c.one(ctx, &pb.PeerRequest{AuthChange: e}, true, false)
	return err
}

// Status returns what the leader of the meta group says of itself.
func (c *Client) Status(ctx context.Context) (*pb.MetaStatusResponse, error) {
	resp, err := c.one(ctx, &pb.PeerRequest{MetaStatus: &pb.MetaStatusRequest{}}, false, false)
	return resp.GetMetaStatus(), err
}

// wait makes a call with a callback into one that blocks.
func wait[T any](ctx context.Context, start func(cb func(T, error))) (T, error) {
	type result struct {
		v   T
		err error
	}
	ch := make(chan result, 1)
	start(func(v T, err error) { ch <- result{v, err} })
	r, err := patience.Wait(ctx, ch)
	if err != nil {
		return r.v, err
	}
	return r.v, r.err
}
