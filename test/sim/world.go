package sim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"

	"pontoon/shard"
)

// Config says what is simulated. The zero value of a field means its default.
type Config struct {
	Seed   uint64
	Steps  int  // operations of clients while there are faults; default 400
	Nodes  int  // default: 3, 4 or 5, by the seed
	Ranges int  // default: 4 to 6, by the seed
	Multi  bool // transactions and deletions over several ranges
	Calm   bool // no faults at all
	// Dir takes the files of the nodes, which are removed in the end. Required.
	Dir string
	// Trace, if set, is told of every event.
	Trace io.Writer
}

// Stats counts what a run did.
type Stats struct {
	Virtual            time.Duration
	Events, Ops, Acked int
	Ambiguous, Failed  int
	Reads, WatchEvents int
	Progress           int // notifications of watchers that were checked
	Revisions          int
	Faults, Crashes    int
	Changes
	Settings
	Links
	Snapshots, Frames, Lost int
	Hashes                  int // states of replicas that were compared
	Trace                   uint64
}

// Changes counts what became of ranges.
type Changes struct {
	Splits, Moves, Merges int // that were begun
	MetaMoves             int // of the meta group
	Joined, Left, Drained int // nodes
	Births, Waited        int // replicas that were cut off, and that got their state otherwise
	United                int // replicas that have become part of their left neighbours
	MetaRemoved           int // replicas of the meta group
	Removed               int // replicas that their ranges have given up, or that are part of others
	Spared                int // replicas that were closed without a fence
}

// Settings counts what became of alarms and of users.
type Settings struct {
	Alarms, Enabled int // raised; authentication turned on
	Grants, Revoked int // rights
	NoRoom, Denied  int // requests that were refused
	WatchesEnded    int // for want of a right
	Jumps           int // of clocks
	// Whole and Differences are how often a process had all of the settings, and what was otherwise than in those by which it went.
	Whole, Differences int
}

// Links counts what became of links.
type Links struct {
	Broken    int // links that broke
	Silent    int // of these, because nothing came
	Dropped   int // items that found no room
	Inherited int // feeds of children that came behind their parents'
	Resumed   int // feeds that went on without a gap behind a link that had broken
	Abandoned int // feeds that did not, because history was not to be had
	Narrow    int // items of feeds of some keys
	Widened   int // times that such a feed was wanted of more keys
	Passed    int // items that gateways had of feeds
	Mirrored  int // lists that were answered from memory
	Void      int // times that what was there was given up
	Audited   int // comparisons with replicas
	Taken     int // ranges that were mirrored because they were listed often
	GivenUp   int // of these, that were not any more
}

// Add adds up the counters of another run.
func (s *Stats) Add(o Stats) {
	s.Virtual += o.Virtual
	s.Events += o.Events
	s.Ops += o.Ops
	s.Acked += o.Acked
	s.Ambiguous += o.Ambiguous
	s.Failed += o.Failed
	s.Reads += o.Reads
	s.WatchEvents += o.WatchEvents
	s.Progress += o.Progress
	s.Revisions += o.Revisions
	s.Faults += o.Faults
	s.Splits, s.Births, s.Waited = s.Splits+o.Splits, s.Births+o.Births, s.Waited+o.Waited
	s.Moves, s.Removed = s.Moves+o.Moves, s.Removed+o.Removed
	s.MetaMoves, s.MetaRemoved = s.MetaMoves+o.MetaMoves, s.MetaRemoved+o.MetaRemoved
	s.Joined, s.Left, s.Drained = s.Joined+o.Joined, s.Left+o.Left, s.Drained+o.Drained
	s.Merges, s.United, s.Spared = s.Merges+o.Merges, s.United+o.United, s.Spared+o.Spared
	s.Crashes += o.Crashes
	s.Alarms, s.Enabled, s.Grants, s.Revoked = s.Alarms+o.Alarms, s.Enabled+o.Enabled, s.Grants+o.Grants, s.Revoked+o.Revoked
	s.NoRoom, s.Denied, s.WatchesEnded, s.Jumps = s.NoRoom+o.NoRoom, s.Denied+o.Denied, s.WatchesEnded+o.WatchesEnded, s.Jumps+o.Jumps
	s.Whole, s.Differences = s.Whole+o.Whole, s.Differences+o.Differences
	s.Snapshots += o.Snapshots
	s.Frames += o.Frames
	s.Lost += o.Lost
	s.Hashes += o.Hashes
	s.Broken, s.Silent, s.Dropped, s.Inherited = s.Broken+o.Broken, s.Silent+o.Silent, s.Dropped+o.Dropped, s.Inherited+o.Inherited
	s.Resumed, s.Abandoned, s.Narrow, s.Widened = s.Resumed+o.Resumed, s.Abandoned+o.Abandoned, s.Narrow+o.Narrow, s.Widened+o.Widened
	s.Passed, s.Mirrored, s.Void, s.Audited = s.Passed+o.Passed, s.Mirrored+o.Mirrored, s.Void+o.Void, s.Audited+o.Audited
	s.Taken, s.GivenUp = s.Taken+o.Taken, s.GivenUp+o.GivenUp
}

// traits are what a seed has drawn for the whole of a run.
type traits struct {
	audits bool // many transactions read several keys: of three seeds in ten
	quorum bool // the oracle asks a quorum for each answer, and clocks jump
	jumped bool // a clock has: leases end at any time
}

