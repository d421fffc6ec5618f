package history

import "sort"

// checkWatches holds every delivered event against the log that all watches and commands agreed
// on.
func (c *check) checkWatches() {
	for _, w := range c.h.Watches {
		k := watchCheck{check: c, w: w, next: w.Rev, keys: map[string]bool{}}
		for i := range w.Responses {
			k.response(&w.Responses[i])
		}
		k.complete(k.certain)
	}
}

// watchCheck follows one watch.
type watchCheck struct {
	*check
	w       *Watch
	next    int64 // the first revision that has not been held against the log; 0: not begun
	certain int64 // the watch has claimed to be complete up to here
	rev     int64 // of the last event
	mark    int64 // of the last progress notification
	over    bool
	// keys of revision rev that have come, in order
	keys map[string]bool
	came []string
}

func (k *watchCheck) response(r *WatchResponse) {
	if r.Err != "" {
		k.over = true
		return
	}
	if r.Created {
		if k.next == 0 {
			k.next = r.Rev + 1
		}
		if len(r.Events) == 0 {
			return
		}
	}
	if k.over {
		k.add(WatchEvent, "watch %d: a response after its end", k.w.ID)
	}
	for i := range r.Events {
		k.event(&r.Events[i], i == 0)
	}
	k.certain = max(k.certain, r.certain())
	if len(r.Events) == 0 {
		k.mark = max(k.mark, r.Rev)
	}
}

func (k *watchCheck) event(e *Event, first bool) {
	rev := e.KV.Mod
	switch {
	case rev <= k.mark:
		k.add(WatchBookmark, "watch %d: %s at revision %d after a progress notification at %d", k.w.ID, e.text(), rev, k.mark)
	case rev < k.rev:
		k.add(WatchOrder, "watch %d: %s at revision %d after %d", k.w.ID, e.text(), rev, k.rev)
	case rev == k.rev && k.keys[e.KV.Key]:
		k.add(WatchTwice, "watch %d: revision %d has %s twice", k.w.ID, rev, e.KV.Key)
	case rev == k.rev && first:
		k.add(WatchSplit, "watch %d: revision %d came in two responses", k.w.ID, rev)
	}
	if rev > k.rev {
		k.complete(rev - 1)
		k.rev = rev
		clear(k.keys)
		k.came = nil
	}
	k.keys[e.KV.Key] = true
	k.came = append(k.came, e.KV.Key)
	k.compare(e)
}

// compare holds an event against the log.
func (k *watchCheck) compare(e *Event) {
	at := k.log[e.KV.Mod]
	for i := range at.events {
		want := &at.events[i]
		if want.KV.Key != e.KV.Key {
			continue
		}
		if want.KV != e.KV || want.Del != e.Del {
			k.add(WatchEvent, "watch %d: revision %d is %s, not %s", k.w.ID, e.KV.Mod, want.text(), e.text())
		}
		if k.w.Prev && ((want.Prev == nil) != (e.Prev == nil) || want.Prev != nil && *want.Prev != *e.Prev) {
			k.add(WatchPrev, "watch %d: revision %d, %s: the previous value is %+v, not %+v", k.w.ID, e.KV.Mod, e.KV.Key, want.Prev, e.Prev)
		}
	}
	if k.next > 0 && e.KV.Mod < k.w.Rev {
		k.add(WatchEvent, "watch %d from %d on: %s at revision %d", k.w.ID, k.w.Rev, e.text(), e.KV.Mod)
	}
	if !inSpan(e.KV.Key, k.w.Key, k.w.End) {
		k.add(WatchEvent, "watch %d of [%q, %q): %s", k.w.ID, k.w.Key, k.w.End, e.text())
	}
}

// complete demands that all events of the watch's span up to a revision have come.
func (k *watchCheck) complete(to int64) {
	if k.next == 0 {
		return
	}
	from := sort.Search(len(k.revs), func(i int) bool { return k.revs[i] >= k.next })
	for _, rev := range k.revs[from:] {
		if rev > to {
			break
		}
		k.whole(k.log[rev])
	}
	k.next = max(k.next, to+1)
}

// whole demands that of one revision everything in the span has come, in the order in which it
// was done.
func (k *watchCheck) whole(at *revision) {
	var want []string
	for i := range at.events {
		if inSpan(at.events[i].KV.Key, k.w.Key, k.w.End) {
			want = append(want, at.events[i].KV.Key)
		}
	}
	var came []string
	if k.rev == at.rev {
		came = k.came
	}
	have := map[string]bool{}
	for _, key := range came {
		have[key] = true
	}
	for _, key := range want {
		if !have[key] {
			k.add(WatchGap, "watch %d of [%q, %q) from %d on: revision %d, %s, did not come", k.w.ID, k.w.Key, k.w.End, k.w.Rev, at.rev, key)
			return
		}
	}
	for i := range min(len(came), len(want)) {
		if at.by != nil && came[i] != want[i] {
			k.add(WatchOrder, "watch %d: within revision %d %s came where %s was done", k.w.ID, at.rev, came[i], want[i])
			return
		}
	}
}
