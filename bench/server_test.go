package bench

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// server is a store in memory that speaks etcd v3, as far as workloads need it: key-value requests,
// watches, leases. Its faults are what a benchmark must not be deceived by.
type server struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	etcdserverpb.UnimplementedLeaseServer

	mu     sync.Mutex
	grown  *sync.Cond
	rev    int64           // of the last write
	log    []*mvccpb.Event // in the order of revisions
	now    map[string]*mvccpb.KeyValue
	leases map[int64]*fakeLease
	roles  roles

	compacted int64 // reads at revisions below are refused

	faultAt int // the event of a watcher, or the write, at which a fault happens
	fault   string
}

// The faults of a server.
const (
	dropsEvent    = "an event is not delivered"
	repeatsEvent  = "an event is delivered twice"
	swapsEvents   = "events are out of order"
	changesValue  = "an event has another value"
	noPrev        = "an event has no previous version"
	cancels       = "a watcher is cancelled"
	liesProgress  = "progress is ahead of events"
	endsStream    = "a stream ends when its progress is asked for"
	staleProgress = "progress is of long ago"
	skipsReplay   = "a watch that comes back misses an event"
	replaysMore   = "a watch that comes back gets one again"
	losesWrite    = "an acknowledged write is lost"
	expiresEarly  = "a lease ends early"
	neverExpires  = "a lease never ends"
	forgetsLeases = "leases are gone"
	cutsList      = "a list lacks a key"
	miscounts     = "a list says that there are more"
	staleList     = "a list is older than an acknowledged write"
	oldHeader     = "a list names an old revision"
	swapsKeys     = "a list is out of order"
)

func newServer() *server {
	s := &server{rev: 1, now: map[string]*mvccpb.KeyValue{}, leases: map[int64]*fakeLease{}, faultAt: 20}
	s.grown = sync.NewCond(&s.mu)
	return s
}

// serve makes it reachable without a network, and returns what workloads need to reach it.
func (s *server) serve(t *testing.T, spec Spec) *env {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	etcdserverpb.RegisterKVServer(g, s)
	etcdserverpb.RegisterWatchServer(g, s)
	etcdserverpb.RegisterLeaseServer(g, s)
	etcdserverpb.RegisterAuthServer(g, &s.roles)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	sys := &system{target: Target{Kind: TargetPontoon}, info: SystemInfo{Endpoints: []string{"passthrough:///fake"}}}
	sys.setup.client.New = func(c clientv3.Config) (*clientv3.Client, error) {
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		return clientv3.New(c)
	}
	e := &env{spec: spec, sys: sys, say: func(string) {}}
	for i := range spec.Conns {
		c, err := sys.dial(i)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		e.clients, e.kvs = append(e.clients, c), append(e.kvs, c)
	}
	return e
}

func (s *server) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: s.rev}
}

// write makes a change at a revision of its own; a nil value deletes. The caller holds mu.
func (s *server) write(key string, value []byte, lease int64) {
	s.rev++
	s.change(key, value, lease)
}

// change makes a change at the present revision.
func (s *server) change(key string, value []byte, lease int64) {
	prev, rev := s.now[key], s.rev
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: rev, CreateRevision: rev, Version: 1, Lease: lease}
	ev := &mvccpb.Event{Kv: kv, PrevKv: prev}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	s.now[key] = kv
	if value == nil {
		ev.Type = mvccpb.Event_DELETE
		ev.Kv = &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev}
		delete(s.now, key)
	}
	if s.fault == losesWrite && len(s.log)%s.faultAt == s.faultAt-1 {
		if delete(s.now, key); prev != nil {
			s.now[key] = prev
		}
		ev.Kv = &mvccpb.KeyValue{Key: []byte("\x00lost"), ModRevision: rev} // nobody watches that
	}
	s.log = append(s.log, ev)
	s.grown.Broadcast()
}

func (s *server) Put(_ context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Lease != 0 {
		l := s.leases[r.Lease]
		if l == nil {
			return nil, status.Error(codes.NotFound, "etcdserver: requested lease not found")
		}
		l.keys = append(l.keys, string(r.Key))
	}
	s.write(string(r.Key), r.Value, r.Lease)
	return &etcdserverpb.PutResponse{Header: s.header()}, nil
}

// at is the state at a revision.
func (s *server) at(rev int64) map[string]*mvccpb.KeyValue {
	if rev == 0 {
		return s.now
	}
	m := map[string]*mvccpb.KeyValue{}
	for _, ev := range s.log {
		if ev.Kv.ModRevision > rev {
			break
		}
		if m[string(ev.Kv.Key)] = ev.Kv; ev.Type == mvccpb.Event_DELETE {
			delete(m, string(ev.Kv.Key))
		}
	}
	return m
}

