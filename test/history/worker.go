package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// worker is one client at work. It remembers what it was shown, to make conditions of it.
type worker struct {
	l    *Load
	c    *Client
	id   int
	rng  *rand.Rand
	mods map[string]KV // as last seen
	rev  int64         // the last one that an answer named

	lease  int64 // 0: none
	leases int64
}

func (w *worker) run(ctx context.Context) {
	for pause(ctx, w.l.cfg.Pause) {
		if w.rng.IntN(100) < 6 {
			w.leaseStep(ctx)
			continue
		}
		op := w.l.do(ctx, w.c, w.command())
		if op.Fate == OK {
			w.learn(&op.Cmd, op.Result)
			w.rev = max(w.rev, op.Result.Rev)
		} else {
			pause(ctx, 20*time.Millisecond) // whoever answers errors at once is not helped by more
		}
	}
}

func (w *worker) learn(c *Cmd, r *Result) {
	for _, kv := range r.Kvs {
		if c.Kind == Range && c.Rev == 0 {
			w.mods[kv.Key] = kv
		}
	}
	branch := c.Else
	if r.Succeeded {
		branch = c.Then
	}
	for i := range r.Results {
		w.learn(&branch[i], &r.Results[i])
	}
}

// value is never used again.
func (w *worker) value() string {
	return fmt.Sprintf("c%d.%d", w.id, w.l.values.Add(1))
}

func (w *worker) prefix() string { return w.l.cfg.Prefixes[w.rng.IntN(len(w.l.cfg.Prefixes))] }

func (w *worker) keyIn(prefix string) string {
	return fmt.Sprintf("%sk%02d", prefix, w.rng.IntN(w.l.cfg.Keys))
}

func (w *worker) leased(prefix string) string {
	return fmt.Sprintf("%sl%02d", prefix, w.rng.IntN(w.l.cfg.Keys))
}

func (w *worker) key() string { return w.keyIn(w.prefix()) }

func end(prefix string) string { return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1) }

// command chooses one.
func (w *worker) command() Cmd {
	switch dice := w.rng.IntN(100); {
	case dice < 24:
		return Cmd{Kind: Put, Key: w.key(), Value: w.value(), Prev: dice%2 == 0}
	case dice < 36:
		return Cmd{Kind: Range, Key: w.key()}
	case dice < 50:
		return w.list()
	case dice < 56:
		return Cmd{Kind: Delete, Key: w.key(), Prev: dice%2 == 0}
	case dice < 59:
		return w.deleteSpan()
	case dice < 76:
		return w.swap()
	case dice < 90:
		return w.several()
	default:
		return w.nested()
	}
}

// list reads a span: within a prefix or over many, now or in the past, whole or in part.
func (w *worker) list() Cmd {
	p := w.prefix()
	c := Cmd{Kind: Range, Key: p, End: end(p)}
	if w.rng.IntN(2) == 0 {
		c.Key, c.End = w.l.cfg.Prefixes[0], "\x00"
		if w.rng.IntN(3) > 0 {
			c.Limit = int64(1 + w.rng.IntN(20))
		}
	}
	switch w.rng.IntN(8) {
	case 0, 1:
		if w.rev > 0 {
			c.Rev = max(1, w.rev-w.rng.Int64N(300))
		}
	case 2:
		c.Serializable = true
	case 3:
		c.CountOnly = true
	case 4:
		c.KeysOnly = true
	}
	return c
}

// deleteSpan deletes some keys at once.
func (w *worker) deleteSpan() Cmd {
	p := w.prefix()
	c := Cmd{Kind: Delete, Key: w.keyIn(p), End: p + "k99", Prev: w.rng.IntN(2) == 0}
	if w.l.cfg.MultiRange && w.rng.IntN(2) == 0 {
		c.End = w.keyIn(w.prefix())
		if c.End <= c.Key {
			c.Key, c.End = c.End, c.Key+"\x00"
		}
	}
	return c
}

// swap writes a key if it is still as it was last seen, and reads it otherwise.
func (w *worker) swap() Cmd {
	key := w.key()
	seen := w.mods[key]
	cmp := Cmp{Key: key, Target: "mod", Op: "=", Number: seen.Mod}
	switch w.rng.IntN(6) {
	case 0:
		cmp = Cmp{Key: key, Target: "value", Op: "=", Value: seen.Value}
	case 1:
		cmp = Cmp{Key: key, Target: "version", Op: "=", Number: seen.Version}
	case 2:
		cmp = Cmp{Key: key, Target: "create", Op: "!=", Number: 0}
	}
	then := Cmd{Kind: Put, Key: key, Value: w.value(), Prev: w.rng.IntN(2) == 0}
	if w.rng.IntN(4) == 0 {
		then = Cmd{Kind: Delete, Key: key, Prev: true}
	}
	return Cmd{Kind: Txn, Cmps: []Cmp{cmp}, Then: []Cmd{then}, Else: []Cmd{{Kind: Range, Key: key}}}
}

// others are keys, all different, that one transaction may name.
func (w *worker) others(n int) []string {
	p := w.prefix()
	var out []string
	have := map[string]bool{}
	for range 50 {
		if w.l.cfg.MultiRange {
			p = w.prefix()
		}
		if key := w.keyIn(p); !have[key] {
			have[key] = true
			out = append(out, key)
		}
		if len(out) == n {
			break
		}
	}
	return out
}