// world is one simulated cluster. Its fields belong to the loop.
type world struct {
	*timeline
	dice
	cfg Config
	traits
	stats Stats

	nodes     []*node
	gateways  []*node
	net       *network
	layout    *layout
	hist      *records
	clients   []*client
	watches   []*watcher
	orders    *orders
	faults    *faults
	leases    *leaseBook
	guest     guest
	admin     *admin
	agreed    agreed
	asked     int        // changes of ranges and members
	inspector *inspector // nil: not begun yet
}

// Run simulates a cluster and returns what it did, and the first promise that was broken. It must
// be called in a synctest bubble, with the process's randomness seeded.
func Run(cfg Config) (Stats, error) {
	w := newWorld(cfg)
	err := cmp.Or(w.run(), w.agreed.err)
	w.stats.Whole, w.stats.Differences = w.agreed.whole, w.agreed.differences
	w.stats.Events = w.events
	w.stats.Trace = w.hash.Sum64()
	w.stats.Virtual = time.Since(w.start)
	return w.stats, err
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, dice: newDice(cfg.Seed)}
	w.timeline = newTimeline(cfg.Trace, w.step)
	if w.cfg.Steps == 0 {
		w.cfg.Steps = 400
	}
	if w.cfg.Nodes == 0 {
		w.cfg.Nodes = w.pick(3, 3, 4, 5)
	}
	if w.cfg.Ranges == 0 {
		w.cfg.Ranges = 4 + w.rng.IntN(3)
	}
	w.audits = w.roll(0.3)
	w.quorum = w.roll(0.3)
	w.layout = newLayout(w.cfg.Nodes, w.cfg.Ranges)
	w.hist = newHistory(w)
	w.orders = newOrders(w)
	w.leases = newLeaseBook()
	w.admin = newAdmin(w)
	w.net = newNetwork(w)
	w.guest.w = w
	w.faults = newFaults(w)
	return w
}

// run is the story: start, work under faults, heal, look whether everything is well.
func (w *world) run() error {
	defer w.shutdown()
	for id := 1; id <= w.cfg.Nodes; id++ {
		n := newNode(w, shard.NodeID(id))
		w.nodes = append(w.nodes, n)
		if err := n.boot(); err != nil {
			return err
		}
	}
	if err := w.beginGateways(); err != nil {
		return err
	}
	w.beginClients()
	w.beginWatchers()
	w.admin.begin()
	w.inspector = beginInspection(w)
	w.faults.begin()
	if !w.loop(time.Hour, func() bool { return w.stats.Ops >= w.cfg.Steps }) {
		return cmp.Or(w.err, errors.New("liveness: the clients do not get on"))
	}
	w.faults.end()
	w.admin.end()
	w.endLoad()
	return cmp.Or(w.err, w.finish())
}

// step lets every host do what it may do now.
func (w *world) step() (did bool) {
	for _, n := range w.processes() {
		did = n.step() || did
	}
	return did
}

// shutdown ends every node, and what is under way.
func (w *world) shutdown() {
	for _, n := range w.processes() {
		n.destroy()
	}
	ended := func() bool {
		for _, n := range w.processes() {
			if n.closing > 0 {
				return false
			}
		}
		return true
	}
	failed := w.err
	for w.err = nil; !w.loop(time.Hour, ended); w.err = nil { // what goes wrong now may follow from what did before
		if failed = cmp.Or(failed, w.err); w.err == nil {
			failed = cmp.Or(failed, errors.New("a node that was stopped did not end"))
			break
		}
	}
	w.err = cmp.Or(failed, w.err)
}

// String sums up.
func (s *Stats) String() string {
	return fmt.Sprintf("%v simulated, %d events; %d operations: %d writes answered, %d reads checked, %d ambiguous, %d refused; "+
		"%d revisions, %d watch events, %d progress marks; %d faults, %d crashes, %d splits, %d moves, %d merges, %d moves of the meta group, %d nodes joined, %d left, %d drained, %d replicas born, %d united, %d waited, %d removed, %d of the meta group, %d snapshots, %d frames, %d lost; %d states compared; "+
		"%d alarms, %d requests refused for them; authentication turned on %d times, %d rights given and %d taken, %d requests refused and %d watches ended for want of one, settings told %d times whole and %d times by what has changed; %d clocks jumped; %d links broke, %d of them silent, %d items dropped, %d feeds inherited, %d gone on with and %d not, %d items of feeds of some keys, %d times widened; %d items at gateways, %d lists from memory, which was given up %d times and compared %d times, of %d ranges by themselves, of which %d were given up; %d times a replica was closed without a fence",
		s.Virtual.Round(time.Second), s.Events, s.Ops, s.Acked, s.Reads, s.Ambiguous, s.Failed, s.Revisions, s.WatchEvents, s.Progress,
		s.Faults, s.Crashes, s.Splits, s.Moves, s.Merges, s.MetaMoves, s.Joined, s.Left, s.Drained, s.Births, s.United, s.Waited, s.Removed, s.MetaRemoved, s.Snapshots, s.Frames, s.Lost, s.Hashes,
		s.Alarms, s.NoRoom, s.Enabled, s.Grants, s.Revoked, s.Denied, s.WatchesEnded, s.Whole, s.Differences, s.Jumps, s.Broken, s.Silent, s.Dropped, s.Inherited, s.Resumed, s.Abandoned, s.Narrow, s.Widened, s.Passed, s.Mirrored, s.Void, s.Audited, s.Taken, s.GivenUp, s.Spared)
}
