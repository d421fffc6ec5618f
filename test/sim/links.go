package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"pontoon/internal/link"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// feedRetry is the pause before a feed is looked for again.
const feedRetry = 100 * time.Millisecond

// framesUnderWay is how many frames of a link may be under way: what comes meanwhile waits, and is dropped where too much does.
const framesUnderWay = 1

// links are those of one life of a node, at both ends. They belong to the loop.
type links struct {
	f       *fans
	out     []*simLink                  // by which others have feeds from here, in the order in which they came
	in      map[shard.NodeID]*simLink   // by which feeds come
	served  map[shard.RangeID]*link.Fan // who listens to what is published here
	from    map[shard.RangeID]*simLink  // from where a range's feed comes
	tries   map[shard.RangeID]int       // nodes that were asked for it so far
	starved map[shard.RangeID]time.Time // since when nobody is found who has it
	resumes resumes
	narrows narrows
	ticking bool
}

// simLink is a link from one node to another.
type simLink struct {
	from, to *life
	source   *link.Source
	sink     *link.Sink
	flying   int  // frames under way
	said     bool // something, since the last tick
	lost     bool // something of it was lost: nothing comes any more until it breaks
	broken   bool
}

func (x *links) init(f *fans) {
	x.f, x.in, x.served = f, map[shard.NodeID]*simLink{}, map[shard.RangeID]*link.Fan{}
	x.from, x.tries, x.starved = map[shard.RangeID]*simLink{}, map[shard.RangeID]int{}, map[shard.RangeID]time.Time{}
	x.resumes.init(x)
	x.narrows.init(x)
}

func (x *links) world() *world { return x.f.l.n.w }

// handOut brings what was published to links: of a range that was cut before what came of its child, which has the higher id.
func (f *fans) handOut() {
	f.mu.Lock()
	fresh := f.fresh
	f.fresh = nil
	f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(fresh)) {
		for _, item := range fresh[id] {
			f.links.publish(id, item)
		}
	}
	f.links.flush()
}

// publish gives an item to those who listen by links.
func (x *links) publish(id shard.RangeID, item shard.FeedItem) {
	fan := x.fan(id)
	fan.Take(&item)
	if b := item.Border; b != nil && x.served[b.Child] == nil { // otherwise the child has come to be here in another way
		fan.HandBorder(id, item, x.fan(b.Child))
		return
	}
	fan.Hand(id, item)
}

func (x *links) fan(id shard.RangeID) *link.Fan {
	if x.served[id] == nil {
		x.served[id] = &link.Fan{}
	}
	return x.served[id]
}

// follow sees that the feed of a range comes from where it is to be had, if the own hub wants it, or not at all.
func (x *links) follow(id shard.RangeID, pause time.Duration) {
	x.world().post(fmt.Sprintf("follow %d/%d", x.f.l.n.id, id), pause+time.Millisecond, func() { x.look(id) })
}

func (x *links) look(id shard.RangeID) {
	l := x.f.l
	switch lk := x.from[id]; {
	case !l.alive:
		return
	case x.f.wants(id) == 0 || l.holds(id):
		x.rest(id)
		return
	case lk != nil:
		if !lk.sink.Confirm(id) {
			delete(x.from, id)
			x.follow(id, feedRetry)
		}
		return
	}
	node, ok := x.choose(id)
	if !ok {
		x.starve(id)
		x.follow(id, feedRetry)
		return
	}
	delete(x.starved, id)
	lk := x.in[node.n.id]
	if lk == nil {
		lk = &simLink{from: node, to: l, source: link.NewSource(link.Limits{Bytes: 1 << 10, Turn: 512, Frame: 1 << 10}), sink: link.NewSink()}
		x.in[node.n.id] = lk
		node.fans.out = append(node.fans.out, lk)
		node.fans.tick()
		x.tick()
	}
	x.from[id] = lk
	lk.sink.Subscribe(id, x.narrows.begin(id)...)
	lk.ask()
}

// starve tells those who listen that a feed is not to be had here, when nobody has been found for a while.
func (x *links) starve(id shard.RangeID) {
	switch since, is := x.starved[id]; {
	case !is:
		x.starved[id] = time.Now()
	case time.Since(since) > 3*link.Interval && x.served[id] != nil:
		delete(x.starved, id)
		x.left(id)
	}
}

