package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Limits bound the search of Linearizable.
type Limits struct {
	OpsPerKey int           // beyond them a key's history is cut. Default 1500
	PerKey    time.Duration // of search. Default 5 s
	Total     time.Duration // of search; keys not reached are undecided. Default 60 s
}

// Linear is what porcupine found.
type Linear struct {
	Keys, Ops int
	Illegal   []string // keys for which there is no order
	Undecided []string // keys for which the time was over first
}

// Err is nil when every key was decided, and well.
func (l *Linear) Err() error {
	if len(l.Illegal)+len(l.Undecided) == 0 {
		return nil
	}
	return fmt.Errorf("history: not linearizable: %q; undecided: %q", l.Illegal, l.Undecided)
}

// Linearizable lets porcupine search, for each key that no lease was ever attached to, for an order
// of what commands did to it and were shown of it. That is weaker than Check, and owes nothing to
// it: it does not believe that a revision is a place in an order.
func Linearizable(h *History, lim Limits) *Linear {
	if lim.OpsPerKey == 0 {
		lim.OpsPerKey = 1500
	}
	if lim.PerKey == 0 {
		lim.PerKey = 5 * time.Second
	}
	if lim.Total == 0 {
		lim.Total = time.Minute
	}
	p := projection{h: h, shown: map[string]int64{}, orphans: map[string]bool{}}
	p.readWatches()
	out := &Linear{}
	deadline := time.Now().Add(lim.Total)
	for _, key := range p.keys() {
		ops := cut(p.project(key), lim.OpsPerKey)
		if len(ops) == 0 {
			continue
		}
		out.Keys++
		out.Ops += len(ops)
		left := min(lim.PerKey, time.Until(deadline))
		if left <= 0 {
			out.Undecided = append(out.Undecided, key)
			continue
		}
		switch porcupine.CheckOperationsTimeout(keyModel.ToModel(), ops, left) {
		case porcupine.Illegal:
			out.Illegal = append(out.Illegal, key)
		case porcupine.Unknown:
			out.Undecided = append(out.Undecided, key)
		}
	}
	return out
}

// projection is a history as single keys see it.
type projection struct {
	h       *History
	shown   map[string]int64 // when a watch first showed a value
	orphans map[string]bool  // keys with a delete that no answered command owns
}

func (p *projection) readWatches() {
	owned := map[int64]bool{}
	for _, op := range p.h.Ops {
		if op.Fate == OK && effective(&op.Cmd, op.Result) {
			owned[op.Result.Rev] = true
		}
	}
	for _, w := range p.h.Watches {
		for i := range w.Responses {
			for _, e := range w.Responses[i].Events {
				at, ok := p.shown[e.KV.Value]
				if !e.Del && (!ok || w.Responses[i].At < at) {
					p.shown[e.KV.Value] = w.Responses[i].At
				}
				if e.Del && !owned[e.KV.Mod] {
					p.orphans[e.KV.Key] = true
				}
			}
		}
	}
}

