package shard

import (
	"cmp"
	"sync/atomic"
)

// KeyValue is one version of a key. Its bytes are shared and never written.
type KeyValue struct {
	Key, Value     []byte
	CreateRevision int64 // of the put that began this life of the key
	ModRevision    int64 // of this version
	Version        int64 // number of puts in this life, from 1
	Lease          int64 // 0: none
}

// Encoding names one of the forms in which etcd's clients get an event.
type Encoding uint8

// The encodings.
const (
	// EncodedPlain is the event without the previous version.
	EncodedPlain Encoding = iota
	// EncodedPrev is the event with the previous version.
	EncodedPrev
	encodings
)

// Event is one change of one key. There is one Event per change and process, made where the change was
// applied or received, and shared by pointer with everybody who hears of it: it is never copied, and never
// changed once it was passed on. The bytes are shared.
type Event struct {
	// KV is the new version; a delete's has Key and ModRevision only.
	KV KeyValue
	// Prev is the version that was replaced: nil when the key did not live, or when the version was not
	// asked for or is compacted away.
	Prev *KeyValue
	// Delete tells a deletion from a put.
	Delete bool

	retained atomic.Int32 // by how many places where it waits

	// Sub numbers the events of one revision.
	Sub int64

	encoded [encodings]atomic.Pointer[[]byte] // made when the first watcher asks
	alone   [1]*Event                         // the event as a batch of its own, without an allocation
}

// eventChunk is how many events share memory: as long as one of them is held, all of them are.
const eventChunk = 16

// NewEvents returns n empty events, for whoever makes them to fill in.
func NewEvents(n int) []*Event {
	if n == 0 {
		return nil
	}
	if n == 1 {
		e := &Event{}
		e.alone[0] = e
		return e.Alone()
	}
	out := make([]*Event, n)
	var chunk []Event
	for i := range out {
		if len(chunk) == 0 {
			chunk = make([]Event, min(n-i, eventChunk))
		}
		e := &chunk[0]
		chunk = chunk[1:]
		e.alone[0] = e
		out[i] = e
	}
	return out
}

// Alone returns the event as a slice that must not be written. Only an event that NewEvents did not make
// costs an allocation.
func (e *Event) Alone() []*Event {
	if e.alone[0] == nil {
		return []*Event{e}
	}
	return e.alone[:1:1]
}

// Rev is the revision of the change.
func (e *Event) Rev() int64 { return e.KV.ModRevision }

// DataBytes is how long the keys and values are that the event holds, those of the previous version included.
func (e *Event) DataBytes() int {
	n := len(e.KV.Key) + len(e.KV.Value)
	if e.Prev != nil {
		n += len(e.Prev.Key) + len(e.Prev.Value)
	}
	return n
}

// Retain says that the event waits in n more places, and reports whether it has waited nowhere until now: whoever counts what waits counts
// it then, once. All who retain an event count into one sum.
func (e *Event) Retain(n int32) bool { return e.retained.Add(n) == n }

// Release says that it waits in n places less, and reports whether it waits nowhere any more.
func (e *Event) Release(n int32) bool { return e.retained.Add(-n) == 0 }

// Compare orders events by revision, then by their number within it.
func (e *Event) Compare(o *Event) int {
	return cmp.Or(cmp.Compare(e.KV.ModRevision, o.KV.ModRevision), cmp.Compare(e.Sub, o.Sub))
}

// Encoded returns the event's bytes in that form; encode is called if nobody has made them yet. The result
// is shared and must not be written. An error of encode is returned and not kept. Safe for concurrent use:
// encode may then run more than once, and one result wins.
func (e *Event) Encoded(as Encoding, encode func(*Event, Encoding) ([]byte, error)) ([]byte, error) {
	slot := &e.encoded[as]
	if p := slot.Load(); p != nil {
		return *p, nil
	}
	b, err := encode(e, as)
	if err != nil {
		return nil, err
	}
	if slot.CompareAndSwap(nil, &b) {
		return b, nil
	}
	return *slot.Load(), nil
}
