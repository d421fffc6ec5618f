package mvcc

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"pontoon/shard"
)

// model is the naive store that the real one is compared with: every version ever, filtered
// anew for each question.
type model struct {
	vers    map[string][]*version // per key, oldest first
	state   map[string]string
	pos     Position
	last    int64
	compact int64
}

func newModel() *model {
	return &model{vers: make(map[string][]*version), state: make(map[string]string)}
}

func (m *model) clone() *model {
	c := *m
	c.vers, c.state = make(map[string][]*version), maps.Clone(m.state)
	for k, vs := range m.vers {
		c.vers[k] = slices.Clone(vs)
	}
	return &c
}

func (m *model) apply(c Change) []*shard.Event {
	var evs []*shard.Event
	for i := range c.Muts {
		mut := &c.Muts[i]
		vs := m.vers[string(mut.Key)]
		var prev *version
		if len(vs) > 0 && !vs[len(vs)-1].del {
			prev = vs[len(vs)-1]
		}
		if mut.Delete && prev == nil {
			continue
		}
		v := &version{sub: mut.Rev.Sub, del: mut.Delete}
		v.kv.Key, v.kv.ModRevision = mut.Key, mut.Rev.Main
		ev := &shard.Event{Delete: v.del, Sub: v.sub}
		if !v.del {
			v.kv.Value, v.kv.Lease, v.kv.CreateRevision, v.kv.Version = mut.Value, mut.Lease, mut.Rev.Main, 1
			if prev != nil {
				v.kv.CreateRevision, v.kv.Version = prev.kv.CreateRevision, prev.kv.Version+1
			}
		}
		if ev.KV = v.kv; prev != nil {
			ev.Prev = &prev.kv
		}
		evs = append(evs, ev)
		m.vers[string(mut.Key)] = append(vs, v)
		m.last = max(m.last, mut.Rev.Main)
	}
	for _, u := range c.State {
		if u.Value == nil {
			delete(m.state, u.Key)
		} else {
			m.state[u.Key] = string(u.Value)
		}
	}
	if c.Cut != nil {
		m.cut(c.Cut.Span)
	}
	m.pos = c.Pos
	m.compact = max(m.compact, c.CompactTo)
	return evs
}

// cut makes the model one that never had other keys.
func (m *model) cut(span shard.Span) {
	maps.DeleteFunc(m.vers, func(key string, _ []*version) bool { return !span.Contains([]byte(key)) })
}

// at is the key's version at rev, nil when it does not live then.
func (m *model) at(key string, rev int64) *version {
	var found *version
	for _, v := range m.vers[key] {
		if v.kv.ModRevision <= rev {
			found = v
		}
	}
	if found == nil || found.del {
		return nil
	}
	return found
}

func (m *model) scan(span shard.Span, rev int64) []*version {
	var out []*version
	for _, key := range slices.Sorted(maps.Keys(m.vers)) {
		if v := m.at(key, rev); v != nil && span.Contains([]byte(key)) {
			out = append(out, v)
		}
	}
	return out
}

func (m *model) history(spans []shard.Span, from, to int64) []*shard.Event {
	var vers []*version
	prevs := make(map[*version]*version)
	for key, vs := range m.vers {
		if !slices.ContainsFunc(spans, func(s shard.Span) bool { return s.Contains([]byte(key)) }) {
			continue
		}
		for i, v := range vs {
			if from <= v.kv.ModRevision && v.kv.ModRevision <= to {
				vers = append(vers, v)
				if i > 0 && v.kv.ModRevision > m.compact {
					prevs[v] = vs[i-1]
				}
			}
		}
	}
	sortByRev(vers)
	var out []*shard.Event
	for _, v := range vers {
		e := &shard.Event{}
		v.describe(e, prevs[v])
		out = append(out, e)
	}
	return out
}

func (m *model) hash(rev int64) (sum uint64) {
	for _, vs := range m.vers {
		for i, v := range vs {
			newest := i+1 == len(vs) || vs[i+1].kv.ModRevision > m.compact
			alive := v.kv.ModRevision > m.compact || newest && !v.del
			if alive && v.kv.ModRevision <= rev {
				sum += xxhash.Sum64(appendHashed(nil, v))
			}
		}
	}
	return sum
}

func (m *model) leaseKeys(lease int64) []string {
	var out []string
	for _, v := range m.scan(shard.All, math.MaxInt64) {
		if v.kv.Lease == lease {
			out = append(out, string(v.kv.Key))
		}
	}
	return out
}

func sameKV(a, b *shard.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.CreateRevision == b.CreateRevision &&
		a.ModRevision == b.ModRevision && a.Version == b.Version && a.Lease == b.Lease
}

func sameEvents(got, want []*shard.Event) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d events, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if !sameKV(&g.KV, &w.KV) || !sameKV(g.Prev, w.Prev) || g.Delete != w.Delete || g.Sub != w.Sub {
			return fmt.Errorf("event %d: %+v (prev %+v), want %+v (prev %+v)", i, g, g.Prev, w, w.Prev)
		}
	}
	return nil
}