// choose picks the node to have a range's feed from.
func (x *links) choose(id shard.RangeID) (*life, bool) {
	l, w := x.f.l, x.world()
	d, known := l.find(id)
	var nodes []shard.NodeID
	for _, r := range d.Replicas {
		if r.Node != l.n.id {
			nodes = append(nodes, r.Node)
		}
	}
	if !known || len(nodes) == 0 {
		return nil, false
	}
	link.Rank(l.n.id, id, nodes)
	if above := l.n.above; above != nil && above.life != nil && !above.paused {
		nodes = append([]shard.NodeID{above.id}, nodes...)
	}
	at := w.node(nodes[x.tries[id]%len(nodes)])
	x.tries[id]++
	if at == nil || at.life == nil || at.paused || w.net.link(l.n.id, at.id).cut || w.net.link(at.id, l.n.id).cut {
		return nil, false
	}
	return at.life, true
}

// rest lets a range's feed come no more.
func (x *links) rest(id shard.RangeID) {
	x.resumes.forget(id)
	delete(x.narrows.whole, id)
	if lk := x.from[id]; lk != nil {
		delete(x.from, id)
		lk.sink.Unsubscribe(id)
		lk.ask()
	}
}

// gone says that a link brings the feed of a range no more.
func (x *links) gone(lk *simLink, ids []shard.RangeID, pause time.Duration) {
	for _, id := range ids {
		if x.from[id] != lk {
			continue
		}
		delete(x.from, id)
		x.resumes.broke(id)
		if x.f.leave(id) {
			x.follow(id, pause)
		} else {
			x.resumes.forget(id)
		}
	}
}

// left ends what others have of a range that is here no more.
func (x *links) left(id shard.RangeID) {
	if fan := x.served[id]; fan != nil {
		fan.End(id)
		delete(x.served, id)
		x.flush()
	}
}

// flush sends what waits on the links by which others have feeds from here.
func (x *links) flush() {
	for _, lk := range slices.Clone(x.out) {
		lk.flush()
	}
}

// broken ends every link that this process serves.
func (x *links) broken() {
	for _, lk := range slices.Clone(x.out) {
		lk.end(x.world().scaled(time.Millisecond, 4*time.Second))
	}
}

// tick lets the links of both ends say that they are there, and notice that one has not.
func (x *links) tick() {
	if x.ticking {
		return
	}
	x.ticking = true
	x.world().after(link.Interval, fmt.Sprintf("links %d", x.f.l.n.id), func() {
		x.ticking = false
		if !x.f.l.alive || len(x.in)+len(x.out) == 0 {
			return
		}
		x.tick()
		if x.f.l.n.paused {
			return
		}
		for _, lk := range slices.Clone(x.out) {
			if !lk.said {
				lk.send(&pb.LinkFrame{})
			}
			lk.said = false
		}
		for _, lk := range slices.SortedFunc(maps.Values(x.in), func(a, b *simLink) int { return cmp.Compare(a.from.n.id, b.from.n.id) }) {
			gone, dead := lk.sink.Tick()
			x.gone(lk, gone, 0)
			lk.ask()
			if dead {
				x.world().stats.Silent++
				lk.end(feedRetry)
			}
		}
	})
}

// way is that of a link from one of its ends to the other.
func (lk *simLink) way(back bool) *way {
	from, to := lk.from.n, lk.to.n
	if back {
		from, to = to, from
	}
	return from.w.net.link(from.id, to.id)
}

// carry brings something to the other end, behind what was sent before. What is lost on its way is never followed by anything: the
// link breaks, or stays silent until somebody notices.
func (lk *simLink) carry(back bool, what string, arrive func()) {
	w, way := lk.from.n.w, lk.way(back)
	lose := func() {
		if lk.lost || lk.broken {
			return
		}
		lk.lost = true
		if w.roll(0.5) {
			w.after(w.scaled(time.Millisecond, 4*time.Second), "a link breaks", func() { lk.end(feedRetry) })
		}
	}
	if way.cut || w.roll(way.drop/20) {
		lose()
		return
	}
	w.push(later(&way.calls, w.net.delay(way)), what, func() {
		to := lk.to
		if back {
			to = lk.from
		}
		if way.cut || !to.alive {
			lose()
			return
		}
		to.n.receive(func(now *life) {
			if now == to && !lk.broken && !lk.lost {
				arrive()
			}
		})
	})
}

// ask says what the sink wants.
func (lk *simLink) ask() {
	req := lk.sink.Ask()
	if req == nil || lk.broken {
		return
	}
	body, err := req.MarshalVT()
	if err != nil {
		panic("sim: a request does not marshal: " + err.Error())
	}
	lk.carry(true, "ask for feeds", func() {
		in := &pb.LinkRequest{}
		if err := in.UnmarshalVT(body); err != nil {
			panic("sim: a request does not unmarshal: " + err.Error())
		}
		lk.answer(in)
	})
}

