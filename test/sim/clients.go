package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
)

const clientCount = 7

// client asks one thing after another.
type client struct {
	w    *world
	id   int
	op   *op   // under way
	life *life // that it asks
	idle bool
	who  *userSlot // who asks for what is drawn; nil: root, or anybody
	page *op       // the last page of a list that had more
	turn int       // tells answers to what was given up from others
	lists
}

// lists is what a client lists again and again. The zero value is nothing.
type lists struct {
	at   *node  // that answers lists from memory
	from []byte // the first key
}

// draw draws whether to list, and what.
func (l *lists) draw(c *client) *pb.RangeOp {
	if l.at == nil || c.who != nil || !c.w.roll(0.5) {
		return nil
	}
	if l.from == nil || c.w.roll(0.03) {
		l.from = c.key()
	}
	return &pb.RangeOp{Key: []byte{l.from[0]}, RangeEnd: []byte{l.from[0], '9'}}
}

func (w *world) beginClients() {
	for i := range clientCount {
		c := &client{w: w, id: i}
		w.clients = append(w.clients, c)
		for _, g := range w.gateways {
			if g.mirrors && w.roll(0.3) {
				c.at = g
			}
		}
		w.after(w.between(500*time.Millisecond, 2*time.Second), fmt.Sprintf("client %d", i), func() {
			if c.turn == 0 { // else it was hurried, and has begun
				c.next()
			}
		})
	}
}

// endLoad lets no further operation begin.
func (w *world) endLoad() {
	for _, c := range w.clients {
		c.idle = true
	}
}

// clientsLost tells clients that the node that they talked to has died.
func (w *world) clientsLost(l *life) {
	for _, c := range w.clients {
		if c.life == l {
			c.lost()
		}
	}
}

func (c *client) lost() {
	c.turn++
	c.life = nil
	if c.op != nil {
		c.w.hist.end(c.op, answer{err: shard.ErrAmbiguous})
		c.op = nil
	}
	c.again()
}

func (c *client) again() {
	pause := c.w.between(0, 120*time.Millisecond)
	switch {
	case c.w.roll(0.2):
		pause = 0
	case c.w.roll(0.1):
		pause = c.w.scaled(time.Millisecond, 3*time.Second)
	}
	turn := c.turn
	c.w.after(pause, fmt.Sprintf("client %d", c.id), func() {
		if c.turn == turn {
			c.next()
		}
	})
}

// hurry has clients that rest go on at once: what somebody was told of just now holds for them.
func (w *world) hurry() {
	for _, c := range w.clients {
		if c.life != nil || c.idle || w.roll(0.3) {
			continue
		}
		c.turn++
		turn := c.turn
		w.after(w.between(0, 2*time.Millisecond), fmt.Sprintf("client %d", c.id), func() {
			if c.turn == turn {
				c.next()
			}
		})
	}
}

// next begins the next operation.
func (c *client) next() {
	w := c.w
	if c.idle {
		return
	}
	l := w.someLife()
	if l == nil {
		c.again()
		return
	}
	if g := c.at; g != nil && g.life != nil && g.life.alive && w.roll(0.6) {
		l = g.life
	}
	c.life = l
	w.stats.Ops++
	switch p := w.rng.Float64(); {
	case p < 0.07:
		c.leaseCall()
	case p < 0.08:
		c.compact()
	default:
		c.who = w.admin.facts.draw()
		o := c.draw()
		if c.who != nil && o.write != nil {
			stripLeases(o.write)
		}
		o.life = c.life
		o.demand = w.admin.facts.demand(c.who, o)
		c.request(o)
	}
}

func (w *world) someLife() *life {
	for range 10 {
		all := w.processes()
		if n := all[w.rng.IntN(len(all))]; n.life != nil && n.life.alive {
			return n.life
		}
	}
	return nil
}

// request carries out a read or a write.
func (c *client) request(o *op) {
	w := c.w
	o.client = c.id
	c.op = o
	ctx, cancel := context.WithCancel(c.life.ctx)
	if !w.cfg.Calm && w.roll(0.1) { // a write that is not waited for may be dropped with its revision
		ctx, cancel = context.WithTimeout(c.life.ctx, w.scaled(time.Millisecond, 3*time.Second))
	}
	c.perform(func() func() {
		a := o.perform(ctx)
		cancel()
		return func() {
			w.note("op %d: %v %v %v", o.id, a.rev, a.wrote, a.err)
			c.op = nil
			w.hist.end(o, a)
			if o.read != nil && a.err == nil && o.found.More && len(o.found.KVs) > 0 {
				c.page = o
			}
		}
	})
}

// perform runs what blocks beside the loop, and what it returns on it, unless the client has given up.
func (c *client) perform(what func() func()) {
	turn := c.turn
	go func() {
		fn := what()
		c.w.post(fmt.Sprintf("done %d", c.id), 0, func() {
			if c.turn != turn {
				return
			}
			c.turn++
			c.life = nil
			fn()
			c.again()
		})
	}()
}

