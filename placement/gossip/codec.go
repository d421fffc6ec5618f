package gossip

import (
	"encoding/binary"
	"errors"

	"pontoon/shard"
)

// Formats of what travels: a version byte, then unsigned varints and strings that follow
// their length. Readers ignore bytes after what they know, so fields can be added at the end.
const (
	metaVersion  = 1
	stateVersion = 1

	metaBytesMax = 512 // memberlist's limit
	nameBytesMax = 128
	addrBytesMax = 255
	zoneBytesMax = 64

	loadBytesMin = 3 + loadFields
	hintBytesMin = 3
)

var errMalformed = errors.New("gossip: malformed message")

// meta is what a node says about itself for as long as its process lives.
type meta struct {
	node     shard.NodeID
	boot     uint64 // of the process: higher in a later one
	name     string
	addr     string
	locality string
}

func (m meta) encode() []byte {
	b := append(make([]byte, 0, metaBytesMax), metaVersion)
	b = binary.AppendUvarint(b, uint64(m.node))
	b = binary.AppendUvarint(b, m.boot)
	b = appendString(b, m.name, nameBytesMax)
	b = appendString(b, m.addr, addrBytesMax)
	return appendString(b, m.locality, zoneBytesMax)
}

func decodeMeta(b []byte) (meta, error) {
	r := reader{b: b}
	if r.byte() != metaVersion {
		return meta{}, errMalformed
	}
	m := meta{node: shard.NodeID(r.uvarint()), boot: r.uvarint()}
	m.name, m.addr, m.locality = r.string(nameBytesMax), r.string(addrBytesMax), r.string(zoneBytesMax)
	if r.bad || m.node == 0 {
		return meta{}, errMalformed
	}
	return m, nil
}

// Load is a node's summary of how much it holds and does.
type Load struct {
	Ranges       uint64 // replicas held
	Leaders      uint64 // of these, how many lead
	Bytes        uint64 // of their stores
	ReadsPerSec  uint64
	WritesPerSec uint64
	CPUPermille  uint64 // of the whole machine
}

const loadFields = 6

func (l *Load) fields() [loadFields]*uint64 {
	return [...]*uint64{&l.Ranges, &l.Leaders, &l.Bytes, &l.ReadsPerSec, &l.WritesPerSec, &l.CPUPermille}
}

// loadOf is one node's load; the highest (boot, seq) is the newest.
type loadOf struct {
	node      shard.NodeID
	boot, seq uint64
	load      Load
}

func (l loadOf) newer(than loadOf) bool {
	return l.boot > than.boot || l.boot == than.boot && l.seq > than.seq
}

// Hint says who led a range in a term of its group.
type Hint struct {
	Range shard.RangeID
	Node  shard.NodeID
	Term  uint64
}

// state is what nodes tell one another, in parts as broadcasts or as a whole.
type state struct {
	loads []loadOf
	hints []Hint
}

func (s state) empty() bool { return len(s.loads) == 0 && len(s.hints) == 0 }

func (s state) encode() []byte {
	b := append(make([]byte, 0, 8+len(s.loads)*64+len(s.hints)*24), stateVersion)
	b = binary.AppendUvarint(b, uint64(len(s.loads)))
	for _, l := range s.loads {
		b = binary.AppendUvarint(b, uint64(l.node))
		b = binary.AppendUvarint(b, l.boot)
		b = binary.AppendUvarint(b, l.seq)
		for _, f := range l.load.fields() {
			b = binary.AppendUvarint(b, *f)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(s.hints)))
	for _, h := range s.hints {
		b = binary.AppendUvarint(b, uint64(h.Range))
		b = binary.AppendUvarint(b, uint64(h.Node))
		b = binary.AppendUvarint(b, h.Term)
	}
	return b
}

func decodeState(b []byte) (state, error) {
	r := reader{b: b}
	if r.byte() != stateVersion {
		return state{}, errMalformed
	}
	var s state
	s.loads = make([]loadOf, r.count(loadBytesMin))
	for i := range s.loads {
		l := &s.loads[i]
		l.node, l.boot, l.seq = shard.NodeID(r.uvarint()), r.uvarint(), r.uvarint()
		for _, f := range l.load.fields() {
			*f = r.uvarint()
		}
	}
	s.hints = make([]Hint, r.count(hintBytesMin))
	for i := range s.hints {
		s.hints[i] = Hint{Range: shard.RangeID(r.uvarint()), Node: shard.NodeID(r.uvarint()), Term: r.uvarint()}
	}
	if r.bad {
		return state{}, errMalformed
	}
	return s, nil
}

// appendString appends at most limit bytes of s.
func appendString(b []byte, s string, limit int) []byte {
	s = s[:min(len(s), limit)]
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes values off a message; after the first that is not there it is bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string(limit int) string {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// count reads how many items follow, which must fit into the rest of the message.
func (r *reader) count(itemBytesMin int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/itemBytesMin) {
		r.bad = true
		return 0
	}
	return int(n)
}
