package lead

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard/replica/replicatest"
)

var (
	worldSeed  = flag.Uint64("world-seed", 0, "run TestRandomWorld with this seed alone")
	worldSeeds = flag.Uint64("world-seeds", 60, "how many seeds TestRandomWorld runs")
)

// TestRandomWorld drives four ranges with requests over one and several of them, while leaders come
// and go, messages are late, reordered and lost, the oracle changes, and leases end. In the end every
// answer must agree with the logs replayed in the order of their revisions, feeds must have been in
// order and true about what is closed, and nothing may be left locked.
func TestRandomWorld(t *testing.T) {
	if *worldSeed != 0 {
		runWorld(t, *worldSeed)
		return
	}
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("replay: go test ./shard/replica/lead -run TestRandomWorld -world-seed=%d", seed)
				}
			}()
			runWorld(t, seed)
		})
	}
}

// worldCuts are where the four keys are cut: transactions share ranges with other writes in some.
var worldCuts = [][]string{{"c"}, {"b", "d"}, {"b", "c", "d"}, {"c"}}

func startWorld(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed, worldCuts[seed%uint64(len(worldCuts))]...)
	w.lim.BatchCount, w.lim.Retries = 1+w.rng.IntN(5), 64
	for id := int64(1); id <= 2; id++ {
		w.leases[id] = &worldLease{grant: uint64(id)}
	}
	return w
}

func runWorld(t *testing.T, seed uint64) {
	w := startWorld(t, seed)
	w.lim.Allocs, w.lim.Retries, w.lim.BatchDelay = 1+w.rng.IntN(2), 8, w.rng.IntN(2) == 0
	faults := 10 + w.rng.IntN(200) // one step in so many
	grant := uint64(10)
	for range 3000 {
		switch {
		case w.rng.IntN(12) == 0:
			deadline := time.Duration(0)
			if w.rng.IntN(4) == 0 {
				deadline = time.Duration(1+w.rng.IntN(3000)) * time.Millisecond
			}
			w.issue(w.randomOp(), deadline)
		case w.rng.IntN(20) == 0:
			w.read("a", "z")
		case w.rng.IntN(faults) == 0:
			w.fault(&grant)
		case w.rng.IntN(30) == 0:
			w.tick(time.Duration(1+w.rng.IntN(1200)) * time.Millisecond)
		default:
			w.step()
		}
	}
	w.settle()
	w.check()
}

// TestRandomWorldDense: with no failure every revision is used, whatever collides.
func TestRandomWorldDense(t *testing.T) {
	for seed := uint64(1); seed <= *worldSeeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := startWorld(t, seed)
			w.quiet = true
			grant := uint64(10)
			for range 2000 {
				switch {
				case w.rng.IntN(100) == 0:
					w.endOrGrant(&grant)
				case w.rng.IntN(12) == 0:
					w.issue(w.randomOp(), 0)
				case w.rng.IntN(30) == 0:
					w.tick(time.Duration(1+w.rng.IntN(50)) * time.Millisecond)
				default:
					w.step()
				}
			}
			w.settle()
			w.check()
			w.checkDense()
		})
	}
}

// randomOp is a request that often goes over several ranges, and sometimes names a lease.
func (w *world) randomOp() *pb.Op {
	op := randomOp(w.rng, w.rev, 2)
	if p := op.GetPut(); p != nil && w.rng.IntN(2) == 0 {
		ops := []*pb.Op{op}
		for range 1 + w.rng.IntN(2) {
			ops = append(ops, replicatest.Put(randomKey(w.rng), fmt.Sprint(w.rng.IntN(1000))))
		}
		op = replicatest.Txn(nil, ops, nil)
	}
	if p := op.GetPut(); p != nil && w.rng.IntN(2) == 0 && !p.IgnoreValue {
		p.Lease = int64(1 + w.rng.IntN(2))
	}
	if x := op.GetTxn(); x != nil {
		for _, o := range x.Success {
			if p := o.GetPut(); p != nil && w.rng.IntN(4) == 0 && !p.IgnoreValue {
				p.Lease = int64(1 + w.rng.IntN(2))
			}
		}
	}
	return op
}

func (w *world) fault(grant *uint64) {
	switch w.rng.IntN(4) {
	case 0, 1:
		w.depose(w.envs[w.rng.IntN(len(w.envs))])
	case 2: // another oracle, above the limit of the one before
		w.epoch++
		w.rev += 10
	case 3:
		w.endOrGrant(grant)
	}
}

// endOrGrant ends a lease, or grants it anew.
func (w *world) endOrGrant(grant *uint64) {
	id := int64(1 + w.rng.IntN(2))
	if le := w.leases[id]; le == nil {
		*grant++
		w.leases[id] = &worldLease{grant: *grant}
	} else if !le.ending {
		w.expire(id)
	}
}
