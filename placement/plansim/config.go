package plansim

import (
	"fmt"

	"pontoon/placement"
)

// LoadConfig is what clients do. Rates are those of a whole cluster.
type LoadConfig struct {
	Cores    float64 // processors' worth of work for leaders
	Exponent float64 // of the power law over ranges; 0: all alike
	Noise    float64 // share by which a report may be off, either way
	Drift    float64 // share of the ranges that get another's load, an hour
	HotKeys  float64 // share of the ranges whose load is one key's; if there are any, the busiest is one of them
	Tail     bool    // the last range takes writes at its end
	Growth   float64 // bytes that stay of one write
}

// FaultConfig is what befalls nodes: how many times an hour.
type FaultConfig struct {
	Blinks  float64 // a node is silent for less than it takes to be replaced
	Crashes float64 // a node is gone for half an hour
	Losses  float64 // a node is gone for good, and another one comes
	Fills   float64 // something else fills a node's disk, for half an hour
	Drains  float64 // a node is drained, and used again once it is empty
	Removes float64 // a node is removed while it lives, and another one comes
	OpFails float64 // share of ops that end without effect
}

// Config describes a run.
type Config struct {
	Seed              uint64
	Nodes, Zones      int
	Ranges            int
	ReplicationFactor int
	Crowded           float64 // share of the nodes that hold everything at first; 1: all of them
	MeanBytes         float64 // of a range
	DiskBytes         float64 // of a node
	Cores             float64 // of a node
	Load              LoadConfig
	Fault             FaultConfig
	Limits            placement.Limits
	PlanEvery         int // seconds from one round to the next
	CutEvery          int // seconds from one moment at which cuts take effect to the next
	MoveSeconds       float64
	RepairSeconds     int    // for how long a replica may be missing or too near to another
	Test              string // that runs it, for whoever wants to see it again; empty: TestReplay
}

// Small is a world of some nodes, with everything in it.
func Small(seed uint64) Config {
	return Config{
		Seed: seed, Nodes: 9, Zones: 3, Ranges: 300, ReplicationFactor: 3, Crowded: 1, MeanBytes: 80 << 20, DiskBytes: 400 << 30, Cores: 8,
		Load: LoadConfig{Cores: 12, Exponent: 0.8, Noise: 0.1, HotKeys: 0.02, Growth: 100}, Limits: placement.DefaultLimits(),
		PlanEvery: 1, CutEvery: 1, MoveSeconds: 0.5, RepairSeconds: 1200,
	}
}

// Large is a world of a thousand nodes and a million ranges; ten of the nodes are empty at first.
func Large(seed uint64) Config {
	c := Small(seed)
	c.Nodes, c.Zones, c.Ranges, c.Crowded = 1000, 5, 1_000_000, 0.99
	c.DiskBytes, c.Load.Cores, c.Load.Exponent, c.Load.HotKeys = 2<<40, 2500, 0.6, 0
	c.PlanEvery, c.CutEvery, c.MoveSeconds = 4, 60, 0.2
	return c
}

// Replay is the command that shows a run again.
func (c Config) Replay() string {
	if c.Test != "" {
		return fmt.Sprintf("go test ./placement/plansim -count=1 -v -run '^%s$'", c.Test)
	}
	return fmt.Sprintf("go test ./placement/plansim -count=1 -v -run 'TestReplay$' -args -seed=%d", c.Seed)
}