// keys are those that were written without a lease only, sorted.
func (p *projection) keys() (out []string) {
	leased := map[string]bool{}
	for _, op := range p.h.Ops {
		each(&op.Cmd, func(c *Cmd) {
			if c.Kind == Put {
				leased[c.Key] = leased[c.Key] || c.Lease != 0
			}
		})
	}
	for key, is := range leased {
		if !is {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// keyStep is a command as one key sees it.
type keyStep struct {
	op    *Op
	key   string
	maybe bool // its outcome is not known, or lies beyond the window
}

// project picks the commands that concern a key.
func (p *projection) project(key string) (out []porcupine.Operation) {
	for _, op := range p.h.Ops {
		touches, writes := concerns(&op.Cmd, key)
		o := porcupine.Operation{ClientId: op.Client, Call: op.Call, Return: op.Return, Input: keyStep{op: op, key: key}}
		switch {
		case !touches || op.Fate == Refused || op.Cmd.Serializable || op.Cmd.Kind == Range && op.Cmd.Rev > 0:
			continue
		case op.Fate == OK:
		case !writes:
			continue
		default:
			happened, at := p.happened(op, key)
			if !happened {
				continue
			}
			o.Input, o.Return = keyStep{op: op, key: key, maybe: true}, at
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	return out
}

// happened tells whether a command of unknown outcome may have changed a key, and until when. A put
// that no watch ever showed did not happen.
func (p *projection) happened(op *Op, key string) (bool, int64) {
	may, at := false, int64(Never)
	each(&op.Cmd, func(c *Cmd) {
		if c.Kind == Put && c.Key == key {
			if t, ok := p.shown[c.Value]; ok {
				may, at = true, min(at, t)
			}
		}
		if c.Kind == Delete && inSpan(key, c.Key, c.End) && p.orphans[key] {
			may = true
		}
	})
	return may, at
}

// concerns tells whether a command names a key, and whether it may change it.
func concerns(cmd *Cmd, key string) (touches, writes bool) {
	each(cmd, func(c *Cmd) {
		switch c.Kind {
		case Put:
			touches = touches || c.Key == key
			writes = writes || c.Key == key
		case Range, Delete:
			in := inSpan(key, c.Key, c.End)
			touches = touches || in
			writes = writes || in && c.Kind == Delete
		case Txn:
			for i := range c.Cmps {
				touches = touches || c.Cmps[i].Key == key
			}
		}
	})
	return touches, writes
}

// cut keeps a window from the beginning. What began in it and ended behind it may have happened.
func cut(ops []porcupine.Operation, n int) (out []porcupine.Operation) {
	if len(ops) <= n {
		return ops
	}
	end := ops[n].Call
	for _, o := range ops[:n] {
		step := o.Input.(keyStep)
		if o.Return >= end && !step.maybe {
			if _, writes := concerns(&step.op.Cmd, step.key); !writes {
				continue
			}
			step.maybe = true
			o.Input, o.Return = step, Never
		}
		out = append(out, o)
	}
	return out
}

// keyState is one key. A revision that nobody has been told is 0.
type keyState struct {
	there bool
	value string
	mod   int64
}

var keyModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{keyState{}} },
	Step: func(state, input, _ any) []any {
		s, in := state.(keyState), input.(keyStep)
		if !in.maybe {
			if ok, next := s.answered(in.key, &in.op.Cmd, in.op.Result, in.op.Result.Rev); ok {
				return []any{next}
			}
			return nil
		}
		out := []any{s}
		for _, next := range s.done(in.key, &in.op.Cmd) {
			if !slices.Contains(out, any(next)) {
				out = append(out, next)
			}
		}
		return out
	},
}

// answered is the state behind a command with that answer; false when it cannot be the answer.
func (s keyState) answered(key string, c *Cmd, r *Result, rev int64) (bool, keyState) {
	ok := true
	switch c.Kind {
	case Put:
		if c.Key != key {
			return true, s
		}
		if c.Prev {
			ok, _ = s.shown(r.Prev)
		}
		return ok, keyState{there: true, value: c.Value, mod: rev}
	case Range:
		return s.listed(key, c, r)
	case Delete:
		if !inSpan(key, c.Key, c.End) {
			return true, s
		}
		if c.Prev {
			ok, s = s.shown(find(r.Kvs, key))
		} else if c.End == "" {
			ok = s.there == (r.Deleted == 1)
		}
		return ok, keyState{}
	}
	if !s.allows(key, c, r.Succeeded) {
		return false, s
	}
	branch := c.Else
	if r.Succeeded {
		branch = c.Then
	}
	for i := range branch {
		if ok, s = s.answered(key, &branch[i], &r.Results[i], rev); !ok {
			return false, s
		}
	}
	return true, s
}

// listed holds a listing against the state.
func (s keyState) listed(key string, c *Cmd, r *Result) (bool, keyState) {
	switch {
	case !inSpan(key, c.Key, c.End):
		return true, s
	case c.CountOnly:
		return c.End != "" || s.there == (r.Count == 1), s
	}
	kv := find(r.Kvs, key)
	if kv == nil && r.More && (len(r.Kvs) == 0 || key > r.Kvs[len(r.Kvs)-1].Key) {
		return true, s // on a later page
	}
	if kv != nil && c.KeysOnly {
		return s.there, s
	}
	return s.shown(kv)
}

// shown holds what a client saw of the key against the state, and learns its revision.
func (s keyState) shown(kv *KV) (bool, keyState) {
	if kv == nil {
		return !s.there, s
	}
	if !s.there || s.value != kv.Value || s.mod != 0 && s.mod != kv.Mod {
		return false, s
	}
	s.mod = kv.Mod
	return true, s
}

// allows tells whether the outcome of a transaction's conditions fits the state of the key.
func (s keyState) allows(key string, c *Cmd, succeeded bool) bool {
	for i := range c.Cmps {
		k := &c.Cmps[i]
		if k.Key != key || k.End != "" || s.there && s.mod == 0 && k.Target == "mod" {
			continue
		}
		var holds bool
		switch {
		case k.Target == "value":
			holds = s.there && compare(k, KV{Value: s.value})
		case k.Target == "mod" || !s.there:
			holds = compare(k, KV{Mod: s.mod})
		default:
			continue // the state does not know
		}
		if succeeded && !holds || !succeeded && holds && len(c.Cmps) == 1 {
			return false
		}
	}
	return true
}

// done are the states that may stand behind a command whose answer nobody knows.
func (s keyState) done(key string, c *Cmd) []keyState {
	switch {
	case c.Kind == Put && c.Key == key:
		return []keyState{{there: true, value: c.Value}}
	case c.Kind == Delete && inSpan(key, c.Key, c.End):
		return []keyState{{}}
	case c.Kind != Txn:
		return []keyState{s}
	}
	var out []keyState
	for _, branch := range [][]Cmd{c.Then, c.Else} {
		states := []keyState{s}
		for i := range branch {
			var next []keyState
			for _, st := range states {
				next = append(next, st.done(key, &branch[i])...)
			}
			states = next
		}
		out = append(out, states...)
	}
	return out
}

func find(kvs []KV, key string) *KV {
	for i := range kvs {
		if kvs[i].Key == key {
			return &kvs[i]
		}
	}
	return nil
}
