package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"pontoon/test/e2e/harness"
)

// splitter picks where ranges are cut.
type splitter struct {
	s    *site
	mu   sync.Mutex
	last string // where the last one was
}

// place picks a key: one of the load's, or beside it, and now and then one where nobody may cut, or where somebody has just cut.
func (sp *splitter) place(r *rand.Rand) string {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	p := prefixes[r.IntN(len(prefixes))]
	key := fmt.Sprintf("%s%c%02d", p, "kl"[r.IntN(2)], r.IntN(6))
	switch r.IntN(10) {
	case 0:
		key = sp.last
	case 1:
		key = p // which was a border at first, but for the first
	case 2:
		key = ""
	case 3, 4, 5, 6:
		key += fmt.Sprintf("\x00%d", r.IntN(1000))
	}
	sp.last = key
	return key
}

// ask begins a split.
func (sp *splitter) ask(ctx context.Context, r *rand.Rand, via *harness.Node) error {
	key := sp.place(r)
	begin := sp.s.ops(via).BeginSplit
	if r.IntN(2) == 0 { // a border that the planner may take away again
		begin = sp.s.ops(via).BeginLooseSplit
	}
	_, err := begin(ctx, key, "chaos")
	if err == nil && key == "" {
		err = wrongError("a cut at the first key was agreed to")
	}
	return err
}
