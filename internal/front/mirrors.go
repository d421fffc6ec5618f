package front

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"pontoon/internal/backend"
	"pontoon/internal/etcdapi"
	"pontoon/internal/mirror"
	"pontoon/internal/pb"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/router"
)

// MirrorConfig says what is mirrored in this process. The zero values of its limits take the defaults of mirror.Config.
type MirrorConfig struct {
	// Prefixes are those of the keys that are mirrored in any case; AutoSize is what ranges may take beside that are listed often, 0: there are none. Without
	// both nothing is mirrored.
	Prefixes   []string
	AutoSize   int
	History    time.Duration
	SizeMax    int
	AuditEvery time.Duration
}

// some reports whether anything may be mirrored.
func (c *MirrorConfig) some() bool { return len(c.Prefixes) > 0 || c.AutoSize > 0 }

// mirrors answers lists from memory where it can, and of the router's otherwise. Where nothing is mirrored it is nil.
type mirrors struct {
	set    *mirror.Set
	joined *mirror.Joined[*router.RangeResult]
	router *router.Router
	who    func(ctx context.Context) string
	shared atomic.Int64 // answers that were another one's, too
}

// newMirrors makes what is mirrored of what a backend serves. The feeds come by way of a tee.
func newMirrors(cfg MirrorConfig, b *backend.Backend, r *router.Router, t *tee, log *slog.Logger) *mirrors {
	spans := make([]shard.Span, len(cfg.Prefixes))
	for i, p := range cfg.Prefixes {
		spans[i] = prefixSpan([]byte(p))
	}
	src := replicas{b, r}
	begin, end := t.subscriber(ofMirrors)
	return &mirrors{router: r, set: mirror.New(mirror.Config{
		Spans: spans, Map: b.Cluster.Map, AskMap: b.Cluster.Client.RefreshSoon, Current: b.Cluster.Current, Compacted: b.Cluster.Compacted,
		AskClose: b.Closer.AskClose, Answered: r.Answered, Fence: r.FenceIndex, Read: src.page, Nodes: src.nodes,
		Subscribe: begin, Unsubscribe: end, Expect: func(id shard.RangeID) bool { return t.expect(id, ofMirrors) },
		History: cfg.History, SizeMax: cfg.SizeMax, AutoSize: cfg.AutoSize, AuditEvery: cfg.AuditEvery, Logger: log,
	})}
}

// admit has lists that go to the ranges share the room that all lists have.
func (m *mirrors) admit(l *lists) {
	m.joined, m.who = mirror.NewJoined[*router.RangeResult](l.room), l.who
}

// prefixSpan is the keys that begin with a prefix.
func prefixSpan(prefix []byte) shard.Span {
	end := slices.Clone(prefix)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) > 0 {
		end[len(end)-1]++
	}
	return shard.Span{Start: prefix, End: end}
}

// replicas are those of ranges, which mirrors are built of.
type replicas struct {
	backend *backend.Backend
	router  *router.Router
}

// page asks a node for a page of a range.
func (s replicas) page(ctx context.Context, node shard.NodeID, req *pb.ReadRequest) (*pb.ReadResponse, error) {
	resp, err := s.backend.Peers.Call(ctx, node, &pb.PeerRequest{Read: req})
	if err == nil && resp.Read == nil {
		err = fmt.Errorf("%w: a read was answered without its result", shard.ErrUnavailable)
	}
	return resp.GetRead(), err
}

// nodes lists who has a range: its leader last, which has enough to do, and of the others not always the same first.
func (s replicas) nodes(d *shard.Descriptor) []shard.NodeID {
	nodes := make([]shard.NodeID, 0, len(d.Replicas))
	leader := s.router.Leader(d.ID)
	for i := range d.Replicas {
		if n := d.Replicas[(uint64(i)+uint64(d.ID))%uint64(len(d.Replicas))].Node; n != leader {
			nodes = append(nodes, n)
		}
	}
	if _, ok := d.ReplicaOn(leader); ok {
		nodes = append(nodes, leader)
	}
	return nodes
}

// mirrored is the request for a mirror that a range read is. false: of such a kind none answers. Single keys are read at their leader: that is one way, and
// to have a range closed is two.
func mirrored(op *pb.RangeOp, serializable bool) (*mirror.Request, bool) {
	span := shard.FromEtcd(op.Key, op.RangeEnd)
	filtered := op.MinModRevision != 0 || op.MaxModRevision != 0 || op.MinCreateRevision != 0 || op.MaxCreateRevision != 0
	if len(op.RangeEnd) == 0 || span.IsPoint() || span.Empty() || op.SortTarget != sortByKey || filtered {
		return nil, false
	}
	return &mirror.Request{
		Span: span, Revision: op.Revision, Limit: op.Limit, Reverse: op.SortOrder == sortDescending, KeysOnly: op.KeysOnly, CountOnly: op.CountOnly,
		Serializable: serializable,
	}, true
}

// Values of RangeOp.SortTarget and SortOrder, which are etcd's.
const (
	sortByKey      = 0
	sortDescending = 2
)

// memory answers a list, encoded, from mirrors alone; nil: the ranges have to. ours is false where that is not for mirrors.
func (m *mirrors) memory(ctx context.Context, op *pb.RangeOp, serializable bool) (res *etcdapi.RangeResult, ours bool, err error) {
	if m == nil {
		return nil, false, nil
	}
	req, ok := mirrored(op, serializable)
	if !ok || !m.set.Covers(req.Span) {
		return nil, false, nil
	}
	got, served, err := m.set.Read(ctx, req)
	if err != nil || !served {
		return nil, true, err
	}
	return &etcdapi.RangeResult{Encoded: got.Pieces, Count: got.Count, More: req.Limit > 0 && got.Count > got.Keys && !req.CountOnly, Revision: got.Revision}, true, nil
}

