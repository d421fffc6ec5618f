package lead

import (
	"cmp"
	"slices"

	"pontoon/internal/mutate"
	"pontoon/placement"
	"pontoon/shard"
)

// A request is checked where it comes in, and carried out under the settings under which its revision is allocated: the ask names their version,
// and the oracle, which knows the newest, refuses what was checked under older ones, or what an alarm forbids. Then the driver knows the newest as
// well, each request is checked again, and the rest asks again. What the cluster does by itself asks without condition. What takes no revision
// is checked once more when the oracle's answer is there.

// firstSettings are what a core without a source of settings goes by.
var firstSettings = &placement.Settings{Version: placement.FirstSettings}

// refusal says why a request is refused under s, nil if it is not. It is checked once for each version that comes while it is here.
func (it *Item) refusal(s *placement.Settings) error {
	if it.By.Settings >= s.Version || it.own() || mutate.On(mutate.ConditionUnjudged) {
		return nil
	}
	it.By.Settings = s.Version
	return s.Allows(it.By.Who, it.Op)
}

// own reports whether it is the cluster's own: a part of a transaction whose coordinator has judged it as a whole, or the end of a lease.
func (it *Item) own() bool { return it.Prep != nil || it.Op.GetExpireLease() != 0 }

// judge checks a request again if the settings have changed since it was checked. False: it is refused, and has been answered.
func (es *evaluations) judge(it *Item) bool {
	if err := it.refusal(es.l.lim.Settings()); err != nil {
		es.l.finish(it, nil, err)
		return false
	}
	return true
}

// refuse answers a request that will not write after all. What was evaluated on its effects, and has no revision yet, is evaluated again: else a revision could be
// burnt. It returns those that began again.
func (bs *batches) refuse(it *Item, err error) (again []*Item) {
	bs.l.tab.conflicts(it, func(x *Item) {
		if x.seq > it.seq && (x.phase == phaseReady || x.phase == phaseBlocked && x.async != nil) {
			again = append(again, x)
		}
	})
	slices.SortFunc(again, func(a, b *Item) int { return cmp.Compare(a.seq, b.seq) })
	again = slices.Compact(again)
	bs.l.finish(it, nil, err)
	for _, x := range again {
		switch x.phase {
		case phaseReady:
			bs.ready = slices.DeleteFunc(bs.ready, func(r *Item) bool { return r == x })
			bs.l.restart(x)
		case phaseBlocked:
			predicting := x.async.predicting != nil
			if x.dropPrediction(); predicting { // else it waits for something else, or is about to be looked at
				bs.l.runq = append(bs.l.runq, x)
			}
		}
	}
	return again
}

// mayAsk reports whether revisions may be asked for under s. A later batch would get the lower revisions if an ask that is out is refused and this one is
// not: so a newer version waits until none is out.
func (bs *batches) mayAsk(s *placement.Settings) bool {
	return bs.allocsInFlight == 0 || bs.askedUnder == s.Version || mutate.On(mutate.ConditionEarly)
}

// allocate asks for the revisions of a batch under s.
func (bs *batches) allocate(b *batch, ask shard.Ask, s *placement.Settings) {
	ask.Settings, bs.askedUnder = s.Version, s.Version
	bs.allocating = append(bs.allocating, b)
	bs.allocsInFlight++
	bs.l.Emit(Action{Kind: ActAllocate, Id: b.id, Ask: ask})
}

// joins adds what it needs to an ask.
func (it *Item) joins(ask *shard.Ask) {
	ask.Count++
	if !it.own() {
		ask.Conditional = true
		ask.Grows = ask.Grows || placement.Grows(it.Op)
	}
}

// refused puts the requests of a batch whose condition did not hold at the front of those that need a revision. None was allocated. Each is
// checked again, also where an alarm was known when it was checked.
func (bs *batches) refused(items []*Item) {
	for _, it := range items {
		it.By.Settings = 0
	}
	bs.reallocate(items)
}
