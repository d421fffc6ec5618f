package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"pontoon/internal/etcdfile"
	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/shard"
)

// Pin holds a moment of a replica for an export. It ends with End, or with the replica: then its pages fail, and another replica is to be asked.
type Pin struct {
	r   *Replica
	ref *storeRef

	mu  sync.Mutex // held while a page is read
	pin *mvcc.Pin  // nil: it has ended
}

// pins are the moments of a replica that are held.
type pins struct {
	r  *Replica
	mu struct {
		sync.Mutex
		all    map[*Pin]struct{}
		closed bool
	}
}

// Pin pins the moment at which the request's index has been applied, or a later one. reply is called once, from any goroutine.
// *shard.WrongRangeError: the replica does not hold the request's span.
func (s *pins) Pin(ctx context.Context, req *pb.PinRequest, reply func(*Pin, error)) {
	s.r.whenApplied(ctx, req.MinIndex, len(req.Span.GetStart())+len(req.Span.GetEnd()), func() { reply(s.hold(pb.ToSpan(req.Span))) },
		func(err error) { reply(nil, err) })
}

func (s *pins) hold(span shard.Span) (*Pin, error) {
	ref, err := s.r.stores.acquire()
	if err != nil {
		return nil, err
	}
	p := &Pin{r: s.r, ref: ref}
	err = ref.reading(containing(span), func() error {
		if p.pin != nil { // keys have gone meanwhile
			p.pin.End()
		}
		p.pin = mvcc.NewPin(ref.Store)
		return nil
	})
	if err == nil && !p.pin.Span().ContainsSpan(span) {
		err = fmt.Errorf("%w: %v is being cut", shard.ErrUnavailable, s.r.cfg.Desc.ID)
	}
	if err == nil {
		err = s.add(p)
	}
	if err != nil {
		if p.pin != nil {
			p.pin.End()
		}
		s.r.stores.release(ref)
		return nil, err
	}
	return p, nil
}

func (s *pins) add(p *Pin) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return shard.ErrStopped
	}
	if s.mu.all == nil {
		s.mu.all = map[*Pin]struct{}{}
	}
	s.mu.all[p] = struct{}{}
	return nil
}

// close ends them all: the store is to be closed.
func (s *pins) close() {
	s.mu.Lock()
	s.mu.closed = true
	all := s.mu.all
	s.mu.all = nil
	s.mu.Unlock()
	for p := range all {
		p.release()
	}
}

// End lets go of the moment. It waits for a page that is being read.
func (p *Pin) End() {
	s := &p.r.pins
	s.mu.Lock()
	delete(s.mu.all, p)
	s.mu.Unlock()
	p.release()
}

func (p *Pin) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin == nil {
		return
	}
	p.pin.End()
	p.pin = nil
	p.r.stores.release(p.ref)
}

// Compact is the replica's compaction revision of that moment.
func (p *Pin) Compact() int64 { return p.pin.Compact() }

// Page reads the next rows, in the form that etcd's file has them. It reads the store.
func (p *Pin) Page(req *pb.PinPageRequest) (*pb.PinPageResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pin == nil {
		return nil, fmt.Errorf("%w: the replica of %v is not here any more", shard.ErrUnavailable, p.r.cfg.Desc.ID)
	}
	if req.Compact < p.pin.Compact() {
		return nil, &shard.CompactedError{Revision: p.pin.Compact()}
	}
	e := mvcc.Export{
		Span: pb.ToSpan(req.Span), To: req.To, Compact: req.Compact, Bytes: int(min(max(req.MaxBytes, 1), p.r.cfg.ReadBytes)),
		After: mvcc.Cursor{Key: req.Key, Rev: mvcc.Rev{Main: req.Main, Sub: req.Sub}, Seen: req.Seen},
	}
	resp := &pb.PinPageResponse{}
	var rev, value []byte
	next, more, err := p.pin.Page(e, func(kv *shard.KeyValue, sub int64, del bool) {
		row := etcdfile.Row{
			Rev: etcdfile.Rev{Main: kv.ModRevision, Sub: sub}, Tombstone: del,
			Key: kv.Key, Create: kv.CreateRevision, Version: kv.Version, Value: kv.Value, Lease: kv.Lease,
		}
		rev, value = etcdfile.AppendRev(rev[:0], row.Rev, del), row.AppendValue(value[:0])
		for _, b := range [][]byte{rev, value} {
			resp.Rows = append(binary.AppendUvarint(resp.Rows, uint64(len(b))), b...)
		}
	})
	if err != nil {
		return nil, err
	}
	resp.More, resp.Key, resp.Main, resp.Sub = more, next.Key, next.Rev.Main, next.Rev.Sub
	return resp, nil
}
