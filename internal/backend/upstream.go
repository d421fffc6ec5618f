package backend

import (
	"context"
	"fmt"
	"sync"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// places are where gateways are that feeds come from.
type places struct {
	mu   sync.Mutex
	byID map[shard.NodeID]string // their addresses
}

// resolve returns the address of a member, or of such a gateway.
func (r *Remote) resolve(node shard.NodeID) (addr string, ok bool) {
	if addr, ok = r.dir.Resolve(node); ok {
		return addr, ok
	}
	r.places.mu.Lock()
	defer r.places.mu.Unlock()
	addr, ok = r.places.byID[node]
	return addr, ok
}

// Find asks who is at a peer URL, and what it knows of the cluster.
func (r *Remote) Find(ctx context.Context, url string) (*pb.DiscoverResponse, error) {
	addr, ok := peer.URLAddr(url)
	if !ok {
		return nil, fmt.Errorf("%w: %q is no peer URL", shard.ErrInvalid, url)
	}
	return peer.Discover(ctx, peer.SecureBy(r.cfg.TLS), addr, false)
}

// Place says at which peer URL a gateway is to be reached from here on; "": nowhere.
func (r *Remote) Place(node shard.NodeID, url string) {
	addr, ok := peer.URLAddr(url)
	r.places.mu.Lock()
	if ok {
		r.places.byID[node] = addr
	} else {
		delete(r.places.byID, node)
	}
	r.places.mu.Unlock()
	if !ok {
		r.dialer.Forget(node)
	}
}
