package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica"
)

const (
	// exportsMax bounds the exports that hold something here: each node of the cluster makes one at a time.
	exportsMax = 16
	// pinsMax bounds what one holds here: one moment of each range that is here, and some once more after a failure.
	pinsMax = 1 << 16
	// exportPatience is how long an export is believed to go on that is not heard of. Who asks says so more often.
	exportPatience = 30 * time.Second
)

// pins are the moments of replicas that exports hold here. They end with the export, or when nothing is heard of it: a client or a node that has died
// keeps nothing from being deleted.
type pins struct {
	mu      sync.Mutex
	exports map[uint64]*exportPins
	closed  bool
}

// exportPins is what one export holds.
type exportPins struct {
	last  uint64
	pins  map[uint64]*replica.Pin
	timer *time.Timer
}

func newPins() *pins { return &pins{exports: map[uint64]*exportPins{}} }

var errExportOver = errors.New("the export is not known here any more")

// add takes a moment for an export, and returns its number.
func (ps *pins) add(export uint64, p *replica.Pin) (uint64, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	e := ps.exports[export]
	switch {
	case ps.closed:
		return 0, shard.ErrStopped
	case e == nil && len(ps.exports) >= exportsMax, e != nil && len(e.pins) >= pinsMax:
		return 0, fmt.Errorf("%w: of exports", shard.ErrTooManyRequests)
	case e == nil:
		e = &exportPins{pins: map[uint64]*replica.Pin{}}
		e.timer = time.AfterFunc(exportPatience, func() { ps.end(export) })
		ps.exports[export] = e
	default:
		e.timer.Reset(exportPatience)
	}
	e.last++
	e.pins[e.last] = p
	return e.last, nil
}

// get finds a moment, and notes that the export goes on.
func (ps *pins) get(export, pin uint64) (*replica.Pin, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	e := ps.exports[export]
	if e == nil || e.pins[pin] == nil {
		return nil, fmt.Errorf("%w: %w", shard.ErrUnavailable, errExportOver)
	}
	e.timer.Reset(exportPatience)
	return e.pins[pin], nil
}

func (ps *pins) page(req *pb.PinPageRequest) (*pb.PinPageResponse, error) {
	p, err := ps.get(req.Export, req.Pin)
	if err != nil {
		return nil, err
	}
	return p.Page(req)
}

// keep notes that an export goes on, or ends it.
func (ps *pins) keep(req *pb.PinKeepRequest) error {
	if req.End {
		ps.end(req.Export)
		return nil
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	e := ps.exports[req.Export]
	if e == nil {
		return fmt.Errorf("%w: %w", shard.ErrUnavailable, errExportOver)
	}
	e.timer.Reset(exportPatience)
	return nil
}

// end lets go of what an export holds here, and does not wait for a page that is being read.
func (ps *pins) end(export uint64) {
	ps.mu.Lock()
	e := ps.exports[export]
	delete(ps.exports, export)
	ps.mu.Unlock()
	if e == nil {
		return
	}
	e.timer.Stop()
	go func() {
		for _, p := range e.pins {
			p.End()
		}
	}()
}

// close ends all of them. The replicas let go by themselves.
func (ps *pins) close() error {
	ps.mu.Lock()
	ps.closed = true
	all := ps.exports
	ps.exports = map[uint64]*exportPins{}
	ps.mu.Unlock()
	for _, e := range all {
		e.timer.Stop()
		for _, p := range e.pins {
			p.End()
		}
	}
	return nil
}

// pin holds a moment of a replica that is here.
func (d *dispatch) pin(ctx context.Context, req *pb.PinRequest, reply func(*pb.PeerResponse)) {
	id := shard.RangeID(req.Range)
	rep, ok := d.ranges.get(id)
	if !ok {
		reply(failed(d.notHere(id)))
		return
	}
	rep.Pin(ctx, req, func(p *replica.Pin, err error) {
		if err != nil {
			reply(failed(err))
			return
		}
		n, err := d.pins.add(req.Export, p)
		if err != nil {
			p.End()
			reply(failed(err))
			return
		}
		reply(&pb.PeerResponse{Pin: &pb.PinResponse{Pin: n, Compact: p.Compact()}})
	})
}