// key draws one, mostly one to which the client may have a right.
func (c *client) key() []byte {
	for {
		k := c.w.layout.keys[c.w.rng.IntN(len(c.w.layout.keys))]
		if c.who == nil || c.who.span.Contains(k) || c.w.roll(0.05) {
			return k
		}
	}
}

// span draws a key and an end: of one range, or of several.
func (c *client) span(wide bool) (key, end []byte) {
	w := c.w
	key = c.key()
	if wide && w.roll(0.5) {
		if w.roll(0.2) {
			return []byte{0}, []byte{0}
		}
		other := c.key()
		if string(other) < string(key) {
			key, other = other, key
		}
		return key, append(other, 0)
	}
	return key, []byte{key[0], '9'}
}

// draw invents an operation and records that it begins.
func (c *client) draw() *op {
	w := c.w
	o := &op{}
	w.hist.begin(o)
	if o.read = c.lists.draw(c); o.read != nil {
		return o
	}
	if w.audits && w.roll(0.4) {
		o.write = &pb.Op{Txn: c.audit()}
		return o
	}
	switch p := w.rng.Float64(); {
	case p < 0.34:
		o.write = c.put(o.id, 0)
	case p < 0.42:
		o.write = c.deletion()
	case p < 0.62:
		o.write = &pb.Op{Txn: c.txn(o.id)}
	case p < 0.70:
		o.write = &pb.Op{Txn: c.audit()}
	default:
		c.drawRead(o)
	}
	return o
}

func (c *client) drawRead(o *op) {
	w := c.w
	if p := c.page; p != nil && w.roll(0.7) { // goes on with a list, at the revision of its first page
		last := p.found.KVs[len(p.found.KVs)-1].Key
		o.read = &pb.RangeOp{Key: append(bytes.Clone(last), 0), RangeEnd: p.read.RangeEnd, Limit: p.read.Limit, Revision: p.at()}
		c.page = nil
		return
	}
	o.read = &pb.RangeOp{Key: c.key()}
	if w.roll(0.5) {
		o.read.Key, o.read.RangeEnd = c.span(true)
		o.read.Limit = int64(w.pick(0, 0, 0, 1, 3))
		o.read.CountOnly = o.read.Limit == 0 && w.roll(0.1)
	}
	o.serial = w.roll(0.15)
	if w.roll(0.2) && w.hist.acked > 2 {
		o.read.Revision = max(1, w.hist.acked-int64(w.rng.IntN(30)))
		if w.roll(0.05) {
			o.read.Revision = w.hist.acked + int64(w.rng.IntN(5))
		}
	}
}

// value names the operation that writes it.
func (c *client) value(id, n int) []byte {
	v := fmt.Appendf(nil, "v%d/%d", id, n)
	if c.w.roll(0.2) {
		v = append(append(v, '/'), make([]byte, c.w.rng.IntN(400))...)
	}
	return v
}

func (c *client) put(id, n int) *pb.Op {
	p := &pb.PutOp{Key: c.key(), Value: c.value(id, n), PrevKv: c.w.roll(0.3)}
	if b := c.w.leases; len(b.alive) > 0 && c.w.roll(0.15) {
		p.Lease = b.alive[c.w.rng.IntN(len(b.alive))]
	}
	return &pb.Op{Put: p}
}

func (c *client) deletion() *pb.Op {
	d := &pb.DeleteOp{Key: c.key(), PrevKv: c.w.roll(0.5)}
	if c.w.roll(0.3) {
		d.Key, d.RangeEnd = c.span(c.w.cfg.Multi)
	}
	return &pb.Op{Delete: d}
}

// txn draws compares and two branches, over the keys of one range or of several. No key is put twice.
func (c *client) txn(id int) *pb.TxnOp {
	w := c.w
	home := c.key()[0]
	wide := w.cfg.Multi && w.roll(0.4)
	key := func() []byte {
		if wide {
			return c.key()
		}
		return []byte{home, byte('0' + w.rng.IntN(keysPerRange))}
	}
	b := &branches{c: c, id: id, key: key, readOnly: w.roll(0.25)}
	t := &pb.TxnOp{}
	b.fill(t, map[string]bool{})
	return t
}

// audit reads several keys at one revision, some of them in one range.
func (c *client) audit() *pb.TxnOp {
	b := &branches{c: c, readOnly: true}
	t := &pb.TxnOp{}
	for range 2 + c.w.rng.IntN(4) {
		t.Success = append(t.Success, b.read(c.key()))
	}
	return t
}

// branches draws the parts of one transaction.
type branches struct {
	c        *client
	id       int
	key      func() []byte
	readOnly bool // an audit: nothing in it writes, whatever its compares say
	depth    int
	values   int
}

