package history

import (
	"reflect"
	"slices"
	"strings"
)

// replay builds the state revision by revision, and holds each write and each revision's events
// against one another.
func (c *check) replay() {
	known := c.acknowledged()
	revs := slices.Clone(c.revs)
	for rev := range known {
		if c.log[rev] == nil {
			revs = append(revs, rev)
		}
	}
	slices.Sort(revs)
	used := map[*Op]int64{}
	for _, rev := range revs {
		at, op := c.log[rev], known[rev]
		switch {
		case at == nil && rev <= c.logEnd:
			c.add(LostWrite, "%s was acknowledged with revision %d, at which no watch has anything", op.text(), rev)
			continue
		case at == nil:
			c.undecided("%s got revision %d, and the watches end at %d", op.text(), rev, c.logEnd)
			continue
		case op == nil:
			op = c.author(at, used)
		}
		c.enter(at, op)
	}
}

// acknowledged are the effective writes whose revision is known.
func (c *check) acknowledged() map[int64]*Op {
	known := map[int64]*Op{}
	for _, op := range c.h.Ops {
		if op.Fate != OK || !mayWrite(&op.Cmd) || !effective(&op.Cmd, op.Result) {
			continue
		}
		if other := known[op.Result.Rev]; other != nil {
			c.add(ReusedRevision, "%s and %s both have revision %d", other.text(), op.text(), op.Result.Rev)
			continue
		}
		c.Writes++
		known[op.Result.Rev] = op
	}
	return known
}

// author finds who wrote a revision that nobody has acknowledged, by the values.
func (c *check) author(at *revision, used map[*Op]int64) *Op {
	for i := range at.events {
		e := &at.events[i]
		if e.Del {
			continue
		}
		op := c.owner[e.KV.Value]
		switch {
		case op == nil:
			c.add(Unexplained, "revision %d: %s, which nobody wrote", at.rev, e.text())
		case op.Fate == Refused:
			c.add(AppliedRefused, "%s was refused (%s), and is at revision %d", op.text(), op.Err, at.rev)
		case op.Fate == OK && op.Result.Rev != at.rev:
			c.add(AppliedTwice, "%s has revision %d, and is at %d, too", op.text(), op.Result.Rev, at.rev)
		case used[op] != 0:
			c.add(AppliedTwice, "%s is at revisions %d and %d", op.text(), used[op], at.rev)
		default:
			used[op] = at.rev
			if by := c.bound(at.rev); by < op.Call {
				c.add(RealTime, "%s is at revision %d, which was seen at %d ns, before the call", op.text(), at.rev, by)
			}
			c.Happened++
		}
		return op
	}
	return nil // deletes alone: explainDeletes
}

// enter carries out a write, compares what it does with the events of its revision, and applies
// these.
func (c *check) enter(at *revision, op *Op) {
	v := c.s.viewAt(at.rev - 1)
	v.write = at.rev
	if op == nil {
		c.s.apply(at.rev, c.plain(at.events, v))
		at.events = c.plain(at.events, v)
		return
	}
	at.by = op
	res := v.do(&op.Cmd)
	if op.Fate == OK {
		c.Ops++
		if diff := differ(&op.Cmd, op.Result, &res); diff != "" {
			c.add(WrongAnswer, "%s at revision %d: %s", op.text(), at.rev, diff)
		}
	}
	if !sameEvents(v.events, at.events) {
		c.add(WrongEvents, "revision %d: %s does %s, the watches say %s", at.rev, op.text(), eventTexts(v.events), eventTexts(at.events))
		at.events = c.plain(at.events, v.s.viewAt(at.rev-1))
	} else {
		at.events = v.events
	}
	c.s.apply(at.rev, at.events)
}

// plain gives events their previous versions from the state before.
func (c *check) plain(events []Event, v *view) []Event {
	out := slices.Clone(events)
	for i := range out {
		if old, ok := v.s.at(out[i].KV.Key, v.rev); ok {
			out[i].Prev = &old
		}
	}
	return out
}

// sameEvents compares without order: a log that was put together from several watches has none.
func sameEvents(a, b []Event) bool {
	if len(a) != len(b) {
		return false
	}
	byKey := map[string]*Event{}
	for i := range a {
		byKey[a[i].KV.Key] = &a[i]
	}
	for i := range b {
		x := byKey[b[i].KV.Key]
		if x == nil || x.KV != b[i].KV || x.Del != b[i].Del {
			return false
		}
	}
	return true
}

func eventTexts(es []Event) string {
	var out []string
	for i := range es {
		if i == 8 {
			out = append(out, "…")
			break
		}
		out = append(out, es[i].text())
	}
	return "[" + strings.Join(out, "; ") + "]"
}

