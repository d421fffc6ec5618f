package metaclient

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/clusterversion"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// Caller calls other nodes, as peerrpc.Mesh does. cb is called once, perhaps before CallFunc
// returns, at the latest soon after ctx ends.
type Caller interface {
	CallFunc(ctx context.Context, to shard.NodeID, req *pb.PeerRequest, cb func(*pb.PeerResponse, error))
}

// Oracle is the revision oracle where a replica of the meta group is in this process.
type Oracle interface {
	// AskLeased allocates n revisions, or tells the current one where n is 0, if this replica can do so at
	// once: it leads, with proof, in an epoch that is not below the given one. Otherwise it reports false
	// and has done nothing. It does not block.
	AskLeased(epoch uint64, n int64) (shard.Now, bool)
}

// Config configures a Client. New copies it and fills in defaults.
type Config struct {
	Self  shard.NodeID
	Calls Caller
	// Local is this node's own replica of the meta group: while that leads, the oracle is asked without a
	// message. nil: there is none.
	Local Oracle
	// Meta places the meta group's replicas, as this node was started with: newer places come
	// with the range map.
	Meta shard.Descriptor
	// Members is told of the members in every newer view, in order. It must not block, nor call the client. nil: nobody
	// is.
	Members func(version uint64, members []shard.Member)
	// Formats is the newest version of the formats that this build speaks. Default clusterversion.Newest.
	Formats clusterversion.Version
	// ElectionTimeout bounds one attempt of a call that should be answered at once. Default 1 s.
	ElectionTimeout time.Duration
	// Patience bounds a call with its retries. Default 5 s and two election timeouts.
	Patience time.Duration
	// OraclePatience bounds a question to the oracle with its retries. Default Patience.
	OraclePatience time.Duration
	// CallsMax is how many oracle calls may be under way, and AskedMax how many may be asking in them
	// for another call to begin: under load those that come wait for a call to return, and share the
	// next one. Defaults 3 and 8.
	CallsMax, AskedMax int
	// Now and After are the clock: After calls fn once, later, unless stop is called first.
	// Defaults time.Now and time.AfterFunc.
	Now   func() time.Time
	After func(d time.Duration, fn func()) (stop func())
	// Rand draws from [0,1) to spread retries. Default rand.Float64.
	Rand func() float64
}

const (
	// The pause before the next replica is asked grows between these, with jitter.
	retryPauseMin = 5 * time.Millisecond
	retryPauseMax = 250 * time.Millisecond
	// hopsMax is how many hints are followed without a pause.
	hopsMax = 3
	// queueMax bounds the oracle requests that wait for a call, the keep-alives, and who waits for a view.
	queueMax = 1 << 16
	// allocateMax bounds what one oracle call allocates.
	allocateMax = 1 << 20
)