// answer does what the other end asks for.
func (lk *simLink) answer(req *pb.LinkRequest) {
	x := &lk.from.fans.links
	for _, id := range pb.ToRangeIDs(req.Unsubscribe) {
		if fan := x.served[id]; fan != nil {
			fan.Leave(lk)
		}
		lk.source.Detach(id)
		lk.from.fans.passes(id)
	}
	for _, m := range req.Spans {
		if err := lk.source.Ask(m); err != nil {
			lk.from.n.w.failf("link from %d to %d: %w", lk.from.n.id, lk.to.n.id, err)
		}
	}
	for _, id := range pb.ToRangeIDs(req.Subscribe) {
		rep, here := lk.from.reps.Get(id)
		if !here && !lk.from.n.front {
			lk.source.End(id)
			continue
		}
		known := x.fan(id).Listen(id, lk)
		if here && !known {
			rep.Resync()
		}
		lk.from.fans.passes(id)
	}
	lk.flush()
}

// flush sends what waits, as far as there is room on the way.
func (lk *simLink) flush() {
	for lk.flying < framesUnderWay && !lk.broken {
		fr, err := lk.source.Next()
		if err != nil {
			panic("sim: " + err.Error())
		}
		if fr == nil {
			return
		}
		lk.send(fr)
	}
}

func (lk *simLink) send(fr *pb.LinkFrame) {
	body, err := fr.MarshalVT()
	if err != nil {
		panic("sim: a frame does not marshal: " + err.Error())
	}
	lk.said = true
	lk.flying++
	lk.carry(false, fmt.Sprintf("feeds %d>%d", lk.from.n.id, lk.to.n.id), func() {
		lk.from.n.w.note("%x", body)
		in := &pb.LinkFrame{}
		if err := in.UnmarshalVT(body); err != nil {
			panic("sim: a frame does not unmarshal: " + err.Error())
		}
		x := &lk.to.fans.links
		gone, err := lk.sink.Take(in, taker{x, lk})
		if err != nil {
			lk.from.n.w.failf("link from %d to %d: %w", lk.from.n.id, lk.to.n.id, err)
		}
		x.gone(lk, gone, feedRetry)
		lk.ask()
		lk.flying--
		if lk.from.alive && !lk.from.n.paused {
			lk.flush()
		}
	})
}

// end breaks a link; the other end looks elsewhere when it has noticed.
func (lk *simLink) end(pause time.Duration) {
	if lk.broken {
		return
	}
	lk.broken = true
	x, out := &lk.to.fans.links, &lk.from.fans.links
	out.out = slices.DeleteFunc(out.out, func(o *simLink) bool { return o == lk })
	for _, id := range slices.Sorted(maps.Keys(out.served)) {
		out.served[id].Leave(lk)
		lk.from.fans.passes(id)
	}
	w := lk.from.n.w
	w.stats.Broken++
	w.stats.Dropped += int(lk.source.Drops())
	if x.in[lk.from.n.id] == lk {
		delete(x.in, lk.from.n.id)
	}
	if lk.to.alive {
		x.gone(lk, lk.sink.Wanted(), pause)
	}
}

// Attach implements link.Listener.
func (lk *simLink) Attach(id shard.RangeID, begin shard.FeedItem) { lk.source.Attach(id, begin) }

// Publish implements link.Listener.
func (lk *simLink) Publish(id shard.RangeID, it *link.Item) { lk.source.Publish(id, it) }

// PublishBorder implements link.Listener.
func (lk *simLink) PublishBorder(id shard.RangeID, it *link.Item) bool {
	return lk.source.PublishBorder(id, it) && !lk.broken
}

// End implements link.Listener.
func (lk *simLink) End(id shard.RangeID) { lk.source.End(id) }

// taker is the hub of the node to which a link leads.
type taker struct {
	x  *links
	lk *simLink
}

// Publish implements link.Taker.
func (t taker) Publish(id shard.RangeID, item shard.FeedItem) {
	if t.x.from[id] == t.lk {
		t.x.resumes.publish(id, item)
	}
}

// Inherit implements link.Taker.
func (t taker) Inherit(parent, child shard.RangeID) bool {
	if t.x.from[child] != nil || t.x.f.l.holds(child) || !t.x.f.join(parent, child) {
		return false
	}
	t.x.from[child] = t.lk
	t.x.world().stats.Inherited++
	return true
}
