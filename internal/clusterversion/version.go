package clusterversion

import (
	"errors"
	"fmt"
)

// Version is a version of the formats. 0 stands for First: nobody has said anything else.
type Version uint32

const (
	// First is the version of the first release.
	First Version = 1
	// Newest is what this build speaks. Whoever adds a Feature raises it.
	Newest Version = 4
)

// Feature is something that only nodes from a version on can read.
type Feature struct {
	Name  string
	Since Version
}

// Formats are the log entries, meta entries and peer messages of the first release.
var Formats = Feature{Name: "the formats of the first release", Since: First}

// Features lists every feature, in the order of versions. A new kind of entry or message gets a row, and a
// version of its own if it is the first since a release.
var Features = []Feature{Formats, Splits, Moves, Merges, Members, Borders, Settings, Exports, Distrust, Contents, Links}

// Splits are ranges that are cut: the ops of the meta group, the entries Split and GenRise, and feeds with borders.
var Splits = Feature{Name: "ranges that split", Since: 2}

// Moves are changes of who holds a range: ops that move replicas, and changes of a configuration in the log of a range.
var Moves = Feature{Name: "replicas that move", Since: 2}

// Members are members that are added, removed, drained and so on while the cluster runs.
var Members = Feature{Name: "changes of the members", Since: 2}

// Merges are ranges that become part of their left neighbours: the op, and the entries Freeze and Merge.
var Merges = Feature{Name: "ranges that merge", Since: 2}

// Borders are borders between ranges that stay because somebody has asked for it.
var Borders = Feature{Name: "borders that stay", Since: 2}

// Settings are conditions on what the oracle allocates, and settings that have a version, are lent and pushed: of alarms, quotas, users.
var Settings = Feature{Name: "settings with a version", Since: 3}

// Exports are moments of replicas that are held and read for a snapshot of the whole store.
var Exports = Feature{Name: "snapshots of the whole store", Since: 3}

// Distrust is that a node is told that its replica of a range differs from the others'.
var Distrust = Feature{Name: "replicas that are distrusted", Since: 3}

// Contents are hashes of what there is at a revision, without what was before.
var Contents = Feature{Name: "hashes of contents", Since: 3}

// Links are streams by which the feeds of many ranges come from a node. Nobody asks before one is opened: a node that has none refuses it, and
// another one is asked. No release had feeds by any other way.
var Links = Feature{Name: "links for the feeds of ranges", Since: 4}

// ErrTooNew is the reason why a node stops whose build does not speak the cluster's version.
var ErrTooNew = errors.New("this build is too old for the cluster")

// OrFirst is v, or First where nothing is said.
func (v Version) OrFirst() Version { return max(v, First) }

// Active reports whether f may be written in a cluster of this version: all members can read it.
func (v Version) Active(f Feature) bool { return v.OrFirst() >= f.Since }

// Join tells whether a node that speaks v can be part of a cluster of the given version: nil, or ErrTooNew
// with both numbers.
func (v Version) Join(cluster Version) error {
	if cluster.OrFirst() <= v.OrFirst() {
		return nil
	}
	return fmt.Errorf("%w: the cluster has moved to version %d of the formats, and this build speaks versions up to %d; start a newer one on this data directory",
		ErrTooNew, cluster, v.OrFirst())
}
