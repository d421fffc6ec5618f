package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"pontoon/test/e2e/harness"
)

const (
	// movesMax bounds the moves of a run.
	movesMax = 400
	// movePause is the longest pause between two of them while they are what is done to the cluster.
	movePause = 500 * time.Millisecond
)

// mover lets replicas move to nodes that have none of their range.
type mover struct {
	s *site

	mu    sync.Mutex
	rng   *rand.Rand
	left  int // moves that may still be begun
	begun int
	wrong []string
	wg    sync.WaitGroup
}

func newMover(s *site, seed uint64) *mover {
	return &mover{s: s, rng: rand.New(rand.NewPCG(seed, 3)), left: movesMax}
}

// node picks one to ask; nil: there were enough moves.
func (m *mover) node() *harness.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		return nil
	}
	m.left--
	return m.s.c.Nodes[m.rng.IntN(len(m.s.c.Nodes))]
}

// pick picks a range, a node that has it, and one that has not.
func (m *mover) pick(list []harness.RangeInfo) (id uint64, from, to string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(list) == 0 {
		return 0, "", "", false
	}
	r := list[m.rng.IntN(len(list))]
	var free []string
	for _, n := range m.s.c.Nodes {
		if !slices.ContainsFunc(r.Replicas, func(on harness.ReplicaInfo) bool { return on.Name == n.Name }) {
			free = append(free, n.Name)
		}
	}
	if len(free) == 0 || len(r.Replicas) == 0 {
		return 0, "", "", false
	}
	return r.ID, r.Replicas[m.rng.IntN(len(r.Replicas))].Name, free[m.rng.IntN(len(free))], true
}

// one begins a move. That a node or the meta group is out of reach is the fault's affair.
func (m *mover) one(ctx context.Context) {
	n := m.node()
	if n == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, splitPatience)
	defer cancel()
	list, err := m.s.ops(n).Ranges(ctx)
	if err != nil {
		return
	}
	id, from, to, ok := m.pick(list)
	if !ok {
		return
	}
	_, err = m.s.ops(n).BeginMove(ctx, id, from, to, "chaos")
	no := (*harness.Refusal)(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.begun++
	case errors.As(err, &no) && no.Status == 500:
		m.wrong = append(m.wrong, fmt.Sprintf("%s does not move r%d from %s to %s: %v", n.Name, id, from, to, err))
	}
}

// along begins a move without waiting for anything: the fault that comes next meets it under way.
func (m *mover) along(ctx context.Context) { m.wg.Go(func() { m.one(ctx) }) }

// until begins moves until ctx ends.
func (m *mover) until(ctx context.Context) {
	for ctx.Err() == nil {
		m.one(ctx)
		m.mu.Lock()
		d := time.Duration(m.rng.Int64N(int64(movePause)))
		m.mu.Unlock()
		pause(ctx, d)
	}
}

// verdict waits until all that was decided is over, and nothing is left of what was given up.
func (m *mover) verdict(ctx context.Context, f *findings) {
	m.wg.Wait()
	for _, w := range m.wrong {
		f.found("%s", w)
	}
	err := eventually(ctx, opsPatience, func(ctx context.Context) error {
		_, err := m.s.ops(m.s.c.Nodes[0]).AllOver(ctx)
		return err
	})
	if err == nil {
		err = eventually(ctx, opsPatience, m.noOrphans)
	}
	if err != nil {
		f.found("%v", err)
	}
	f.say("%d moves were agreed to", m.begun)
}

// noOrphans: each node has the files of its replicas, and of no other.
func (m *mover) noOrphans(ctx context.Context) error {
	list, err := m.s.ops(m.s.c.Nodes[0]).Ranges(ctx)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, r := range list {
		for _, on := range r.Replicas {
			want[fmt.Sprintf("%s/r%d", on.Name, r.ID)] = true
		}
	}
	for _, n := range m.s.c.Nodes {
		ents, err := os.ReadDir(filepath.Join(n.DataDir, "ranges"))
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

// move lets replicas move, one after the other, by way of any node.
func move(ctx context.Context, o *ordeal) (*injury, error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.moves.until(ctx)
	}()
	return &injury{text: "replicas move", healthy: o.c.Nodes, heal: func(context.Context) error {
		cancel()
		<-done
		return nil
	}}, nil
}
