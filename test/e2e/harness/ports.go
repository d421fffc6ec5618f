package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// Ports below the system's ephemeral range, so that no outgoing connection sits on one that a
// node was promised.
const (
	portMin = 20000
	portMax = 32000
)

// loopback is this process's own address: a port whose node is dead for a while would otherwise be taken
// by another program that looks for free ones, and clients would go on with a cluster that is not theirs.
// Where a system has 127.0.0.1 alone, that is it.
var loopback = sync.OnceValue(func() string {
	pid := os.Getpid()
	ip := fmt.Sprintf("127.%d.%d.%d", 1+(pid>>16)%253, pid>>8&255, pid&255)
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		return "127.0.0.1"
	}
	_ = l.Close()
	return ip
})

// Loopback is the address of nodes that have no other place.
func Loopback() string { return loopback() }

// handedOut are the ports that this process has promised to nodes.
type handedOut struct {
	mu   sync.Mutex
	used map[int]bool
}

// Port promises a port of loopback that nobody else gets.
func Port() (int, error) { return ports.next() }

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
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", loopback(), p))
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
