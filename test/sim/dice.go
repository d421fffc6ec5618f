package sim

import (
	"math/rand/v2"
	"time"
)

// dice is all the chance there is in a run: the seed decides it.
type dice struct{ rng *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0x706f6e746f6f6e))} }

// roll is true with a probability.
func (x dice) roll(p float64) bool { return p > 0 && x.rng.Float64() < p }

// pick returns one of some numbers.
func (x dice) pick(ns ...int) int { return ns[x.rng.IntN(len(ns))] }

// between draws a duration, uniformly.
func (x dice) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(x.rng.Int64N(int64(hi-lo)+1))
}

// scaled draws a duration whose order of magnitude is uniform: short and long ones are alike
// likely (hazard 31).
func (x dice) scaled(lo, hi time.Duration) time.Duration {
	d := lo
	for d < hi && x.roll(0.75) {
		d *= 3
	}
	return min(hi, x.between(d/2+1, d*3))
}
