package sim

import (
	"bytes"
	"fmt"
	"sync"

	"pontoon/placement"
	"pontoon/shard"
)

// agreed are the settings of every version, as the first process has gone by them that had it. All others have to have the same, however they came to them.
type agreed struct {
	sync.Mutex         // processes tell of them from goroutines of their own
	seen               map[uint64][]byte
	whole, differences int
	err                error // the first failure
}

// goesBy is told by a process of the settings by which it goes from now on.
func (a *agreed) goesBy(node shard.NodeID, s *placement.Settings) {
	raw, err := s.ToPB().MarshalVT()
	a.Lock()
	defer a.Unlock()
	if a.seen == nil {
		a.seen = make(map[uint64][]byte)
	}
	first, known := a.seen[s.Version]
	switch {
	case a.err != nil:
	case err != nil:
		a.err = err
	case known && !bytes.Equal(first, raw):
		a.err = fmt.Errorf("settings: node %v goes by other ones of version %d than another node", node, s.Version)
	}
	a.seen[s.Version] = raw
}

// took counts how a process that is closed came to its settings.
func (a *agreed) took(whole, differences uint64) {
	a.Lock()
	defer a.Unlock()
	a.whole, a.differences = a.whole+int(whole), a.differences+int(differences)
}
