package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"pontoon/test/e2e/harness"
)

const (
	// splitsMax bounds the splits of a run, and so what becomes of its ranges.
	splitsMax = 160
	// splitPause is the longest pause between two of them while they are what is done to the cluster.
	splitPause = 800 * time.Millisecond
	// splitPatience is for how long a node may decide on one.
	splitPatience = 2 * time.Second
	// opsPatience is for how long ops may go on when nothing hurts the cluster any more.
	opsPatience = time.Minute
)

// splitter lets ranges be cut.
type splitter struct {
	s *site

	mu    sync.Mutex
	rng   *rand.Rand
	left  int    // splits that may still be begun
	last  string // where the last one was
	begun int
	wrong []string
	wg    sync.WaitGroup
}

func newSplitter(s *site, seed uint64) *splitter {
	return &splitter{s: s, rng: rand.New(rand.NewPCG(seed, 2)), left: splitsMax}
}

// isBorder reports whether ranges have always met at a key.
func isBorder(key string) bool { return key == "" || slices.Contains(prefixes[1:], key) }

// place picks a node and a key: one of the load's, or beside it, and now and then one where nobody may cut, or where
// somebody has just cut. false: there were enough of them.
func (sp *splitter) place() (*harness.Node, string, bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.left == 0 {
		return nil, "", false
	}
	sp.left--
	p := prefixes[sp.rng.IntN(len(prefixes))]
	key := fmt.Sprintf("%s%c%02d", p, "kl"[sp.rng.IntN(2)], sp.rng.IntN(6))
	switch sp.rng.IntN(10) {
	case 0:
		key = sp.last
	case 1:
		key = p // which is a border, but for the first
	case 2:
		key = ""
	case 3, 4, 5, 6:
		key += fmt.Sprintf("\x00%d", sp.rng.IntN(1000))
	}
	sp.last = key
	return sp.s.c.Nodes[sp.rng.IntN(len(sp.s.c.Nodes))], key, true
}

// one begins a split. That a node or the meta group is out of reach is the fault's affair.
func (sp *splitter) one(ctx context.Context) {
	n, key, ok := sp.place()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, splitPatience)
	defer cancel()
	_, err := sp.s.ops(n).BeginSplit(ctx, key, "chaos")
	no := (*harness.Refusal)(nil)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	switch {
	case err == nil && isBorder(key):
		sp.wrong = append(sp.wrong, fmt.Sprintf("%s has agreed to cut at %q, which is a border", n.Name, key))
	case err == nil:
		sp.begun++
	case errors.As(err, &no) && no.Status == 500:
		sp.wrong = append(sp.wrong, fmt.Sprintf("%s does not cut at %q: %v", n.Name, key, err))
	}
}

// along begins a split without waiting for anything: the fault that comes next meets it under way.
func (sp *splitter) along(ctx context.Context) { sp.wg.Go(func() { sp.one(ctx) }) }

// until begins splits until ctx ends.
func (sp *splitter) until(ctx context.Context) {
	for ctx.Err() == nil {
		sp.one(ctx)
		sp.mu.Lock()
		d := time.Duration(sp.rng.Int64N(int64(splitPause)))
		sp.mu.Unlock()
		pause(ctx, d)
	}
}

// verdict waits until all that was decided is over, whoever has decided it and was killed before the answer left.
func (sp *splitter) verdict(ctx context.Context, f *findings) {
	sp.wg.Wait()
	for _, w := range sp.wrong {
		f.found("%s", w)
	}
	var list []harness.Op
	err := eventually(ctx, opsPatience, func(ctx context.Context) (err error) {
		list, err = sp.s.ops(sp.s.c.Nodes[0]).AllOver(ctx)
		return err
	})
	if err != nil {
		f.found("%v", err)
	}
	done, stood, failures := 0, []time.Duration(nil), map[string]int{}
	for i := range list {
		switch op := &list[i]; {
		case op.Failure != "":
			failures[op.Failure]++
		case op.Over():
			done++
			if op.StoodMicros != 0 {
				stood = append(stood, op.Stood())
			}
		}
	}
	f.say("%d splits were agreed to; of the last %d ops %d are done; requests waited (s): %s", sp.begun, len(list), done, spread(stood))
	for why, n := range failures {
		f.say("%d ops were given up: %s", n, why)
	}
}

// split lets ranges be cut, one after the other, at any key and by way of any node.
func split(ctx context.Context, o *ordeal) (*injury, error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.splits.until(ctx)
	}()
	return &injury{text: "ranges are cut", healthy: o.c.Nodes, heal: func(context.Context) error {
		cancel()
		<-done
		return nil
	}}, nil
}
