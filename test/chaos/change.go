package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"pontoon/test/e2e/harness"
)

const (
	// askPatience is for how long a node may decide on a change.
	askPatience = 2 * time.Second
	// opsPatience is for how long ops may go on when nothing hurts the cluster any more.
	opsPatience = time.Minute
)

// changer has something of the cluster changed, again and again, by way of any node: as a fault of its own, or beside others.
type changer struct {
	s     *site
	what  string        // the fault's name
	text  string        // what it does
	pause time.Duration // the longest between two, while nothing else is done to the cluster
	// ask has one change begun by way of a node. r is its alone. The error is what the node has said, or errNothing.
	ask func(ctx context.Context, r *rand.Rand, via *harness.Node) error

	mu    sync.Mutex
	rng   *rand.Rand
	left  int // that may still be begun, which bounds what becomes of the ranges
	begun int
	wrong []string
	wg    sync.WaitGroup
}

// errNothing says that there is nothing to change at the moment, and wrongError that the cluster has agreed to what it must not.
var errNothing = errors.New("nothing to change")

type wrongError string

func (e wrongError) Error() string { return string(e) }

// draw picks a node to ask, and the chance that goes with it. false: there were enough of them.
func (c *changer) draw() (*harness.Node, *rand.Rand, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return nil, nil, false
	}
	c.left--
	return c.s.c.Nodes[c.rng.IntN(len(c.s.c.Nodes))], rand.New(rand.NewPCG(c.rng.Uint64(), 0)), true
}

// one begins a change. That a node or the meta group is out of reach is the fault's affair.
func (c *changer) one(ctx context.Context) {
	via, r, ok := c.draw()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	err := c.ask(ctx, r, via)
	no, wrong := (*harness.Refusal)(nil), wrongError("")
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.begun++
	case errors.As(err, &wrong), errors.As(err, &no) && no.Status == 500:
		c.wrong = append(c.wrong, fmt.Sprintf("%s by way of %s: %v", c.what, via.Name, err))
	}
}

// along begins a change without waiting for anything: the fault that comes next meets it under way.
func (c *changer) along(ctx context.Context) { c.wg.Go(func() { c.one(ctx) }) }

// until begins changes until ctx ends.
func (c *changer) until(ctx context.Context) {
	for ctx.Err() == nil {
		c.one(ctx)
		c.mu.Lock()
		d := time.Duration(c.rng.Int64N(int64(c.pause)))
		c.mu.Unlock()
		pause(ctx, d)
	}
}

// changers are those of the faults that there are.
func (s *site) changers(fs []*fault) (out []*changer) {
	for i, c := range []*changer{
		{what: "split", text: "ranges are cut", pause: 800 * time.Millisecond, left: 160, ask: (&splitter{s: s}).ask},
		{what: "move", text: "replicas move", pause: 500 * time.Millisecond, left: 400, ask: s.askMove},
		{what: "merge", text: "ranges merge", pause: 400 * time.Millisecond, left: 400, ask: s.askMerge},
		{what: "metamove", text: "the meta group moves", pause: 2 * time.Second, left: 100, ask: s.askMetaMove},
	} {
		if anyNamed(fs, c.what) {
			c.s, c.rng = s, rand.New(rand.NewPCG(s.cfg.seed, uint64(2+i)))
			out = append(out, c)
		}
	}
	return out
}

// changing has one kind of changes made, one after the other.
func changing(what string) func(ctx context.Context, o *ordeal) (*injury, error) {
	return func(ctx context.Context, o *ordeal) (*injury, error) {
		for _, c := range o.changes {
			if c.what == what {
				return o.during(ctx, c.text, c.until), nil
			}
		}
		return nil, fmt.Errorf("nobody is there to %s", what)
	}
}

// during does something until it is healed.
func (o *ordeal) during(ctx context.Context, text string, do func(context.Context)) *injury {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(ctx)
	}()
	return &injury{text: text, healthy: o.c.Nodes, heal: func(context.Context) error {
		cancel()
		<-done
		return nil
	}}
}

// changesOver waits until all that was decided is over, whoever has decided it and was killed before the answer left, and nothing is left of what was given
// up.
func (o *ordeal) changesOver(ctx context.Context) {
	for _, c := range o.changes {
		c.wg.Wait()
		for _, w := range c.wrong {
			o.found("%s", w)
		}
		o.say("%s: %d were agreed to", c.what, c.begun)
	}
	if o.members != nil {
		o.members.finish(ctx, &o.findings)
	}
	if len(o.changes) == 0 && o.members == nil {
		return
	}
	var list []harness.Op
	err := eventually(ctx, opsPatience, func(ctx context.Context) (err error) {
		list, err = o.ops(o.c.Nodes[0]).AllOver(ctx)
		return err
	})
	if err == nil {
		err = eventually(ctx, opsPatience, o.noOrphans)
	}
	if err != nil {
		o.found("%v", err)
	}
	o.sayOps(list)
}

// sayOps tells what became of the last ops.
func (o *ordeal) sayOps(list []harness.Op) {
	done, stood, failures := map[string]int{}, map[string][]time.Duration{}, map[string]int{}
	for i := range list {
		switch op := &list[i]; {
		case op.Failure != "":
			failures[op.Kind+": "+op.Failure]++
		case op.Over():
			done[op.Kind]++
			if op.StoodMicros != 0 {
				stood[op.Kind] = append(stood[op.Kind], op.Stood())
			}
		}
	}
	for kind, n := range done {
		o.say("of the last %d ops %d are a %s that is done; requests waited (s): %s", len(list), n, kind, spread(stood[kind]))
	}
	for why, n := range failures {
		o.say("%d ops were given up: %s", n, why)
	}
}

// noOrphans: each node has the files of its replicas, and of no other.
func (o *ordeal) noOrphans(ctx context.Context) error {
	list, err := o.ops(o.c.Nodes[0]).Ranges(ctx)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, r := range list {
		for _, on := range r.Replicas {
			want[fmt.Sprintf("%s/r%d", on.Name, r.ID)] = true
		}
	}
	for i, n := range o.c.Nodes {
		var ents []os.DirEntry
		read := func() (err error) {
			ents, err = os.ReadDir(filepath.Join(n.DataDir, "ranges"))
			return err
		}
		if o.lab == nil {
			err = read()
		} else { // which may have a disk of its own, that nobody else sees
			err = o.lab.Hosts[i].Do(read)
		}
		if err != nil {
			return err
		}
		for _, e := range ents {
			if name := n.Name + "/" + e.Name(); !want[name] {
				return fmt.Errorf("%s is still there, and its range is elsewhere", name)
			}
		}
	}
	return nil
}
