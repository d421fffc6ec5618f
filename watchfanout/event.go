package watchfanout

import "sync/atomic"

// KeyValue is one version of a key. Its slices are shared and never written.
type KeyValue struct {
	Key, Value     []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64
}

// Variant names one of the encodings that an event can keep.
type Variant uint8

// The variants are the reader's: the hub never encodes. These two are what etcd's API needs.
const (
	// EncodedPlain is the event without the previous version.
	EncodedPlain Variant = iota
	// EncodedPrev is the event with the previous version.
	EncodedPrev
	variants
)

// Event is one change of one key. There is one Event per change and hub, shared by pointer
// with every watcher that gets it: it is never changed after Publish, and never copied.
type Event struct {
	// KV is the new version; for a delete it holds Key and ModRevision only.
	KV KeyValue
	// Prev is the version before, nil if there was none or it is not known any more.
	Prev *KeyValue
	// Delete tells a deletion from a put.
	Delete bool
	// Sub numbers the events of one revision.
	Sub int64

	encoded [variants]atomic.Pointer[[]byte]
	alone   [1]*Event // the event as a batch of its own, without an allocation per watcher
}

// Rev is the revision of the change.
func (e *Event) Rev() int64 { return e.KV.ModRevision }

// Encoded returns the event's bytes in that variant; encode is called if nobody has made them
// yet. All watchers share the result, which must not be written. Safe for concurrent use:
// encode may then run more than once, and one result wins.
func (e *Event) Encoded(v Variant, encode func() []byte) []byte {
	slot := &e.encoded[v]
	if p := slot.Load(); p != nil {
		return *p
	}
	b := encode()
	if slot.CompareAndSwap(nil, &b) {
		return b
	}
	return *slot.Load()
}

// eventOverheadBytes is what an event weighs in a queue beside its keys and values.
const eventOverheadBytes = 160

// weight is the memory that the event pins, roughly.
func (e *Event) weight() int {
	n := eventOverheadBytes + len(e.KV.Key) + len(e.KV.Value)
	if e.Prev != nil {
		n += len(e.Prev.Key) + len(e.Prev.Value)
	}
	return n
}

// before orders events by revision, then by their number within it.
func (e *Event) before(o *Event) bool {
	if e.KV.ModRevision != o.KV.ModRevision {
		return e.KV.ModRevision < o.KV.ModRevision
	}
	return e.Sub < o.Sub
}
