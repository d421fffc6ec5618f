package etcdapi

import (
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"pontoon/shard"
	"pontoon/watchfanout"
)

// invalidWatchID stands for no watch in particular: a refused one, or all of a stream.
const invalidWatchID int64 = -1

const (
	// deliveriesPerPollMax bounds what a turn takes from the hub at once; it takes more until the
	// response buffer is full.
	deliveriesPerPollMax = 64
	// joinedBytesMax is up to where neighbouring deliveries of a watch share a response: with it a response buffer
	// hardly ever holds more than 48 KiB of its own, which it does for as long as its client takes nothing.
	joinedBytesMax = 16 << 10
	// headBytesMax is more than what a response with events takes beside them.
	headBytesMax = 128
)

// watchTurn is what a turn needs, used by one after another.
type watchTurn struct {
	out      responseBuffer
	commands []command
	polled   []watchfanout.Delivery
	events   [][]byte
	sent     sent
}

var turnPool = sync.Pool{New: func() any { return &watchTurn{} }}

// turn executes what was asked, and sends some of what the hub has for this stream: a bounded amount,
// so that a client whose watches never rest can still cancel one.
func (s *watchStream) turn(t *watchTurn) error {
	due, ok := s.begin(t)
	if !ok {
		return nil
	}
	began := time.Now()
	t.sent = sent{}
	t.out.begin(s.api.cfg.Header)
	defer t.out.reset()
	defer clear(t.commands)
	for i := range t.commands {
		if err := s.execute(t, &t.commands[i]); err != nil {
			return err
		}
	}
	if due&dueLeader != 0 && s.guard.lost(s.hub.Spans()) {
		return s.guard.end
	}
	if due&dueProgress != 0 {
		s.requestProgress()
	}
	if err := s.judgeAll(&t.out); err != nil {
		return err
	}
	for more := true; more && !t.out.full(); {
		var err error
		if more, err = s.deliverSome(t); err != nil {
			return err
		}
	}
	if t.out.full() {
		s.schedule()
	}
	if t.out.messages == 0 {
		return nil
	}
	err := s.send(&t.out)
	s.api.turned.turn(t.sent, time.Since(began))
	return err
}

// deliverSome takes some of what the hub has and turns it into responses; false if there is no more for now.
func (s *watchStream) deliverSome(t *watchTurn) (more bool, err error) {
	defer func() { clear(t.polled) }() // hold no events
	t.polled = s.rights.take(t.polled[:0])
	if len(t.polled) == 0 {
		t.polled = s.hub.Poll(t.polled, deliveriesPerPollMax)
	}
	n := len(t.polled)
	if n == 0 || !s.rights.sure(t.polled) {
		return false, nil
	}
	if err := s.judgeAll(&t.out); err != nil {
		return false, err
	}
	t.polled = s.rights.left(t.polled)
	return n == deliveriesPerPollMax, s.deliver(t)
}

func (s *watchStream) execute(t *watchTurn, c *command) error {
	switch c.kind {
	case commandCreate:
		t.sent.controls++
		return s.create(c, &t.out)
	case commandCancel:
		if !s.hub.Cancel(c.req.ID) {
			return nil // as in etcd, no answer
		}
		s.forget(c.req.ID)
		s.rights.cancelled(c.req.ID)
		t.sent.controls++
		return t.out.add(watchHead{id: c.req.ID, canceled: true})
	default:
		if s.watches > 0 { // as in etcd, no answer where nothing is watched
			s.hub.RequestProgress(c.revision)
		}
		return nil
	}
}

// create begins a watch and answers before anything of it is polled.
func (s *watchStream) create(c *command, out *responseBuffer) error {
	reason := c.refused
	if reason == "" {
		reason = s.rights.refuse(s.ctx, c)
	}
	if reason == "" {
		switch err := s.watch(&c.req); {
		case errors.Is(err, watchfanout.ErrWatcherExists):
			reason = reasonDuplicateID
		case err != nil:
			reason = rpctypes.ErrorDesc(toRPC(err))
		}
	}
	if reason != "" {
		return out.add(watchHead{id: invalidWatchID, created: true, canceled: true, cancelReason: reason})
	}
	s.watches++
	if rev := s.rights.unmarked(); rev > 0 {
		s.hub.RequestProgress(rev)
	}
	if c.notify {
		if s.notified == nil {
			s.notified = map[int64]*notified{}
		}
		s.notified[c.req.ID] = &notified{}
	}
	return out.add(watchHead{id: c.req.ID, revision: c.revision, created: true})
}

