package etcdapi

import (
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"pontoon/shard"
	"pontoon/watchfanout"
)

// invalidWatchID stands for no watch in particular: a refused one, or all of a stream.
const invalidWatchID int64 = -1

const (
	// deliveriesPerPollMax bounds what the writer takes from the hub at once.
	deliveriesPerPollMax = 64
	// joinedBytesMax is up to where neighbouring deliveries of a watch share a response.
	joinedBytesMax = 64 << 10
	// headBytesMax is more than what a response with events takes beside them.
	headBytesMax = 128
)

// watch is one watch of a stream.
type watch struct {
	span     shard.Span
	notify   bool // wants periodic progress
	fragment bool
	quiet    bool // nothing was sent since the last round of periodic progress
	asked    bool // the hub was asked for a marker of this watch
}

// watchWriter holds the state of a stream and writes to it. One goroutine owns it.
type watchWriter struct {
	api     *API
	out     *outbox
	hub     WatchStream
	watches map[int64]*watch
	nextID  int64
	polled  []watchfanout.Delivery // reused
	events  [][]byte               // reused
	more    bool                   // the last Poll was bounded, so the next one may return something
}

func newWatchWriter(api *API, rpc watchRPC) *watchWriter {
	return &watchWriter{
		api: api, out: newOutbox(api, rpc), hub: api.cfg.Watch(watchfanout.StreamOptions{}),
		watches: map[int64]*watch{},
	}
}

func (w *watchWriter) spans() []shard.Span {
	spans := make([]shard.Span, 0, len(w.watches))
	for _, x := range w.watches {
		spans = append(spans, x.span)
	}
	return spans
}

func (w *watchWriter) execute(c command) error {
	var err error
	switch {
	case c.create != nil:
		err = w.create(c.create)
	case c.cancel != nil:
		err = w.cancel(*c.cancel)
	case len(w.watches) > 0: // as in etcd, no answer where nothing is watched
		w.hub.RequestProgress(c.progress)
	}
	if err != nil {
		return err
	}
	return w.out.flush()
}

// create begins a watch and answers before anything of it can be delivered.
func (w *watchWriter) create(c *createCommand) error {
	if c.refused != "" {
		return w.refuse(c.refused)
	}
	id := w.chooseID(c.id)
	if _, taken := w.watches[id]; taken {
		return w.refuse(reasonDuplicateID)
	}
	c.req.ID = id
	if err := w.hub.Watch(c.req); err != nil {
		if errors.Is(err, watchfanout.ErrWatcherExists) {
			return w.refuse(reasonDuplicateID)
		}
		return w.refuse(rpctypes.ErrorDesc(toRPC(err)))
	}
	w.watches[id] = &watch{span: c.req.Span, notify: c.notify, fragment: c.fragment}
	return w.out.add(watchHead{id: id, revision: c.header, created: true})
}

// chooseID numbers the watches of a stream from 0, leaving out ids that the client gave.
func (w *watchWriter) chooseID(wanted int64) int64 {
	if wanted != 0 {
		return wanted
	}
	for w.watches[w.nextID] != nil {
		w.nextID++
	}
	w.nextID++
	return w.nextID - 1
}

func (w *watchWriter) refuse(reason string) error {
	return w.out.add(watchHead{id: invalidWatchID, created: true, canceled: true, cancelReason: reason})
}

func (w *watchWriter) cancel(id int64) error {
	if w.watches[id] == nil {
		return nil // as in etcd, no answer
	}
	w.hub.Cancel(id)
	delete(w.watches, id)
	return w.out.add(watchHead{id: id, canceled: true})
}

// requestProgress is one round of periodic progress: watches that had events since the last
// round are left out.
func (w *watchWriter) requestProgress() {
	rev := w.api.cfg.Header.Revision()
	for id, x := range w.watches {
		if x.notify && x.quiet {
			x.asked = true
			w.hub.RequestWatcherProgress(id, rev)
		}
		x.quiet = true
	}
}

// ready receives when deliver should be called.
func (w *watchWriter) ready() <-chan struct{} {
	if w.more {
		return closedChan
	}
	return w.hub.Ready()
}

// closedChan always receives.
var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// deliver sends some of what the hub has for this stream. It takes a bounded amount at once,
// so that a client whose watches never rest can still cancel one.
func (w *watchWriter) deliver() error {
	w.polled = w.hub.Poll(w.polled[:0], deliveriesPerPollMax)
	w.more = len(w.polled) == deliveriesPerPollMax
	for ds := w.polled; len(ds) > 0; {
		n := joinable(ds)
		if err := w.send(ds[:n]); err != nil {
			return err
		}
		ds = ds[n:]
	}
	clear(w.polled) // hold no events while idle
	return w.out.flush()
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

// send turns deliveries of one watch into a response. Its header says how far the watch is:
// the client goes on from there after a reconnect.
func (w *watchWriter) send(ds []watchfanout.Delivery) error {
	d := ds[len(ds)-1]
	if d.ID == watchfanout.StreamWide {
		return w.out.add(watchHead{id: invalidWatchID, revision: d.Revision})
	}
	x := w.watches[d.ID]
	switch {
	case x == nil:
		return nil // cancelled meanwhile
	case d.CompactRevision > 0:
		w.hub.Cancel(d.ID)
		delete(w.watches, d.ID)
		return w.out.add(watchHead{id: d.ID, canceled: true, compactRevision: d.CompactRevision})
	case len(d.Events) > 0:
		return w.sendEvents(x, d, ds)
	case x.asked:
		x.asked = false
		return w.out.add(watchHead{id: d.ID, revision: d.Revision})
	default:
		return nil // progress that nobody asked for
	}
}

func (w *watchWriter) sendEvents(x *watch, last watchfanout.Delivery, ds []watchfanout.Delivery) error {
	x.quiet = false
	defer w.forgetEvents()
	size := 0
	for _, d := range ds {
		for _, e := range d.Events {
			ev, err := encodeEvent(e, d.PrevKV)
			if err != nil {
				return err
			}
			w.events = append(w.events, ev)
			size += eventSize(ev)
		}
	}
	h := watchHead{id: last.ID, revision: last.Revision}
	if limit := w.api.cfg.MaxRequestBytes + requestOverheadBytes - headBytesMax; x.fragment && size >= limit {
		return w.sendFragments(h, limit)
	}
	return w.out.add(h, w.events...)
}

func (w *watchWriter) forgetEvents() {
	clear(w.events)
	w.events = w.events[:0]
}

// sendFragments cuts a response into parts whose events take less than limit bytes, each with one
// event at least. All but the last say that more is to come.
func (w *watchWriter) sendFragments(h watchHead, limit int) error {
	for events := w.events; len(events) > 0; {
		size, n := 0, 0
		for n < len(events) && (n == 0 || size+eventSize(events[n]) < limit) {
			size += eventSize(events[n])
			n++
		}
		h.fragment = n < len(events)
		if err := w.out.add(h, events[:n]...); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

func marshalEvent(e *watchfanout.Event, variant watchfanout.Variant) ([]byte, error) {
	ev := &mvccpb.Event{Kv: eventKV(&e.KV)}
	if e.Delete {
		ev.Type = mvccpb.Event_DELETE
	}
	if variant == watchfanout.EncodedPrev {
		ev.PrevKv = eventKV(e.Prev)
	}
	return proto.Marshal(ev)
}

func eventKV(kv *watchfanout.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, Lease: kv.Lease, Version: kv.Version,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}