// fill draws compares and branches into t; used has the keys that are written already on the way to it.
func (b *branches) fill(t *pb.TxnOp, used map[string]bool) {
	w, key := b.c.w, b.key
	for range w.rng.IntN(3) {
		cmp := &pb.Compare{Key: key(), Target: int32(w.pick(0, 1, 2)), Result: int32(w.rng.IntN(4))}
		if cmp.Target != 0 {
			cmp.Number = max(0, w.hist.acked-int64(w.rng.IntN(40)))
		} else {
			cmp.Number = int64(w.rng.IntN(3))
		}
		if w.roll(0.1) {
			cmp.RangeEnd = []byte{cmp.Key[0], '9'}
		}
		t.Compare = append(t.Compare, cmp)
	}
	t.Success, t.Failure = b.branch(used), b.branch(maps.Clone(used))
}

func (b *branches) branch(used map[string]bool) []*pb.Op {
	c, w := b.c, b.c.w
	var ops []*pb.Op
	for range w.rng.IntN(4) {
		k := b.key()
		if b.readOnly || w.roll(0.2) {
			ops = append(ops, b.read(k))
			continue
		}
		if b.depth < 2 && w.roll(0.15) {
			inner := &pb.TxnOp{}
			b.depth++
			b.fill(inner, used)
			b.depth--
			ops = append(ops, &pb.Op{Txn: inner})
			continue
		}
		if used[string(k)] {
			continue
		}
		used[string(k)] = true
		if w.roll(0.75) {
			p := c.put(b.id, b.values)
			b.values++
			p.Put.Key = k
			ops = append(ops, p)
		} else {
			ops = append(ops, &pb.Op{Delete: &pb.DeleteOp{Key: k, PrevKv: w.roll(0.5)}})
		}
	}
	return ops
}

// read draws a read of one key, of some of a range's, or of how many there are.
func (b *branches) read(k []byte) *pb.Op {
	w := b.c.w
	r := &pb.RangeOp{Key: k}
	if w.roll(0.5) {
		r.RangeEnd = []byte{k[0], '9'}
		r.Limit = int64(w.pick(0, 0, 1, 3))
		r.CountOnly = r.Limit == 0 && w.roll(0.3)
	}
	return &pb.Op{Range: r}
}

// compact compacts near the newest revision, or far from it.
func (c *client) compact() {
	w, l := c.w, c.life
	rev := w.hist.acked - int64(w.pick(0, 3, 20, 60))
	if rev < 1 {
		rev = 1
	}
	w.hist.compacted = max(w.hist.compacted, rev)
	physical := w.roll(0.2)
	c.perform(func() func() {
		_, err := l.router.Compact(l.ctx, rev, physical)
		return func() { w.note("compact %d: %v", rev, err) }
	})
}

// leaseCall grants, renews or revokes.
func (c *client) leaseCall() {
	w, b, l := c.w, c.w.leases, c.life
	began := time.Now()
	if len(b.alive) == 0 || w.roll(0.25) && len(b.alive) < 6 {
		id, ttl := b.next, int64(2+w.rng.IntN(6))
		b.next++
		if w.roll(0.2) && id > 1000 {
			id = 1000 + w.rng.Int64N(id-1000) // one that was there before, or still is
		}
		if b.byID[id] == nil {
			b.byID[id] = &leaseNote{}
		}
		c.perform(func() func() {
			lease, err := l.client.Grant(l.ctx, id, ttl)
			return func() { c.granted(id, lease.TTL, began, err) }
		})
		return
	}
	i := w.rng.IntN(len(b.alive))
	id := b.alive[i]
	if w.roll(0.15) {
		b.revoke(id, began)
		if w.roll(0.5) {
			b.alive = append(b.alive[:i:i], b.alive[i+1:]...)
		}
		c.perform(func() func() {
			_, err := l.client.Revoke(l.ctx, id)
			return func() { w.note("revoke %d: %v", id, err) }
		})
		return
	}
	c.perform(func() func() {
		lease, err := l.client.KeepAlive(l.ctx, id)
		return func() { c.keptAlive(id, lease.TTL, began, err) }
	})
}

func (c *client) granted(id, ttl int64, began time.Time, err error) {
	w, b := c.w, c.w.leases
	w.note("grant %d: %v", id, err)
	switch {
	case err == nil:
		b.renewed(id, began, time.Now(), ttl)
	case errors.Is(err, shard.ErrLeaseExists) || fate(err) == failed:
		return
	}
	for _, have := range b.alive {
		if have == id {
			return
		}
	}
	b.alive = append(b.alive, id)
}

func (c *client) keptAlive(id, ttl int64, began time.Time, err error) {
	b := c.w.leases
	c.w.note("keep alive %d: %d %v", id, ttl, err)
	if err != nil {
		return
	}
	if ttl > 0 {
		b.renewed(id, began, time.Now(), ttl)
		return
	}
	for i, have := range b.alive {
		if have == id {
			b.alive = append(b.alive[:i:i], b.alive[i+1:]...)
			return
		}
	}
}
