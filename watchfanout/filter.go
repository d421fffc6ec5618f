package watchfanout

import (
	"cmp"
	"strings"
	"unsafe"

	"pontoon/shard"
)

// filter is what a watcher asked for: the keys, and which changes of them. Pure, and never changed.
type filter struct {
	keys    string // the start of its span, then the end, or what the end has beyond the start
	cut     uint32 // where in keys the end begins
	kind    spanKind
	options options
	tag     uint8
}

// spanKind is what the end of a span is.
type spanKind uint8

const (
	spanBounded spanKind = iota
	spanPoint            // exactly the start
	spanOpen             // everything from the start on
)

// options are the flags of a WatchRequest.
type options uint8

const (
	noPut options = 1 << iota
	noDelete
	prevKV
)

func filterOf(r *WatchRequest) filter {
	f := filter{tag: r.Tag}
	for _, x := range [...]struct {
		set bool
		bit options
	}{{r.NoPut, noPut}, {r.NoDelete, noDelete}, {r.PrevKV, prevKV}} {
		if x.set {
			f.options |= x.bit
		}
	}
	f.setSpan(r.Span)
	return f
}

// setSpan keeps a copy of the span, in one piece.
func (f *filter) setSpan(s shard.Span) {
	rest := s.End
	switch {
	case s.IsPoint():
		f.kind, rest = spanPoint, rest[len(s.Start):]
	case s.Unbounded():
		f.kind = spanOpen
	}
	var b strings.Builder // its String copies nothing
	b.Grow(len(s.Start) + len(rest))
	b.Write(s.Start)
	b.Write(rest)
	f.cut = uint32(len(s.Start))
	f.keys = b.String()
}

func (f *filter) start() string { return f.keys[:f.cut] }

// end is the first key behind the span, if there is one.
func (f *filter) end() string {
	if f.kind == spanPoint {
		return f.keys
	}
	return f.keys[f.cut:]
}

// span returns the span itself, not a copy.
func (f *filter) span() shard.Span {
	s := shard.Span{Start: bytesOf(f.start())}
	if f.kind != spanOpen {
		s.End = bytesOf(f.end())
	}
	return s
}

// bytesOf returns the bytes of a string, which must not be written.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// covers reports whether key lies in the span.
func (f *filter) covers(key []byte) bool {
	return string(key) >= f.start() && f.endsBehind(key)
}

func (f *filter) endsBehind(key []byte) bool { return f.kind == spanOpen || string(key) < f.end() }

// sameSpan reports whether both are of exactly the same keys.
func (f *filter) sameSpan(o *filter) bool {
	return f.kind == o.kind && f.cut == o.cut && f.keys == o.keys
}

// compareSpan orders spans that are no single keys: by start, then by end.
func (f *filter) compareSpan(o *filter) int {
	if c := cmp.Compare(f.start(), o.start()); c != 0 {
		return c
	}
	return f.compareEnd(o)
}

func (f *filter) compareEnd(o *filter) int {
	switch {
	case f.kind == o.kind && f.kind == spanOpen:
		return 0
	case f.kind == spanOpen:
		return 1
	case o.kind == spanOpen:
		return -1
	default:
		return cmp.Compare(f.end(), o.end())
	}
}

// allChanges reports whether no change of a key is left out.
func (f *filter) allChanges() bool { return f.options&(noPut|noDelete) == 0 }

// passes reports whether a change of one of the keys is wanted.
func (f *filter) passes(e *shard.Event) bool {
	if e.Delete {
		return f.options&noDelete == 0
	}
	return f.options&noPut == 0
}
