package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports below the system's ephemeral range, so that no outgoing connection sits on one that a
// node was promised.
const (
	portMin = 20000
	portMax = 32000
)

// handedOut are the ports that this process has promised to nodes.
type handedOut struct {
	mu   sync.Mutex
	used map[int]bool
}

func (h *handedOut) next() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.used == nil {
		h.used = map[int]bool{}
	}
	for range 1000 {
		p := portMin + rand.IntN(portMax-portMin)
		if h.used[p] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, err
		}
		h.used[p] = true
		return p, nil
	}
	return 0, errors.New("no free port found")
}
