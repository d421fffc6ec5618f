package host

import (
	"fmt"

	"pontoon/shard"
)

const (
	roomAgain  = 16 << 20 // bytes that are free again where a disk was full
	spareShare = 15       // percent of the disk that must be free for a replica to come: what is here already grows, too
)

// room is how much there is on the disk of the replicas. Tests have disks of their own.
type room struct {
	dir        string
	free, size func(dir string) (int64, error) // in bytes
}

// again reports whether there is some where there was none.
func (m *room) again() bool {
	free, err := m.free(m.dir)
	return err == nil && free >= roomAgain
}

// spare refuses a new replica while the disk is nearly full: shard.ErrNoSpace.
func (m *room) spare() error {
	free, err := m.free(m.dir)
	if err != nil {
		return err
	}
	size, err := m.size(m.dir)
	if err != nil || free >= size/100*spareShare {
		return err
	}
	return fmt.Errorf("%w: less than %d %% of the disk are free, and no new replica comes: free some of it, or move ranges to other nodes", shard.ErrNoSpace, spareShare)
}
