package etcdapi

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/peer"

	"pontoon/watchfanout"
)

// connections has for each connection with watch streams what these may keep together. The zero value is ready.
type connections struct {
	mu  sync.Mutex
	all map[net.Addr]*connection // by their addresses at the client, which gRPC has once for each
}

// connection is one of them.
type connection struct {
	group   *watchfanout.Group
	streams int
}

// join returns the bound of a new stream's connection; nil: it has none, as what comes from inside the process, where one connection is many clients'.
// leave is called when the stream has ended.
func (c *connections) join(ctx context.Context) (group *watchfanout.Group, leave func()) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, func() {}
	}
	switch p.Addr.(type) {
	case *net.TCPAddr, *net.UnixAddr:
	default:
		return nil, func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[net.Addr]*connection{}
	}
	of := c.all[p.Addr]
	if of == nil {
		of = &connection{group: watchfanout.NewGroup(0)}
		c.all[p.Addr] = of
	}
	of.streams++
	return of.group, func() { c.leave(p.Addr) }
}

func (c *connections) leave(addr net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.all[addr]
	if of.streams--; of.streams == 0 {
		delete(c.all, addr)
	}
}