// several writes and reads some keys at once.
func (w *worker) several() Cmd {
	keys := w.others(2 + w.rng.IntN(3))
	c := Cmd{Kind: Txn}
	switch w.rng.IntN(4) {
	case 0: // reads alone
	case 1:
		c.Cmps = append(c.Cmps, Cmp{Key: keys[0], Target: "mod", Op: "=", Number: w.mods[keys[0]].Mod})
	case 2:
		p := keys[0][:len(keys[0])-3]
		c.Cmps = append(c.Cmps, Cmp{Key: p, End: end(p), Target: "mod", Op: "<", Number: w.rev + 1})
	case 3:
		c.Cmps = append(c.Cmps, Cmp{Key: keys[0], Target: "version", Op: ">", Number: 0},
			Cmp{Key: keys[1], Target: "value", Op: "!=", Value: "never"})
	}
	if w.rng.IntN(3) == 0 {
		p := keys[0][:len(keys[0])-3]
		c.Else = append(c.Else, Cmd{Kind: Range, Key: p, End: end(p), KeysOnly: true})
		c.Then = append(c.Then, Cmd{Kind: Range, Key: p, End: end(p), Limit: 3}, Cmd{Kind: Range, Key: p, End: end(p), CountOnly: true})
	}
	read := len(c.Cmps) == 0 && w.rng.IntN(2) == 0
	for i, key := range keys {
		c.Else = append(c.Else, Cmd{Kind: Range, Key: key})
		switch {
		case read || i == 2:
			c.Then = append(c.Then, Cmd{Kind: Range, Key: key})
		case i == 1 && w.rng.IntN(3) == 0:
			c.Then = append(c.Then, Cmd{Kind: Delete, Key: key, Prev: true})
		default:
			c.Then = append(c.Then, Cmd{Kind: Put, Key: key, Value: w.value(), Prev: true})
		}
	}
	return c
}

// nested has a transaction in both branches.
func (w *worker) nested() Cmd {
	keys := w.others(3)
	for len(keys) < 3 {
		return Cmd{Kind: Range, Key: w.key()}
	}
	inner := func() Cmd {
		return Cmd{
			Kind: Txn, Cmps: []Cmp{{Key: keys[1], Target: "mod", Op: "=", Number: w.mods[keys[1]].Mod}},
			Then: []Cmd{{Kind: Put, Key: keys[1], Value: w.value()}, {Kind: Range, Key: keys[2]}},
			Else: []Cmd{{Kind: Range, Key: keys[1]}, {Kind: Put, Key: keys[2], Value: w.value(), Prev: true}},
		}
	}
	return Cmd{
		Kind: Txn, Cmps: []Cmp{{Key: keys[0], Target: "version", Op: ">", Number: w.rng.Int64N(4)}},
		Then: []Cmd{{Kind: Put, Key: keys[0], Value: w.value()}, inner(), {Kind: Range, Key: keys[0]}},
		Else: []Cmd{inner(), {Kind: Range, Key: keys[0]}},
	}
}

// leaseStep does what is next with this client's lease: grant it, use it, renew it, revoke it, or
// let it go.
func (w *worker) leaseStep(ctx context.Context) {
	if w.lease == 0 {
		w.leases++
		id := leasesBase + int64(w.id)<<24 + w.leases
		if op := w.l.do(ctx, w.c, Cmd{Kind: Grant, Lease: id, TTL: leaseTTL}); op.Fate == OK {
			w.lease = id
		}
		return
	}
	cmd := Cmd{Kind: Put, Key: w.leased(w.prefix()), Value: w.value(), Lease: w.lease}
	switch dice := w.rng.IntN(10); {
	case dice < 3:
		cmd = Cmd{Kind: KeepAlive, Lease: w.lease}
	case dice == 3:
		cmd = Cmd{Kind: Revoke, Lease: w.lease}
		w.lease = 0
	case dice == 4:
		w.lease = 0 // forgotten: it ends by itself
		return
	case dice == 5:
		p := w.prefix()
		cmd = Cmd{Kind: Txn, Then: []Cmd{
			{Kind: Put, Key: w.leased(p), Value: w.value(), Lease: w.lease}, {Kind: Put, Key: w.keyIn(p), Value: w.value()},
		}}
	}
	if op := w.l.do(ctx, w.c, cmd); op.Fate == Refused {
		w.lease = 0
	}
}

// watch watches something for a while, goes on from there, and begins again elsewhere.
func (w *worker) watch(ctx context.Context) {
	for ctx.Err() == nil {
		key, until := w.key(), ""
		switch w.rng.IntN(3) {
		case 0:
			key = w.prefix()
			until = end(key)
		case 1:
			key, until = w.prefix(), "\x00"
		}
		rev := int64(0)
		if w.rng.IntN(2) == 0 {
			rev = max(1, w.l.seenByAll()-w.rng.Int64N(150))
		}
		for range 1 + w.rng.IntN(3) {
			wa := w.c.Watch(ctx, key, until, rev)
			for range 1 + w.rng.IntN(5) {
				if !pause(ctx, time.Duration(100+w.rng.IntN(400))*time.Millisecond) {
					break
				}
				_ = w.c.cl.RequestProgress(wa.ask) // the answer, if any, is recorded as such
			}
			wa.Stop()
			if rev = wa.Next(); rev == 0 || ctx.Err() != nil {
				break
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
}
