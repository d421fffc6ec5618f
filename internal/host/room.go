package host

import (
	"fmt"

	"pontoon/placement"
	"pontoon/shard"
)

// roomAgain is how many bytes are free again where a disk was full.
const roomAgain = 16 << 20

// room is how much there is on the disk of the replicas. Tests have disks of their own.
type room struct {
	dir   string
	space func(dir string) (free, used int64, err error) // in bytes, as the planner is told them
}

// again reports whether there is some where there was none.
func (m *room) again() bool {
	free, _, err := m.space(m.dir)
	return err == nil && free >= roomAgain
}

// spare refuses a new replica while the disk is nearly full: shard.ErrNoSpace. It judges as those do who send replicas, or what they send would be refused for ever.
func (m *room) spare() error {
	free, used, err := m.space(m.dir)
	limits := placement.DefaultLimits().Move
	if err != nil || !limits.Full(free, used) {
		return err
	}
	return fmt.Errorf("%w: less than %.0f %% of the disk are free, and no new replica comes: free some of it, or move ranges to other nodes", shard.ErrNoSpace, 100*limits.DiskFull)
}
