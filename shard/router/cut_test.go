package router_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/router"
)

// movingPin is a moment that a replica holds: of how many versions each key has.
type movingPin struct {
	span     shard.Span
	versions map[string]int
}

// export serves the calls of an export.
func (m *moving) export(to shard.NodeID, req *pb.PeerRequest) (*pb.PeerResponse, error) {
	if m.rnd.IntN(12) == 0 {
		return nil, shard.ErrUnavailable
	}
	switch {
	case req.Pin != nil:
		return m.pin(to, req.Pin)
	case req.PinPage != nil:
		return m.pinPage(req.PinPage)
	case req.PinKeep != nil:
		return &pb.PeerResponse{Empty: &pb.Empty{}}, nil
	}
	return nil, shard.ErrUnimplemented
}

func (m *moving) pin(_ shard.NodeID, p *pb.PinRequest) (*pb.PeerResponse, error) {
	if err := m.holds(p.Range, p.Span); err != nil {
		return nil, err
	}
	m.checkFenced("pin", p.Range, p.MinIndex, pb.ToSpan(p.Span), m.cutAt)
	pin := movingPin{pb.ToSpan(p.Span), map[string]int{}}
	for key, versions := range m.data {
		pin.versions[key] = len(versions)
	}
	m.pins = append(m.pins, pin)
	return m.answer(p.Range, p.Generation, &pb.PeerResponse{Pin: &pb.PinResponse{Pin: uint64(len(m.pins))}})
}

// pinPage has a few versions, of each key the newest first. A pin may go away: then nothing is had of it any more.
func (m *moving) pinPage(p *pb.PinPageRequest) (*pb.PeerResponse, error) {
	pin := m.pins[p.Pin-1]
	if m.rnd.IntN(15) == 0 {
		m.pins[p.Pin-1].versions = nil
	}
	if pin.versions == nil {
		return nil, shard.ErrUnavailable
	}
	if !pin.span.ContainsSpan(pb.ToSpan(p.Span)) {
		m.t.Errorf("a page of %v of a moment of %v", pb.ToSpan(p.Span), pin.span)
	}
	left, out := m.rnd.IntN(6), &pb.PinPageResponse{}
	for i := range movingKeys {
		key := movingKey(i)
		if !pb.ToSpan(p.Span).Contains([]byte(key)) {
			continue
		}
		for _, kv := range slices.Backward(m.data[key][:pin.versions[key]]) {
			if kv.ModRevision > p.To || p.Seen && (key < string(p.Key) || key == string(p.Key) && kv.ModRevision >= p.Main) {
				continue
			}
			row := fmt.Sprintf("%s@%d", key, kv.ModRevision)
			out.Rows = append(binary.AppendUvarint(out.Rows, uint64(len(row))), row...)
			if out.Key, out.Main = []byte(key), kv.ModRevision; left == 0 {
				out.More = true
				return &pb.PeerResponse{PinPage: out}, nil
			}
			left--
		}
	}
	return &pb.PeerResponse{PinPage: out}, nil
}

// TestACutOfMovingRanges: a cut has every version at or below its revision once, whatever becomes of ranges and replicas between any two calls.
func TestACutOfMovingRanges(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { cutMoving(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func cutMoving(t *testing.T, seed uint64) {
	m := newMoving(t, seed)
	r, err := router.New(router.Config{Peers: m, Cluster: m, Local: m, Patience: time.Minute, Backoff: time.Millisecond, Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		m.mu.Lock()
		m.cutAt = m.rev
		m.mu.Unlock()
		cut, err := r.Cut(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = cut.Rows(t.Context(), func(rows []byte) error {
			for len(rows) > 0 {
				n, k := binary.Uvarint(rows)
				got, rows = append(got, string(rows[k:k+int(n)])), rows[k+int(n):]
			}
			return nil
		})
		cut.Close()
		if err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		var want []string
		for key, versions := range m.data {
			for _, kv := range versions {
				if kv.ModRevision <= cut.Revision {
					want = append(want, fmt.Sprintf("%s@%d", key, kv.ModRevision))
				}
			}
		}
		m.mu.Unlock()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("a cut at %d has %q, not %q", cut.Revision, got, want)
		}
	}
}