func inSpan(key, from, until []byte) bool {
	if len(until) == 0 {
		return bytes.Equal(key, from)
	}
	return bytes.Compare(key, from) >= 0 && bytes.Compare(key, until) < 0
}

func (s *server) Range(_ context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Revision > 0 && r.Revision < s.compacted {
		return nil, rpctypes.ErrGRPCCompacted
	}
	if len(r.RangeEnd) > 0 && r.Limit == 0 && !r.CountOnly {
		return s.list(r), nil
	}
	return s.read(r), nil
}

// list reads all keys, with the fault.
func (s *server) list(r *etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
	if s.fault == staleList {
		r.Revision = s.rev - 1
	}
	resp := s.read(r)
	switch s.fault {
	case cutsList:
		resp.Kvs = resp.Kvs[1:]
	case miscounts:
		resp.Count++
	case oldHeader:
		resp.Header.Revision--
	case swapsKeys:
		resp.Kvs[0], resp.Kvs[1] = resp.Kvs[1], resp.Kvs[0]
	}
	return resp
}

func (s *server) read(r *etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
	resp := &etcdserverpb.RangeResponse{Header: s.header()}
	for _, kv := range s.at(r.Revision) {
		if inSpan(kv.Key, r.Key, r.RangeEnd) {
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	resp.Count = int64(len(resp.Kvs))
	if r.Limit > 0 && resp.Count > r.Limit {
		resp.Kvs, resp.More = resp.Kvs[:r.Limit], true
	}
	if r.CountOnly {
		resp.Kvs = nil
	}
	return resp
}

// Txn compares revisions and puts, deletes and reads single keys.
func (s *server) Txn(_ context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &etcdserverpb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		if s.now[string(c.Key)].GetModRevision() != c.GetModRevision() {
			resp.Succeeded = false
		}
	}
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
	if slices.ContainsFunc(ops, func(op *etcdserverpb.RequestOp) bool { return op.GetRequestRange() == nil }) {
		s.rev++
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			s.change(string(p.Key), p.Value, p.Lease)
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: &etcdserverpb.PutResponse{}}})
		} else if d := op.GetRequestDeleteRange(); d != nil {
			s.change(string(d.Key), nil, 0)
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &etcdserverpb.DeleteRangeResponse{Deleted: 1}}})
		} else {
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: s.read(op.GetRequestRange())}})
		}
	}
	resp.Header = s.header()
	return resp, nil
}

func (s *server) Compact(context.Context, *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	return &etcdserverpb.CompactionResponse{Header: s.header()}, nil
}

// fakeWatcher is one watcher on a stream.
type fakeWatcher struct {
	id          int64
	from, until []byte
	prev        bool
	next        int // index of the event that it looks at next
	sent        int
	held        *mvccpb.Event // for later, out of order
}

// Watch serves a stream: requests come in here, events go out beside.
func (s *server) Watch(stream etcdserverpb.Watch_WatchServer) error {
	ctx, end := context.WithCancel(stream.Context())
	var watchers []*fakeWatcher
	var asked int
	stop := context.AfterFunc(ctx, func() { s.mu.Lock(); s.grown.Broadcast(); s.mu.Unlock() })
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.mu.Lock()
		defer s.mu.Unlock()
		for ctx.Err() == nil {
			out := s.due(watchers, &asked)
			if len(out) == 0 {
				s.grown.Wait()
				continue
			}
			s.mu.Unlock()
			for _, r := range out {
				_ = stream.Send(r) // the context tells
			}
			s.mu.Lock()
		}
	}()
	defer func() { end(); <-ended }()
	for {
		r, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		s.mu.Lock()
		if c := r.GetCreateRequest(); c != nil {
			w := &fakeWatcher{id: c.WatchId, from: c.Key, until: c.RangeEnd, prev: c.PrevKv, next: len(s.log), sent: -1}
			if c.StartRevision > 0 {
				w.next = sort.Search(len(s.log), func(i int) bool { return s.log[i].Kv.ModRevision >= c.StartRevision })
				if w.next > 0 && s.fault == skipsReplay {
					w.next++
				} else if w.next > 0 && s.fault == replaysMore {
					w.next--
				}
			}
			watchers = append(watchers, w)
		} else if s.fault == endsStream {
			s.mu.Unlock()
			return status.Error(codes.Unavailable, "gone")
		} else {
			asked++
		}
		s.grown.Broadcast()
		s.mu.Unlock()
	}
}