// explainDeletes finds authors for revisions that hold nothing but deletes and that nobody has
// acknowledged: a lease that ended, or a request of unknown outcome, each for one revision.
func (c *check) explainDeletes() {
	var open []*revision
	for _, rev := range c.revs {
		at := c.log[rev]
		if at.by != nil || !slices.ContainsFunc(at.events, func(e Event) bool { return e.Del }) || c.lost(at) {
			continue
		}
		open = append(open, at)
	}
	var free []*Op
	taken := map[*Op]bool{}
	for _, rev := range c.revs {
		taken[c.log[rev].by] = true
	}
	for _, op := range c.h.Ops {
		if op.Fate == Unknown && mayWrite(&op.Cmd) && !taken[op] && op.Cmd.Kind != Put {
			free = append(free, op)
		}
	}
	m := matching{of: map[*Op]*revision{}}
	c.findUses()
	for _, at := range open {
		if c.endsWell(at) {
			c.ended(at)
			continue
		}
		edges := c.candidates(at, free)
		if len(edges) == 0 && c.ended(at) {
			continue
		}
		m.edges = append(m.edges, edges)
		m.revs = append(m.revs, at)
	}
	for i := range m.revs {
		if !m.place(i, map[*Op]bool{}) {
			c.add(Unexplained, "revision %d: %s, which nobody asked for", m.revs[i].rev, eventTexts(m.revs[i].events))
		}
	}
	for op, at := range m.of {
		at.by = op
		c.Happened++
	}
}

// findUses notes from where and up to where each lease was used.
func (c *check) findUses() {
	for _, rev := range c.revs {
		for _, e := range c.log[rev].events {
			if f := c.leases[e.KV.Lease]; f != nil && !e.Del {
				f.lastUse = rev
				if f.firstUse == 0 {
					f.firstUse = rev
				}
			}
		}
	}
}

// lost tells whether a revision that has puts was reported already.
func (c *check) lost(at *revision) bool {
	return slices.ContainsFunc(at.events, func(e Event) bool { return !e.Del })
}

// candidates are the requests that would have done just that, and had been made by then.
func (c *check) candidates(at *revision, free []*Op) (out []*Op) {
	by := c.bound(at.rev)
	for _, op := range free {
		if op.Call > by {
			continue
		}
		v := c.s.viewAt(at.rev - 1)
		v.write = at.rev
		v.do(&op.Cmd)
		if sameEvents(v.events, at.events) {
			out = append(out, op)
		}
	}
	return out
}

// matching gives each revision an author of its own, by augmenting paths.
type matching struct {
	revs  []*revision
	edges [][]*Op
	of    map[*Op]*revision
}

func (m *matching) place(i int, visited map[*Op]bool) bool {
	for _, op := range m.edges[i] {
		if visited[op] {
			continue
		}
		visited[op] = true
		holder := m.of[op]
		if holder == nil || m.place(slices.Index(m.revs, holder), visited) {
			m.of[op] = m.revs[i]
			return true
		}
	}
	return false
}

// checkAnswers holds every answer that changed nothing against the state at its revision.
func (c *check) checkAnswers() {
	for _, op := range c.h.Ops {
		if op.Fate != OK || op.Cmd.Kind != Range && op.Cmd.Kind != Delete && op.Cmd.Kind != Txn || effective(&op.Cmd, op.Result) {
			continue
		}
		if op.Result.Rev > c.logEnd {
			c.undecided("%s has revision %d, and the watches end at %d", op.text(), op.Result.Rev, c.logEnd)
			continue
		}
		c.Ops++
		v := c.s.viewAt(op.Result.Rev)
		res := v.do(&op.Cmd)
		if diff := differ(&op.Cmd, op.Result, &res); diff != "" {
			c.add(WrongAnswer, "%s at revision %d: %s", op.text(), op.Result.Rev, diff)
		} else if len(v.events) > 0 {
			c.add(WrongAnswer, "%s at revision %d changed nothing, and would: %s", op.text(), op.Result.Rev, eventTexts(v.events))
		}
	}
}

// differ says how an answer differs from the one expected; "" when it does not.
func differ(cmd *Cmd, got, want *Result) string {
	switch {
	case got.Succeeded != want.Succeeded:
		return text("%s %+v: succeeded is %v, not %v", cmd.Kind, cmd.Cmps, got.Succeeded, want.Succeeded)
	case got.Count != want.Count:
		return text("%s of [%q, %q): count is %d, not %d", cmd.Kind, cmd.Key, cmd.End, got.Count, want.Count)
	case got.Deleted != want.Deleted:
		return text("%s of [%q, %q): %d deleted, not %d", cmd.Kind, cmd.Key, cmd.End, got.Deleted, want.Deleted)
	case got.More != want.More:
		return text("%s of [%q, %q): more is %v, not %v", cmd.Kind, cmd.Key, cmd.End, got.More, want.More)
	case !reflect.DeepEqual(got.Prev, want.Prev):
		return text("%s of %q: the previous value is %+v, not %+v", cmd.Kind, cmd.Key, got.Prev, want.Prev)
	case !slices.Equal(got.Kvs, want.Kvs):
		return text("%s of [%q, %q) at %d: %s", cmd.Kind, cmd.Key, cmd.End, cmd.Rev, differKVs(got.Kvs, want.Kvs))
	case len(got.Results) != len(want.Results):
		return text("%d results within, not %d", len(got.Results), len(want.Results))
	}
	branch := cmd.Else
	if got.Succeeded {
		branch = cmd.Then
	}
	for i := range got.Results {
		if diff := differ(&branch[i], &got.Results[i], &want.Results[i]); diff != "" {
			return text("operation %d: %s", i, diff)
		}
	}
	return ""
}

func differKVs(got, want []KV) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return text("key %d is %+v, not %+v", i, got[i], want[i])
		}
	}
	return text("%d keys, not %d", len(got), len(want))
}
