package sim

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"pontoon/internal/mirror"
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// mirrors answer lists of a gateway from memory, and are compared with replicas again and again.
type mirrors struct {
	f   *fans
	set *mirror.Set
	wg  sync.WaitGroup
}

func newMirrors(f *fans) *mirrors {
	l, m := f.l, &mirrors{f: f}
	spans := []shard.Span{shard.All}
	if l.n.auto > 0 { // what is listed often, within so many bytes
		spans = nil
	}
	m.set = mirror.New(mirror.Config{
		Spans: spans, AutoSize: l.n.auto, AutoFloor: 1, Map: l.client.Map, AskMap: func() { l.client.RefreshFunc(func(error) {}) },
		Current: l.client.Current, Compacted: l.client.Compacted, AskClose: l.closer.AskClose, Answered: l.router.Answered, Fence: l.router.FenceIndex,
		Read: m.page, Nodes: m.nodes, Subscribe: m.subscribe, Unsubscribe: func(id shard.RangeID) { f.drop(id, ofMirror) }, Expect: m.expect,
		History: 3 * time.Second, AuditEvery: 2 * time.Second,
	})
	m.wg.Go(func() { m.set.Run(l.ctx) })
	return m
}

// listed tells mirrors of lists that went to the ranges.
func (f *fans) listed(id shard.RangeID, span shard.Span, bytes, sofar int) {
	if m := f.mirrors; m != nil {
		m.set.Listed(id, span, bytes, sofar)
	}
}

func (m *mirrors) page(ctx context.Context, node shard.NodeID, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	resp, err := m.f.l.port.Call(ctx, node, &pb.PeerRequest{Read: req})
	if err == nil && resp.Read == nil {
		err = shard.ErrUnavailable
	}
	return resp.GetRead(), err
}

func (m *mirrors) nodes(d *shard.Descriptor) (nodes []shard.NodeID) {
	for _, r := range d.Replicas {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

// subscribe lets the feed of a range come here, which begins with a gap where it flows already, for others.
func (m *mirrors) subscribe(id shard.RangeID) {
	f := m.f
	f.l.n.w.post(fmt.Sprintf("mirror %d/%d", f.l.n.id, id), 0, func() {
		f.mu.Lock()
		was := f.wanted[id]
		f.wanted[id] |= ofMirror
		delete(f.joined, id)
		f.mu.Unlock()
		if was&ofMirror == 0 && was != 0 {
			f.begin(id, ofMirror)
		}
		f.follow(id, 0)
		f.widen(id)
	})
}

// expect lets the feed of a child come here from its first item on, unless it had begun before.
func (m *mirrors) expect(child shard.RangeID) bool {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	whole := f.joined[child] || f.wanted[child] == 0
	f.wanted[child] |= ofMirror
	return whole
}

// read answers a list. false: the ranges have to.
func (m *mirrors) read(ctx context.Context, op *pb.RangeOp, serial bool) (*router.RangeResult, bool, error) {
	if len(op.RangeEnd) == 0 {
		return nil, false, nil
	}
	res, served, err := m.set.Read(ctx, &mirror.Request{
		Span: shard.FromEtcd(op.Key, op.RangeEnd), Revision: op.Revision, Limit: op.Limit, KeysOnly: op.KeysOnly, CountOnly: op.CountOnly, Serializable: serial,
	})
	if err != nil || !served {
		return nil, served, err
	}
	list := &etcdserverpb.RangeResponse{}
	if err := proto.Unmarshal(bytes.Join(res.Pieces, nil), list); err != nil {
		panic("sim: what a mirror answers is no list: " + err.Error())
	}
	out := &router.RangeResult{Count: res.Count, More: op.Limit > 0 && res.Count > res.Keys && !op.CountOnly, Revision: res.Revision}
	for _, kv := range list.Kvs {
		out.KVs = append(out.KVs, &pb.KeyValue{
			Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
		})
	}
	return out, true, nil
}

// end looks whether a comparison has found a difference. It returns what there was.
func (m *mirrors) end() mirror.Stats {
	m.wg.Wait()
	return m.set.Stats()
}