func (c *Config) setDefaults() {
	if c.ElectionTimeout <= 0 {
		c.ElectionTimeout = time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 5*time.Second + 2*c.ElectionTimeout
	}
	if c.OraclePatience <= 0 {
		c.OraclePatience = c.Patience
	}
	if c.CallsMax <= 0 {
		c.CallsMax = 3
	}
	if c.AskedMax <= 0 {
		c.AskedMax = 8
	}
	if c.Formats == 0 {
		c.Formats = clusterversion.Newest
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.After == nil {
		c.After = func(d time.Duration, fn func()) func() {
			t := time.AfterFunc(d, fn)
			return func() { t.Stop() }
		}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
}

// View is what a node knows of the cluster. Values are immutable.
type View struct {
	Map       *shard.Map // nil before the first answer; its version is the view's
	ClusterID uint64
	Members   []shard.Member
	Meta      shard.Descriptor
	Version   clusterversion.Version // of the formats; 0 before the first answer: only the first may be written
}

// Client asks the leader of the meta group, wherever that is. All methods are safe for
// concurrent use; none holds a lock while it calls.
type Client struct {
	cfg Config

	epoch    atomic.Uint64 // the highest seen
	revision atomic.Int64  // the newest seen
	compact  atomic.Int64  // the highest compaction revision seen
	leader   atomic.Uint64 // the node that answered last; 0: unknown
	rotate   atomic.Uint64 // which replica to try next when nobody is known to lead
	asker    uint64        // this client's name in questions to the oracle
	seq      atomic.Uint64 // of its last question
	view     atomic.Pointer[View]

	ctx    context.Context
	cancel context.CancelFunc

	keepAlives keepAlives

	mu struct {
		sync.Mutex
		closed   bool
		queue    []oracleAsk // in order of arrival
		underWay int         // calls
		asked    int         // in them
		sending  bool
		fetching bool
		fetchers []func(error) // wait for the fetch under way
		next     []func(error) // came later: for the one after it
		changed  chan struct{}
	}
}

// New returns a client that has asked nobody yet.
func New(cfg Config) *Client {
	cfg.setDefaults()
	c := &Client{cfg: cfg, asker: rand.Uint64()}
	c.keepAlives.c = c
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.mu.changed = make(chan struct{})
	c.view.Store(&View{Meta: cfg.Meta})
	return c
}

// Close ends every call with shard.ErrUnavailable or, where it had been sent, without saying
// what became of it.
func (c *Client) Close() {
	c.mu.Lock()
	c.mu.closed = true
	queue := c.mu.queue
	c.mu.queue = nil
	c.mu.Unlock()
	c.keepAlives.close()
	c.cancel()
	for _, a := range queue {
		a.cb(shard.Now{}, shard.ErrUnavailable)
	}
}

// Epoch is the highest epoch that this node has seen: the meta group's term.
func (c *Client) Epoch() shard.Epoch { return shard.Epoch(c.epoch.Load()) }

// Revision is the newest revision that this node has seen. It may be behind.
func (c *Client) Revision() int64 { return c.revision.Load() }

// Compacted is the highest compaction revision that an answer of the meta group has named or
// acknowledged to this node. It may be behind; what Current answers is not.
func (c *Client) Compacted() int64 { return c.compact.Load() }

// NoteEpoch tells of an epoch that came with some message: oracle answers below it do not count
// any more.
func (c *Client) NoteEpoch(e shard.Epoch) { raise(&c.epoch, uint64(e)) }

// NoteRevision tells of a revision that came with some message.
func (c *Client) NoteRevision(rev int64) { raise(&c.revision, rev) }

func raise[T int64 | uint64](v interface {
	Load() T
	CompareAndSwap(old, now T) bool
}, to T) {
	for old := v.Load(); to > old && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// Leader is the node that is believed to lead the meta group; 0 when unknown.
func (c *Client) Leader() shard.NodeID { return shard.NodeID(c.leader.Load()) }

// target picks whom to ask.
func (c *Client) target() shard.NodeID {
	if n := c.Leader(); n != 0 {
		return n
	}
	rs := c.view.Load().Meta.Replicas
	if len(rs) == 0 {
		return c.cfg.Self
	}
	return rs[c.rotate.Load()%uint64(len(rs))].Node
}

// attempt is one call with its retries.
type attempt struct {
	c        *Client
	req      *pb.PeerRequest
	deadline time.Time
	ctx      context.Context // the caller's; nil: none
	// once: the call must not be sent again after an outcome that is not known, and so gets all
	// the time there is.
	once bool
	// long: the answer may take as long as the patience, or with once set as the caller waits.
	long  bool
	check func(*pb.PeerResponse) bool // false: throw the answer away and ask again
	done  func(*pb.PeerResponse, error)

	hops, tries int
}

// call sends req until it is answered for good or patience ends. done is called once and must
// not block.
func (c *Client) call(a *attempt) {
	a.c = c
	if a.ctx == nil {
		a.ctx = c.ctx
	}
	if a.deadline.IsZero() {
		a.deadline = c.cfg.Now().Add(c.cfg.Patience)
	}
	a.send()
}

func (a *attempt) send() {
	c := a.c
	left := a.deadline.Sub(c.cfg.Now())
	switch {
	case c.ctx.Err() != nil:
		a.done(nil, shard.ErrUnavailable)
		return
	case a.ctx.Err() != nil || left <= 0:
		a.done(nil, shard.ErrTimeout)
		return
	}
	limit := c.cfg.ElectionTimeout
	if a.long || a.once || limit > left {
		limit = left
	}
	a.req.Epoch, a.req.Revision = c.epoch.Load(), c.revision.Load()
	to := c.target()
	ctx, cancel := a.ctx, func() {}
	if !a.long || !a.once {
		ctx, cancel = context.WithTimeout(a.ctx, limit)
	}
	c.cfg.Calls.CallFunc(ctx, to, a.req, func(resp *pb.PeerResponse, err error) {
		cancel()
		a.answered(to, resp, err)
	})
}

// answered judges an answer: for good, or again elsewhere.
func (a *attempt) answered(from shard.NodeID, resp *pb.PeerResponse, err error) {
	c := a.c
	if err == nil && (a.check == nil || a.check(resp)) {
		c.leader.Store(uint64(from))
		a.done(resp, nil)
		return
	}
	again, follow := a.judge(from, err)
	if !again {
		a.done(nil, err)
		return
	}
	a.tries++
	if follow && a.hops < hopsMax {
		a.hops++
		a.send()
		return
	}
	a.hops = 0
	pause := min(retryPauseMin<<min(a.tries, 10), retryPauseMax)
	pause = time.Duration(float64(pause) * (0.5 + c.cfg.Rand()/2))
	pause = min(pause, max(a.deadline.Sub(c.cfg.Now()), 0))
	c.cfg.After(pause, a.send)
}

// Current asks for the current revision: at least every revision acknowledged before the call.
func (c *Client) Current(ctx context.Context) (shard.Now, error) {
	return wait(ctx, func(cb func(shard.Now, error)) { c.NowFunc(cb) })
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

// Members returns the members as the leader knows them now.
func (c *Client) Members(ctx context.Context) ([]shard.Member, error) {
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	return c.View().Members, nil
}

// View returns the newest known view.
func (c *Client) View() *View { return c.view.Load() }

// Active reports whether a feature may be written: every member is known to read it. It may be behind, and
// never ahead.
func (c *Client) Active(f clusterversion.Feature) bool { return c.View().Version.Active(f) }

// Map returns the newest known range map, nil before the first answer.
func (c *Client) Map() *shard.Map { return c.view.Load().Map }

// Changed returns a channel that is closed when a newer view than the present one is known.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.changed
}

// Refresh fetches the view that the leader has now.
func (c *Client) Refresh(ctx context.Context) error {
	_, err := wait(ctx, func(cb func(struct{}, error)) { c.RefreshFunc(func(err error) { cb(struct{}{}, err) }) })
	return err
}

// RefreshFunc is Refresh with a callback, which must not block. Those who come while a fetch is
// under way share the next one.
func (c *Client) RefreshFunc(cb func(error)) {
	c.mu.Lock()
	if c.mu.closed || len(c.mu.next) >= queueMax {
		err := shard.ErrUnavailable
		if !c.mu.closed {
			err = shard.ErrTooManyRequests
		}
		c.mu.Unlock()
		cb(err)
		return
	}
	c.mu.next = append(c.mu.next, cb)
	c.fetchUnlock()
}

// fetchUnlock begins a fetch if somebody waits and none is under way, and releases mu.
func (c *Client) fetchUnlock() {
	if c.mu.fetching || len(c.mu.next) == 0 {
		c.mu.Unlock()
		return
	}
	c.mu.fetching = true
	c.mu.fetchers, c.mu.next = c.mu.next, nil
	c.mu.Unlock()
	req := &pb.PeerRequest{Descriptors: &pb.DescriptorsRequest{}}
	if m := c.Map(); m != nil {
		req.Descriptors.KnownVersion = m.Version()
	}
	c.call(&attempt{req: req, done: func(resp *pb.PeerResponse, err error) {
		if err == nil {
			err = c.learn(resp.Descriptors)
		}
		c.mu.Lock()
		cbs := c.mu.fetchers
		c.mu.fetchers, c.mu.fetching = nil, false
		c.fetchUnlock()
		for _, cb := range cbs {
			cb(err)
		}
	}})
}

// learn takes in a view, unless it is older than what is known.
func (c *Client) learn(d *pb.DescriptorsResponse) error {
	if len(d.GetRanges()) == 0 {
		return nil // nothing new
	}
	m, err := shard.NewMap(d.Version, pb.ToDescriptors(d.Ranges))
	if err != nil {
		return err
	}
	v := &View{Map: m, ClusterID: d.ClusterId, Members: pb.ToMembers(d.Members), Meta: pb.ToDescriptor(d.Meta),
		Version: clusterversion.Version(d.ClusterVersion).OrFirst()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.view.Load(); old.Map != nil && old.Map.Version() >= m.Version() {
		return nil
	}
	c.view.Store(v)
	if c.cfg.Members != nil {
		c.cfg.Members(m.Version(), v.Members)
	}
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
	return nil
}

// noteVersion fetches the view in the background if an answer speaks of a newer one.
func (c *Client) noteVersion(version uint64) {
	if m := c.Map(); version == 0 || m != nil && m.Version() >= version {
		return
	}
	c.mu.Lock()
	if c.mu.closed || c.mu.fetching || len(c.mu.next) > 0 {
		c.mu.Unlock()
		return
	}
	c.mu.next = append(c.mu.next, func(error) {}) // a failure shows again with the next answer
	c.fetchUnlock()
}
