package front

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/patience"
	"pontoon/shard"
)

const (
	// movesAtOnce is how many feeds move together: one question to the oracle is for all of them. movesPause lies between two such moves.
	movesAtOnce = 128
	movesPause  = 10 * time.Millisecond
	// movesLook is how often it is looked how they fare, and movePatience bounds what they wait for.
	movesLook    = 5 * time.Millisecond
	movePatience = time.Second
	// movesEvery is how often it is looked whether feeds are to be had from a gateway above that come from members. One that did not move is left alone for as long.
	movesEvery = 5 * time.Second
)

// keptMax bounds what all moves together keep of new sources. One that would keep more fails.
const keptMax = 64 << 20

// moves brings feeds from one source to another while both bring them: from one that is about to stop, and from members to a gateway above that is there again. Where a
// source has broken, what it would have brought is read from history: see replays.
type moves struct {
	f       *feeds
	replays *replays
	wake    chan struct{} // a source is about to stop
	retired atomic.Bool   // this process is about to stop itself, and moves nothing
	moved   atomic.Uint64
	active  atomic.Int64 // of byID
	kept    atomic.Int64 // bytes

	mu   sync.Mutex
	byID map[shard.RangeID]*moving // as many as feeds
}

// moving is one feed on its way from one link to another.
type moving struct {
	id       shard.RangeID
	from, to *inlet // from is nil where it has broken

	mu    sync.Mutex // orders what both links bring; taken after those of the links
	rule  *link.Move
	state moveState
	kept  int // of moves.kept
}

type moveState uint8

const (
	moveBoth     moveState = iota // from brings the feed, and what to brings is kept
	moveSwitched                  // to brings it
	moveStays                     // from goes on bringing it
	moveCancelled
)

func newMoves(f *feeds) *moves {
	m := &moves{f: f, wake: make(chan struct{}, 1), byID: map[shard.RangeID]*moving{}}
	m.replays = newReplays(m)
	return m
}

func (m *moves) get(id shard.RangeID) *moving {
	if m.active.Load() == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byID[id]
}

// publish takes an item from a source, and publishes what is to be of it.
func (m *moves) publish(in *inlet, id shard.RangeID, item shard.FeedItem) {
	mv := m.get(id)
	if mv == nil {
		if !item.Gap || !m.replays.begin(in, id, item) {
			m.f.bring(id, item)
		}
		return
	}
	mv.mu.Lock()
	defer mv.mu.Unlock()
	switch {
	case mv.state == moveCancelled:
	case mv.state == moveSwitched && in == mv.to:
		if out, says := mv.rule.After(item); says {
			m.f.bring(id, out)
		}
		m.replays.settle(mv)
	case mv.state != moveSwitched && in == mv.from:
		m.f.bring(id, item)
		mv.rule.Old(&item)
		m.turn(mv)
	case mv.state == moveBoth && in == mv.to:
		mv.rule.New(item)
		m.turn(mv)
		m.replays.check(mv, &item)
	}
}

// turn lets the new link bring the feed from here on, if it can. The caller holds mv.mu.
func (m *moves) turn(mv *moving) {
	if mv.state != moveBoth {
		return
	}
	defer m.count(mv)
	items, done := mv.rule.Done()
	if !done {
		return
	}
	if !m.turned(mv) {
		mv.rule.Fail()
		return
	}
	mv.state = moveSwitched
	if mv.from != nil {
		m.moved.Add(1)
	}
	for _, item := range items {
		m.f.bring(mv.id, item)
	}
	m.replays.settle(mv)
}

// count notes what is kept. Where that is too much for all, this one fails. The caller holds mv.mu.
func (m *moves) count(mv *moving) {
	was := mv.kept
	mv.kept = mv.rule.Kept()
	if m.kept.Add(int64(mv.kept-was)) > keptMax && mv.kept > was {
		mv.rule.Fail()
		m.kept.Add(int64(-mv.kept))
		mv.kept = 0
	}
}

// turned notes that a feed comes by another link.
func (m *moves) turned(mv *moving) bool {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if mv.from == nil {
		return f.comesFrom(mv.to, mv.id)
	}
	r := f.remote[mv.id]
	if r == nil || r.from != mv.from {
		return false
	}
	r.from, r.tries, r.stay = mv.to, 0, time.Time{}
	return true
}

// cancel ends what is being moved of a feed that has ended: nothing of it is published when it has returned.
func (m *moves) cancel(id shard.RangeID) {
	if mv := m.get(id); mv != nil {
		m.end(mv, moveCancelled)
	}
}

// lost hears that a link does not bring a feed any more.
func (m *moves) lost(in *inlet, id shard.RangeID) {
	mv := m.get(id)
	if mv == nil {
		return
	}
	mv.mu.Lock()
	state := mv.state
	mv.mu.Unlock()
	switch {
	case in == mv.from && state == moveSwitched, in != mv.from && in != mv.to:
	case in == mv.to && state == moveBoth:
		m.end(mv, moveStays)
	default:
		m.end(mv, moveCancelled)
	}
}