// due takes what is to be sent now.
func (s *server) due(watchers []*fakeWatcher, asked *int) (out []*etcdserverpb.WatchResponse) {
	if *asked > 0 && s.fault == liesProgress {
		out = append(out, s.tells())
		*asked = 0
	}
	for _, w := range watchers {
		if w.sent < 0 {
			w.sent = 0
			out = append(out, &etcdserverpb.WatchResponse{Header: s.header(), WatchId: w.id, Created: true})
		}
		for ; w.next < len(s.log); w.next++ {
			if ev := s.log[w.next]; inSpan(ev.Kv.Key, w.from, w.until) {
				out = append(out, s.carry(w, ev)...)
			}
		}
	}
	for ; *asked > 0; *asked-- {
		out = append(out, s.tells())
	}
	return out
}

func (s *server) tells() *etcdserverpb.WatchResponse {
	h := s.header()
	if s.fault == liesProgress {
		h.Revision += 3
	}
	if s.fault == staleProgress {
		h.Revision = 1
	}
	return &etcdserverpb.WatchResponse{Header: h, WatchId: -1}
}

// carry makes the messages for one event, with the fault if it is its turn.
func (s *server) carry(w *fakeWatcher, ev *mvccpb.Event) []*etcdserverpb.WatchResponse {
	w.sent++
	e := &mvccpb.Event{Type: ev.Type, Kv: ev.Kv, PrevKv: ev.PrevKv}
	if !w.prev {
		e.PrevKv = nil
	}
	events := []*mvccpb.Event{e}
	if w.held != nil {
		events, w.held = append(events, w.held), nil
	}
	if w.sent%s.faultAt == 0 {
		switch s.fault {
		case dropsEvent:
			return nil
		case repeatsEvent:
			events = append(events, e)
		case swapsEvents:
			w.held = e
			return nil
		case changesValue:
			e.Kv = &mvccpb.KeyValue{Key: e.Kv.Key, ModRevision: e.Kv.ModRevision, Value: append([]byte("x"), e.Kv.Value[:max(len(e.Kv.Value)-1, 0)]...)}
		case noPrev:
			e.PrevKv = nil
		case cancels:
			return []*etcdserverpb.WatchResponse{{Header: s.header(), WatchId: w.id, Canceled: true, CancelReason: "on a whim"}}
		}
	}
	return []*etcdserverpb.WatchResponse{{Header: s.header(), WatchId: w.id, Events: events}}
}

// fakeLease ends when its timer says so.
type fakeLease struct {
	ttl   time.Duration
	keys  []string
	timer *time.Timer
}

func (s *server) LeaseGrant(_ context.Context, r *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.ID
	if id == 0 {
		id = int64(len(s.leases)) + 1
	}
	l := &fakeLease{ttl: time.Duration(r.TTL) * time.Second}
	s.leases[id] = l
	l.timer = time.AfterFunc(s.lifetime(l), func() { s.expire(id, l) })
	return &etcdserverpb.LeaseGrantResponse{Header: s.header(), ID: id, TTL: r.TTL}, nil
}

func (s *server) lifetime(l *fakeLease) time.Duration {
	switch s.fault {
	case expiresEarly:
		return l.ttl / 2
	case neverExpires:
		return 10_000 * time.Hour
	}
	return l.ttl
}

func (s *server) expire(id int64, l *fakeLease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[id] != l {
		return
	}
	delete(s.leases, id)
	for _, key := range l.keys {
		s.write(key, nil, 0)
	}
}

func (s *server) LeaseKeepAlive(stream etcdserverpb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil
		}
		s.mu.Lock()
		resp := &etcdserverpb.LeaseKeepAliveResponse{Header: s.header(), ID: r.ID}
		if l := s.leases[r.ID]; l != nil && s.fault != forgetsLeases {
			l.timer.Reset(s.lifetime(l))
			resp.TTL = int64(l.ttl / time.Second)
		}
		s.mu.Unlock()
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

func (s *server) LeaseLeases(context.Context, *etcdserverpb.LeaseLeasesRequest) (*etcdserverpb.LeaseLeasesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &etcdserverpb.LeaseLeasesResponse{Header: s.header()}
	for id := range s.leases {
		resp.Leases = append(resp.Leases, &etcdserverpb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// stopTimers ends what leases have under way.
func (s *server) stopTimers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		l.timer.Stop()
	}
}