// watch adds a watch to the hub. Those without an id are numbered from 0, leaving out ids that the
// client gave.
func (s *watchStream) watch(r *watchfanout.WatchRequest) error {
	if r.ID != 0 {
		return s.hub.Watch(*r)
	}
	for {
		r.ID = s.nextID
		err := s.hub.Watch(*r)
		taken := errors.Is(err, watchfanout.ErrWatcherExists)
		if err == nil || taken {
			s.nextID++
		}
		if !taken {
			return err
		}
	}
}

func (s *watchStream) forget(id int64) {
	delete(s.notified, id)
	s.watches--
}

// requestProgress is one round of periodic progress: watches that had events since the last
// round are left out.
func (s *watchStream) requestProgress() {
	rev := s.api.cfg.Header.Revision()
	for id, x := range s.notified {
		if x.quiet {
			x.asked = true
			s.hub.RequestWatcherProgress(id, rev)
		}
		x.quiet = true
	}
}

// deliver turns what was polled into responses.
func (s *watchStream) deliver(t *watchTurn) error {
	for ds := t.polled; len(ds) > 0; {
		n := joinable(ds)
		if err := s.respond(t, ds[:n]); err != nil {
			return err
		}
		ds = ds[n:]
	}
	return nil
}

// joinable counts how many deliveries at the front may share one response: events of one watch.
func joinable(ds []watchfanout.Delivery) int {
	size, n := 0, 0
	for n < len(ds) && ds[n].ID == ds[0].ID && len(ds[n].Events) > 0 && size < joinedBytesMax {
		for _, e := range ds[n].Events {
			size += len(e.KV.Key) + len(e.KV.Value)
		}
		n++
	}
	return max(n, 1)
}

// respond turns deliveries of one watch into a response. Its header says how far the watch is:
// the client goes on from there after a reconnect.
func (s *watchStream) respond(t *watchTurn, ds []watchfanout.Delivery) error {
	d := &ds[len(ds)-1]
	if d.ID == watchfanout.StreamWide {
		t.sent.marks++
		return t.out.add(watchHead{id: invalidWatchID, revision: d.Revision})
	}
	x := s.notified[d.ID]
	switch {
	case d.CompactRevision > 0: // the hub has forgotten it
		s.forget(d.ID)
		t.sent.controls++
		// As in etcd without a revision: this watch is nowhere.
		return t.out.add(watchHead{id: d.ID, revision: -1, canceled: true, compactRevision: d.CompactRevision})
	case len(d.Events) > 0:
		if x != nil {
			x.quiet = false
		}
		return s.sendEvents(t, ds)
	case x != nil && x.asked:
		x.asked = false
		t.sent.marks++
		return t.out.add(watchHead{id: d.ID, revision: d.Revision})
	default:
		return nil // progress that nobody asked for
	}
}

func (s *watchStream) sendEvents(t *watchTurn, ds []watchfanout.Delivery) error {
	size := 0
	t.events = t.events[:0]
	defer func() { clear(t.events) }()
	for i := range ds {
		for _, e := range ds[i].Events {
			ev, err := encodeEvent(e, ds[i].PrevKV)
			if err != nil {
				return err
			}
			t.events = append(t.events, ev)
			size += eventSize(ev)
		}
	}
	t.sent.events += len(t.events)
	last := &ds[len(ds)-1]
	h := watchHead{id: last.ID, revision: last.Revision}
	if limit := s.api.cfg.MaxRequestBytes + requestOverheadBytes - headBytesMax; last.Tag&tagFragment != 0 && size >= limit {
		return sendFragments(&t.out, h, t.events, limit)
	}
	return t.out.add(h, t.events...)
}

// sendFragments cuts a response into parts whose events take less than limit bytes, each with one
// event at least. All but the last say that more is to come.
func sendFragments(out *responseBuffer, h watchHead, events [][]byte, limit int) error {
	for len(events) > 0 {
		size, n := 0, 0
		for n < len(events) && (n == 0 || size+eventSize(events[n]) < limit) {
			size += eventSize(events[n])
			n++
		}
		h.fragment = n < len(events)
		if err := out.add(h, events[:n]...); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// encodeEvent returns the wire form of an event, made once for all watchers that get it.
func encodeEvent(e *shard.Event, prev bool) ([]byte, error) {
	as := shard.EncodedPlain
	if prev && e.Prev != nil {
		as = shard.EncodedPrev
	}
	return e.Encoded(as, marshalEvent)
}

func marshalEvent(e *shard.Event, as shard.Encoding) ([]byte, error) {
	ev := &mvccpb.Event{Kv: eventKV(&e.KV)}
	if e.Delete {
		ev.Type = mvccpb.Event_DELETE
	}
	if as == shard.EncodedPrev {
		ev.PrevKv = eventKV(e.Prev)
	}
	return proto.Marshal(ev)
}

func eventKV(kv *shard.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, Lease: kv.Lease, Version: kv.Version,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}
