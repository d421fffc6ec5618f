package history

import (
	"slices"
	"sort"
)

// store is etcd's key space with all its history: the model that answers are held against.
type store struct {
	keys []string // sorted
	vers map[string][]version
	rev  int64 // of the last effective write
}

type version struct {
	kv  KV
	del bool
}

func newStore() *store { return &store{vers: map[string][]version{}} }

// at returns the version of a key at a revision.
func (s *store) at(key string, rev int64) (KV, bool) {
	vs := s.vers[key]
	i := sort.Search(len(vs), func(i int) bool { return vs[i].kv.Mod > rev })
	if i == 0 || vs[i-1].del {
		return KV{}, false
	}
	return vs[i-1].kv, true
}

// apply enters the effects of a write. Their revision is above all before it.
func (s *store) apply(rev int64, events []Event) {
	s.rev = rev
	for _, e := range events {
		if _, ok := s.vers[e.KV.Key]; !ok {
			i, _ := slices.BinarySearch(s.keys, e.KV.Key)
			s.keys = slices.Insert(s.keys, i, e.KV.Key)
		}
		s.vers[e.KV.Key] = append(s.vers[e.KV.Key], version{kv: e.KV, del: e.Del})
	}
}

// view is a store at a revision, with what a transaction has done so far on top.
type view struct {
	s      *store
	rev    int64
	over   map[string]version // nil: nothing
	events []Event            // effects, in order
	write  int64              // the revision that effects get
}

func (s *store) viewAt(rev int64) *view { return &view{s: s, rev: rev, write: rev + 1} }

func (v *view) get(key string) (KV, bool) {
	if o, ok := v.over[key]; ok {
		return o.kv, !o.del
	}
	return v.s.at(key, v.rev)
}

func (v *view) scan(key, end string) []KV {
	if end == "" {
		if kv, ok := v.get(key); ok {
			return []KV{kv}
		}
		return nil
	}
	names := v.s.keys
	for k := range v.over {
		if i, ok := slices.BinarySearch(names, k); !ok {
			names = slices.Insert(slices.Clone(names), i, k)
		}
	}
	var out []KV
	from, _ := slices.BinarySearch(names, key)
	for _, k := range names[from:] {
		if !inSpan(k, key, end) {
			break
		}
		if kv, ok := v.get(k); ok {
			out = append(out, kv)
		}
	}
	return out
}

func (v *view) set(e Event, kv KV, del bool) {
	if v.over == nil {
		v.over = map[string]version{}
	}
	v.over[kv.Key] = version{kv: kv, del: del}
	v.events = append(v.events, e)
}

// do carries out a command and returns what etcd would answer. Conditions of a transaction and of
// those within it are decided before it begins.
func (v *view) do(c *Cmd) Result {
	return v.run(c, v.decide(c))
}

// decision is the outcome of the conditions of a transaction and of those in the branch taken.
type decision struct {
	ok  bool
	sub []decision
}

func (v *view) decide(c *Cmd) decision {
	if c.Kind != Txn {
		return decision{}
	}
	d := decision{ok: true}
	for i := range c.Cmps {
		d.ok = d.ok && v.holds(&c.Cmps[i])
	}
	branch := c.Else
	if d.ok {
		branch = c.Then
	}
	for i := range branch {
		d.sub = append(d.sub, v.decide(&branch[i]))
	}
	return d
}

func (v *view) run(c *Cmd, d decision) Result {
	switch c.Kind {
	case Put:
		return v.put(c)
	case Delete:
		return v.delete(c)
	case Range:
		return v.read(c)
	}
	r := Result{Succeeded: d.ok}
	branch := c.Else
	if d.ok {
		branch = c.Then
	}
	for i := range branch {
		r.Results = append(r.Results, v.run(&branch[i], d.sub[i]))
	}
	return r
}

func (v *view) put(c *Cmd) Result {
	old, had := v.get(c.Key)
	kv := KV{Key: c.Key, Value: c.Value, Create: v.write, Mod: v.write, Version: 1, Lease: c.Lease}
	e := Event{KV: kv}
	var r Result
	if had {
		kv.Create, kv.Version = old.Create, old.Version+1
		e = Event{KV: kv, Prev: &old}
		if c.Prev {
			r.Prev = &old
		}
	}
	v.set(e, kv, false)
	return r
}

func (v *view) delete(c *Cmd) Result {
	var r Result
	for _, old := range v.scan(c.Key, c.End) {
		r.Deleted++
		if c.Prev {
			r.Kvs = append(r.Kvs, old)
		}
		gone := KV{Key: old.Key, Mod: v.write}
		v.set(Event{Del: true, KV: gone, Prev: &old}, gone, true)
	}
	return r
}

func (v *view) read(c *Cmd) Result {
	from := v
	if c.Rev > 0 {
		from = v.s.viewAt(c.Rev)
	}
	kvs := from.scan(c.Key, c.End)
	r := Result{Count: int64(len(kvs))}
	if c.CountOnly {
		return r
	}
	if c.Limit > 0 && int64(len(kvs)) > c.Limit {
		kvs, r.More = kvs[:c.Limit], true
	}
	for _, kv := range kvs {
		if c.KeysOnly {
			kv.Value, kv.Lease = "", 0 // etcd answers from its index, which knows no leases
		}
		r.Kvs = append(r.Kvs, kv)
	}
	return r
}

// holds decides a compare. It must hold for every key of its span; of keys that are not there all
// numbers are zero, and nothing is true of their value.
func (v *view) holds(c *Cmp) bool {
	kvs := v.scan(c.Key, c.End)
	if len(kvs) == 0 {
		return c.Target != "value" && compare(c, KV{})
	}
	for _, kv := range kvs {
		if !compare(c, kv) {
			return false
		}
	}
	return true
}

func compare(c *Cmp, kv KV) bool {
	if c.Target == "value" {
		return ordered(c.Op, cmpStrings(kv.Value, c.Value))
	}
	have := map[string]int64{"mod": kv.Mod, "create": kv.Create, "version": kv.Version, "lease": kv.Lease}[c.Target]
	switch {
	case have < c.Number:
		return ordered(c.Op, -1)
	case have > c.Number:
		return ordered(c.Op, 1)
	}
	return ordered(c.Op, 0)
}

func cmpStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func ordered(op string, sign int) bool {
	switch op {
	case "=":
		return sign == 0
	case "!=":
		return sign != 0
	case "<":
		return sign < 0
	}
	return sign > 0
}