// pages answers a list from mirrors in pages of about so many bytes, of which the last alone has the count. served is false where the ranges have to.
func (m *mirrors) pages(ctx context.Context, op *pb.RangeOp, serializable bool, maxBytes int, fn func(*etcdapi.RangeResult) error) (served bool, err error) {
	last, _, err := m.memory(ctx, op, serializable)
	if last == nil || err != nil {
		return err != nil, err
	}
	left := last.Encoded
	for {
		n, size := 0, 0
		for n < len(left) && (n == 0 || size+len(left[n]) <= maxBytes) {
			size += len(left[n])
			n++
		}
		if n == len(left) {
			break
		}
		if err := fn(&etcdapi.RangeResult{Encoded: left[:n], Revision: last.Revision}); err != nil {
			return true, err
		}
		left = left[n:]
	}
	last.Encoded = left
	return true, fn(last)
}

// read answers a list, encoded: from a mirror, or of one read of the ranges for all who ask for the same. served is false where that is not for mirrors.
func (m *mirrors) read(ctx context.Context, op *pb.RangeOp, serializable bool) (res *etcdapi.RangeResult, served bool, err error) {
	res, ours, err := m.memory(ctx, op, serializable)
	if res != nil || err != nil || !ours {
		return res, ours, err
	}
	key, err := op.MarshalVT()
	if err != nil {
		return nil, false, nil
	}
	if serializable {
		key = append(key, 's') // no field begins like that
	}
	res, shared, err := m.joined.Do(ctx, string(key), m.who(ctx), m.estimate(op), func(ctx context.Context, in *underway.List) (*router.RangeResult, error) {
		return m.router.RangeEncoded(router.WithMeter(ctx, in), op, serializable)
	})
	if shared {
		m.shared.Add(1)
	}
	return res, true, err
}

// estimate is what an answer takes, roughly.
func (m *mirrors) estimate(op *pb.RangeOp) int64 {
	switch {
	case op.CountOnly:
		return 1
	case op.Limit > 0:
		return min(op.Limit*unknownKeyBytes, unknownListBytes)
	}
	return max(m.set.Holds(shard.FromEtcd(op.Key, op.RangeEnd)), unknownListBytes)
}

// held is how many keys are mirrored, and the bytes of these keys and their values.
func (m *mirrors) held() (keys, bytes int64) {
	if m == nil {
		return 0, 0
	}
	st := m.set.Stats()
	return st.Keys, st.Bytes
}

// register registers the figures, which are read at scrape time.
func (m *mirrors) register(gauge, counter func(name, help string, fn func() float64)) {
	of := func(field func(*mirror.Stats) int64) func() float64 {
		return func() float64 {
			st := m.set.Stats()
			return float64(field(&st))
		}
	}
	gauge("pontoon_gateway_mirror_auto_ranges", "Ranges that are listed so often that they are mirrored, whatever prefixes are.", of(func(st *mirror.Stats) int64 { return st.AutoRanges }))
	counter("pontoon_gateway_mirror_auto_taken_total", "Times that a range was begun to be mirrored because it was listed often.", of(func(st *mirror.Stats) int64 { return st.AutoTakenTotal }))
	counter("pontoon_gateway_mirror_auto_dropped_total", "Times that such a range was given up: it was listed less, or another one more, or there was no room.", of(func(st *mirror.Stats) int64 { return st.AutoDroppedTotal }))
	gauge("pontoon_gateway_mirror_parts", "What ranges have of what is mirrored and is in memory, whole.", of(func(st *mirror.Stats) int64 { return st.Parts }))
	gauge("pontoon_gateway_mirror_parts_void", "What ranges have of them and is not: it is read again, or there is no room for it. Lists of it go to the ranges.", of(func(st *mirror.Stats) int64 { return st.PartsVoid }))
	gauge("pontoon_gateway_mirror_bytes", "Keys and values that are mirrored, in bytes.", of(func(st *mirror.Stats) int64 { return st.Bytes }))
	gauge("pontoon_gateway_mirror_history_bytes", "What mirrors remember of earlier states, in bytes.", of(func(st *mirror.Stats) int64 { return st.HistoryBytes }))
	gauge("pontoon_gateway_mirror_keys", "Keys that are mirrored.", of(func(st *mirror.Stats) int64 { return st.Keys }))
	counter("pontoon_gateway_mirror_hits_total", "Lists that were answered by mirrors.", of(func(st *mirror.Stats) int64 { return st.HitsTotal }))
	counter("pontoon_gateway_mirror_misses_total", "Lists of what is mirrored that went to the ranges.", of(func(st *mirror.Stats) int64 { return st.MissesTotal }))
	counter("pontoon_gateway_mirror_builds_total", "Times that what a range has of what is mirrored was read.", of(func(st *mirror.Stats) int64 { return st.BuildsTotal }))
	counter("pontoon_gateway_mirror_void_total", "Times that the mirror of a range was given up.", of(func(st *mirror.Stats) int64 { return st.VoidTotal }))
	counter("pontoon_gateway_mirror_audits_total", "Comparisons of the mirror of a range with a replica.", of(func(st *mirror.Stats) int64 { return st.AuditsTotal }))
	counter("pontoon_gateway_mirror_wrong_total", "Comparisons that found a difference. Anything but 0 is a bug.", of(func(st *mirror.Stats) int64 { return st.WrongTotal }))
	counter("pontoon_gateway_lists_joined_total", "Lists of what is mirrored that were answered by the same read of the ranges as another one.",
		func() float64 { return float64(m.shared.Load()) })
}
