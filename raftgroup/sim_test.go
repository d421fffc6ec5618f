package raftgroup_test

import (
	"flag"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

var (
	simSeed  = flag.Int64("seed", 0, "run only this seed of the simulation")
	simSeeds = flag.Int64("seeds", 30, "how many seeds the simulation runs")
	simSteps = flag.Int("steps", 3000, "how long each is")
)

// TestSimulation runs small clusters through random schedules and faults, and checks what the
// host promises.
func TestSimulation(t *testing.T) {
	first, last := int64(1), *simSeeds
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	losses, full := 0, uint64(0)
	for seed := first; seed <= last; seed++ {
		s := newSim(t, seed)
		err := s.run()
		losses += s.losses
		for _, n := range s.c.Nodes {
			if n.Host != nil {
				full += n.Host.Stats().MessagesDropped
			}
		}
		if err != nil {
			t.Fatalf("%v\nagain: go test ./raftgroup -run TestSimulation -seed=%d -steps=%d", err, seed, *simSteps)
		}
	}
	if losses == 0 && first != last {
		t.Fatal("no replica has lost its state in any run")
	}
	if full == 0 && first != last {
		t.Fatal("no message has been dropped for want of room in any run")
	}
	t.Logf("%d states lost, %d messages dropped for want of room", losses, full)
}

// sim is one run, and what it has seen so far.
type sim struct {
	rnd     *rand.Rand
	c       *simtest.Cluster
	groups  []shard.RangeID
	history map[shard.RangeID][]simtest.Applied // the longest log that any machine has applied
	checked map[*simtest.Machine]int            // entries that agree with history
	dropped map[string]bool
	next    int
	err     error
	proofs  int
	leases  int
	losses  int
}

func newSim(t *testing.T, seed int64) *sim {
	cryptotest.SetGlobalRandom(t, uint64(seed))
	s := &sim{
		rnd:     rand.New(rand.NewSource(seed)),
		c:       simtest.NewCluster(3),
		groups:  []shard.RangeID{1, 2},
		history: map[shard.RangeID][]simtest.Applied{},
		checked: map[*simtest.Machine]int{},
		dropped: map[string]bool{},
	}
	s.c.Config = func(c *raftgroup.Config) {
		c.Choose = s.rnd.Intn
		c.CatchUpEntries = 64
		if seed%2 == 0 { // there is hardly room for anything
			c.MaxUnwrittenBytes, c.MaxReceivedMessages = 40, 4
		}
	}
	s.c.First = 1
	s.c.AddGroup(raftgroup.GroupConfig{ID: 1, Lease: true})
	s.c.AddGroup(raftgroup.GroupConfig{ID: 2})
	for _, n := range s.c.Nodes {
		n.Machines[2].AutoFlush = false
	}
	return s
}

func (s *sim) failf(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

func (s *sim) run() error {
	if err := s.c.StartAll(); err != nil {
		return err
	}
	for i := 0; i < *simSteps && s.err == nil; i++ {
		s.act()
		s.check()
	}
	s.recover()
	return s.err
}

func (s *sim) someNode() *simtest.Node { return s.c.Nodes[s.rnd.Intn(len(s.c.Nodes))] }

// act does one random thing; faults are rare, work is not.
func (s *sim) act() {
	n, g := s.someNode(), s.groups[s.rnd.Intn(len(s.groups))]
	switch k := s.rnd.Intn(1000); {
	case k < 400:
		for range 1 + s.rnd.Intn(4) {
			if n.Host != nil {
				n.Host.Step()
			}
		}
		s.c.Revive(n)
	case k < 750:
		for range 1 + s.rnd.Intn(4) {
			s.c.Net.DeliverSome(s.rnd.Intn)
		}
	case k < 850:
		s.c.Clock.Advance(100 * time.Millisecond)
		for _, n := range s.c.Nodes {
			if n.Host != nil && s.rnd.Intn(10) > 0 {
				n.Host.Tick()
			}
		}
	case k < 920:
		s.propose(n, g)
	case k < 950:
		s.confirm(n, g)
	case k < 965:
		n.Machines[g].Flush()
	case k < 975 && n.Host != nil:
		n.Host.TransferLeader(g, shard.ReplicaID(1+s.rnd.Intn(3)))
	case k < 985:
		s.c.Net.Heal()
	case k < 990:
		s.c.Net.Cut(n.ID, s.someNode().ID)
	case k < 992:
		s.c.Net.Isolate(n.ID)
	case k < 995 && n.Host != nil:
		s.c.Crash(n.ID)
	case k < 996 && n.Host != nil:
		s.lose(n, g)
	case n.Host == nil:
		if err := s.c.Start(n.ID); err != nil {
			s.failf("start %v: %w", n.ID, err)
		}
	}
}

// lose makes one replica of a group lose its state: with two of three gone there is no majority
// that could give it back.
func (s *sim) lose(n *simtest.Node, g shard.RangeID) {
	for _, other := range s.c.Nodes {
		if other.Lost(g) || other.Machines[g].State.Index == 0 {
			return
		}
	}
	if err := s.c.Lose(n.ID, g); err != nil {
		s.failf("lose %v on node %v: %w", g, n.ID, err)
	}
	s.losses++
}

func (s *sim) propose(n *simtest.Node, g shard.RangeID) {
	if n.Host == nil {
		return
	}
	st, _ := n.Host.Status(g)
	for range 1 + s.rnd.Intn(12) {
		s.next++
		data := fmt.Sprintf("g%d-%d", g, s.next)
		drop := func(error) { s.dropped[data] = true }
		if err := n.Host.ProposeFunc(g, st.Term, []byte(data), drop); err != nil {
			drop(err)
		}
	}
}

// confirm checks that a proof covers everything that anybody had applied before it was asked for.
func (s *sim) confirm(n *simtest.Node, g shard.RangeID) {
	if n.Host == nil {
		return
	}
	st, _ := n.Host.Status(g)
	var known uint64
	for _, other := range s.c.Nodes {
		if m := other.Machines[g]; m != nil {
			known = max(known, m.State.Index)
		}
	}
	h := n.Host
	h.Confirm(g, st.Term, func(ok bool, commit uint64) {
		if ok && n.Host == h {
			s.proofs++
			if commit < known {
				s.failf("node %v proved commit %d of %v in term %d, but %d had been applied", n.ID, commit, g, st.Term, known)
			}
		}
	})
}

func (s *sim) check() {
	for _, n := range s.c.Nodes {
		if n.Fatal != nil || len(n.GroupErrors) > 0 {
			s.failf("node %v: %v %v", n.ID, n.Fatal, n.GroupErrors)
		}
		for _, g := range s.groups {
			s.checkHistory(n, g)
		}
	}
	s.checkLease()
}

// checkHistory compares what a machine has applied with what any machine ever has.
func (s *sim) checkHistory(n *simtest.Node, g shard.RangeID) {
	m := n.Machines[g]
	if m == nil {
		return
	}
	have := m.State.Entries
	from := min(s.checked[m], len(have))
	for i := from; i < len(have); i++ {
		if i == len(s.history[g]) {
			if s.dropped[have[i].Data] {
				s.failf("node %v applied %s, which was reported as dropped", n.ID, have[i].Data)
			}
			s.history[g] = append(s.history[g], have[i])
		}
		if have[i] != s.history[g][i] {
			s.failf("node %v applied %v in %v where another applied %v", n.ID, have[i], g, s.history[g][i])
		}
	}
	s.checked[m] = len(have)
}

// checkLease: while a leader holds a lease, nobody leads a higher term.
func (s *sim) checkLease() {
	for _, n := range s.c.Nodes {
		if n.Host == nil {
			continue
		}
		st, _ := n.Host.Status(1)
		if _, ok := n.Host.LeaseUntil(1, st.Term); !ok {
			continue
		}
		s.leases++
		for _, other := range s.c.Nodes {
			if other.Host == nil {
				continue
			}
			if o, _ := other.Host.Status(1); o.IsLeader && o.Term > st.Term {
				s.failf("node %v has a lease in term %d while %v leads term %d", n.ID, st.Term, other.ID, o.Term)
			}
		}
	}
}

// recover ends all faults: the cluster must come back, with everything that anybody applied.
func (s *sim) recover() {
	s.c.Net.Heal()
	for _, n := range s.c.Nodes {
		if n.Host == nil {
			if err := s.c.Start(n.ID); err != nil {
				s.failf("start %v: %w", n.ID, err)
				return
			}
		}
	}
	s.c.Tick(60)
	for _, g := range s.groups {
		lead, term := s.c.Leader(g)
		if lead == 0 {
			s.failf("%v has no leader after all faults ended", g)
			return
		}
		if err := s.c.Node(lead).Host.Propose(g, term, []byte("last")); err != nil {
			s.failf("propose at the end: %w", err)
		}
	}
	s.c.Tick(3)
	s.check()
	for _, g := range s.groups {
		for _, n := range s.c.Nodes {
			if !slices.Equal(n.Machines[g].State.Entries, s.history[g]) {
				s.failf("node %v has %d entries of %v, want %d", n.ID, len(n.Machines[g].State.Entries), g, len(s.history[g]))
			}
		}
	}
}