// end ends a move that is not over. What has come to be meanwhile stays so, but for one that is cancelled.
func (m *moves) end(mv *moving, how moveState) {
	mv.mu.Lock()
	if mv.state == moveBoth || how == moveCancelled {
		mv.state = how
		mv.rule.Fail()
		m.count(mv)
	}
	state := mv.state
	mv.mu.Unlock()
	if state != moveStays && mv.from != nil {
		mv.from.unsubscribe(mv.id)
	}
	if state != moveSwitched {
		mv.to.unsubscribe(mv.id)
	}
	m.leave(mv)
}

// enter begins a move, unless there is one of its feed.
func (m *moves) enter(mv *moving) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID[mv.id] != nil {
		return false
	}
	m.byID[mv.id] = mv
	m.active.Add(1)
	return true
}

// leave ends what enter began.
func (m *moves) leave(mv *moving) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID[mv.id] == mv {
		delete(m.byID, mv.id)
		m.active.Add(-1)
	}
}

// run moves what is to be moved.
func (m *moves) run() {
	ctx := m.f.ctx
	tick := time.NewTicker(movesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-tick.C:
		}
		for batch := m.pick(time.Now()); len(batch) > 0; batch = m.pick(time.Now()) {
			m.carry(ctx, batch)
			if patience.Pause(ctx, movesPause) != nil {
				return
			}
		}
		for _, in := range m.left() {
			in.stay()
		}
	}
}

// retire lets feeds stay where they are: this process is about to stop.
func (m *moves) retire() {
	m.retired.Store(true)
	patience.Wake(m.wake)
}

// left are the links to nodes that are about to stop, which bring feeds that did not move.
func (m *moves) left() (ins []*inlet) {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range f.inlets {
		if in.leaving.Load() {
			ins = append(ins, in)
		}
	}
	return ins
}

// pick are some of the feeds that are to be moved now, with the links to which.
func (m *moves) pick(now time.Time) (batch []*moving) {
	if m.retired.Load() {
		return nil
	}
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if !m.due() {
		return nil
	}
	for id, r := range f.remote {
		if r.from == nil || r.heir || r.stay.After(now) || len(batch) >= movesAtOnce {
			continue
		}
		leaving := r.from.leaving.Load()
		nodes, gateways := f.sources(id, now)
		if !leaving {
			nodes = nodes[:gateways]
		}
		if len(nodes) == 0 || !leaving && slices.Contains(nodes, r.from.node) {
			continue
		}
		if to := f.openTo(nodes[0]); to != r.from {
			r.stay = now.Add(movesEvery)
			batch = append(batch, &moving{id: id, from: r.from, to: to})
		}
	}
	return batch
}

// due reports whether there may be feeds that are to move. The caller holds feeds.mu.
func (m *moves) due() bool {
	f := m.f
	if len(f.chain.upstreams(nil)) > 0 {
		return true
	}
	for _, in := range f.inlets {
		if in.leaving.Load() {
			return true
		}
	}
	return false
}

// carry moves some feeds. Those that cannot be moved stay where they are.
func (m *moves) carry(ctx context.Context, batch []*moving) {
	batch = slices.DeleteFunc(batch, func(mv *moving) bool { return !m.begin(mv) })
	attaching, cancel := context.WithTimeout(ctx, movePatience/2)
	await(attaching, batch, func(mv *moving) bool { return mv.rule.Attached() || mv.rule.Failed() })
	cancel()
	ctx, cancel = context.WithTimeout(ctx, movePatience)
	defer cancel()
	now, err := m.f.backend.Cluster.Current(ctx)
	if err == nil {
		ids := make([]shard.RangeID, 0, len(batch))
		for _, mv := range batch {
			mv.mu.Lock()
			if mv.rule.Attached() {
				mv.rule.Whole(now.Revision)
				m.turn(mv)
				ids = append(ids, mv.id)
			}
			mv.mu.Unlock()
		}
		if len(ids) > 0 {
			m.f.backend.Closer.AskClose(now.Revision, ids)
		}
		await(ctx, batch, func(mv *moving) bool { return mv.rule.Failed() || mv.rule.Settled() })
	}
	for _, mv := range batch {
		m.finish(mv)
	}
}

// begin lets both links bring a feed.
func (m *moves) begin(mv *moving) bool {
	if mv.rule = mv.from.leavable(mv.id); mv.rule == nil || !m.enter(mv) {
		return false
	}
	if !m.comes(mv) || !mv.to.also(mv.id) {
		m.end(mv, moveStays)
		return false
	}
	return true
}

// comes reports whether a feed still comes by the link from which it is to be moved.
func (m *moves) comes(mv *moving) bool {
	f := m.f
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.remote[mv.id]
	return r != nil && r.from == mv.from
}

// finish ends a move as it stands. One whose new source is behind what the old one has brought goes on being held against that.
func (m *moves) finish(mv *moving) {
	mv.mu.Lock()
	behind := mv.state == moveSwitched && !mv.rule.Settled()
	mv.mu.Unlock()
	if !behind {
		m.end(mv, moveStays)
		return
	}
	mv.from.unsubscribe(mv.id)
	time.AfterFunc(movePatience, func() { m.finish(mv) })
}

// await returns when all are as is wanted, or with ctx.
func await(ctx context.Context, batch []*moving, is func(*moving) bool) {
	for _, mv := range batch {
		for {
			mv.mu.Lock()
			ok := is(mv)
			mv.mu.Unlock()
			if ok {
				break
			}
			if patience.Pause(ctx, movesLook) != nil {
				return
			}
		}
	}
}
