package raftgroup

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"
)

// Messages travel as protobuf, encoded and decoded here field by field: by reflection, and with an
// allocation for each optional number, that costs more than all that Raft does with a message.
// What these two do not know they leave to package proto, so the format is raftpb's.

// Field numbers of raftpb.Message and raftpb.Entry.
const (
	msgType       = 1
	msgTo         = 2
	msgFrom       = 3
	msgTerm       = 4
	msgLogTerm    = 5
	msgIndex      = 6
	msgEntries    = 7
	msgCommit     = 8
	msgReject     = 10
	msgRejectHint = 11
	msgContext    = 12
	msgVote       = 13

	entType  = 1
	entTerm  = 2
	entIndex = 3
	entData  = 4
)

// encodeMessage encodes a message that this node made behind b, which is empty.
func encodeMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.Snapshot != nil || len(m.Responses) > 0 {
		return proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	size := 12*(1+10) + len(m.Context)
	for _, e := range m.Entries {
		size += 2 + 10 + entrySizeMax(e)
	}
	b = slices.Grow(b, size)
	if m.Type != nil {
		b = appendNumber(b, msgType, uint64(*m.Type))
	}
	b = appendOptional(b, msgTo, m.To)
	b = appendOptional(b, msgFrom, m.From)
	b = appendOptional(b, msgTerm, m.Term)
	b = appendOptional(b, msgLogTerm, m.LogTerm)
	b = appendOptional(b, msgIndex, m.Index)
	for _, e := range m.Entries {
		b = protowire.AppendTag(b, msgEntries, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(entrySize(e)))
		b = appendEntry(b, e)
	}
	b = appendOptional(b, msgCommit, m.Commit)
	if m.Reject != nil {
		b = appendNumber(b, msgReject, protowire.EncodeBool(*m.Reject))
	}
	b = appendOptional(b, msgRejectHint, m.RejectHint)
	if m.Context != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, msgContext, protowire.BytesType), m.Context)
	}
	return appendOptional(b, msgVote, m.Vote), nil
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendOptional(b []byte, field protowire.Number, v *uint64) []byte {
	if v == nil {
		return b
	}
	return appendNumber(b, field, *v)
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	if e.Type != nil {
		b = appendNumber(b, entType, uint64(*e.Type))
	}
	b = appendOptional(b, entTerm, e.Term)
	b = appendOptional(b, entIndex, e.Index)
	if e.Data != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, entData, protowire.BytesType), e.Data)
	}
	return b
}

func entrySize(e *raftpb.Entry) int {
	n := 0
	if e.Type != nil {
		n += 1 + protowire.SizeVarint(uint64(*e.Type))
	}
	for _, v := range []*uint64{e.Term, e.Index} {
		if v != nil {
			n += 1 + protowire.SizeVarint(*v)
		}
	}
	if e.Data != nil {
		n += 1 + protowire.SizeBytes(len(e.Data))
	}
	return n
}

func entrySizeMax(e *raftpb.Entry) int { return 4*(1+10) + len(e.Data) }

// receivedMessage is a message with room for its numbers: one allocation for all.
type receivedMessage struct {
	m       raftpb.Message
	typ     raftpb.MessageType
	reject  bool
	numbers [8]uint64
}

type receivedEntry struct {
	e           raftpb.Entry
	typ         raftpb.EntryType
	term, index uint64
}

// decodeMessage decodes what another node has sent. The message keeps b: data and context are parts
// of it.
func decodeMessage(b []byte) (*raftpb.Message, error) {
	r := &receivedMessage{}
	m := &r.m
	free := r.numbers[:]
	number := func(v uint64) *uint64 {
		p := &free[0]
		free = free[1:]
		*p = v
		return p
	}
	var ents []receivedEntry
	for rest := b; len(rest) > 0; {
		f, v, data, n := consumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("raftgroup: a malformed message: %w", protowire.ParseError(n))
		}
		rest = rest[n:]
		var to **uint64
		switch f {
		case field{msgType, protowire.VarintType}:
			r.typ = raftpb.MessageType(int32(v))
			m.Type = &r.typ
		case field{msgTo, protowire.VarintType}:
			to = &m.To
		case field{msgFrom, protowire.VarintType}:
			to = &m.From
		case field{msgTerm, protowire.VarintType}:
			to = &m.Term
		case field{msgLogTerm, protowire.VarintType}:
			to = &m.LogTerm
		case field{msgIndex, protowire.VarintType}:
			to = &m.Index
		case field{msgEntries, protowire.BytesType}:
			if ents == nil {
				n := 1 + countEntries(rest)
				ents, m.Entries = make([]receivedEntry, 0, n), make([]*raftpb.Entry, 0, n)
			}
			ents = append(ents, receivedEntry{})
			e := &ents[len(ents)-1]
			if !e.decode(data) {
				return decodeUnknown(b)
			}
			m.Entries = append(m.Entries, &e.e)
		case field{msgCommit, protowire.VarintType}:
			to = &m.Commit
		case field{msgReject, protowire.VarintType}:
			r.reject = protowire.DecodeBool(v)
			m.Reject = &r.reject
		case field{msgRejectHint, protowire.VarintType}:
			to = &m.RejectHint
		case field{msgContext, protowire.BytesType}:
			m.Context = data
		case field{msgVote, protowire.VarintType}:
			to = &m.Vote
		default:
			return decodeUnknown(b)
		}
		switch {
		case to == nil:
		case *to == nil:
			*to = number(v)
		default: // said twice: the last one counts
			**to = v
		}
	}
	return m, nil
}

// decodeUnknown decodes a message with something in it that decodeMessage does not know.
func decodeUnknown(b []byte) (*raftpb.Message, error) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, err
	}
	return m, nil
}

// countEntries is how many entries follow one after the other.
func countEntries(b []byte) int {
	for count := 0; ; count++ {
		f, _, _, n := consumeField(b)
		if n < 0 || f != (field{msgEntries, protowire.BytesType}) {
			return count
		}
		b = b[n:]
	}
}

// decode reports false if there is something in the entry that it does not know.
func (r *receivedEntry) decode(b []byte) bool {
	for len(b) > 0 {
		f, v, data, n := consumeField(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch f {
		case field{entType, protowire.VarintType}:
			r.typ = raftpb.EntryType(int32(v))
			r.e.Type = &r.typ
		case field{entTerm, protowire.VarintType}:
			r.term = v
			r.e.Term = &r.term
		case field{entIndex, protowire.VarintType}:
			r.index = v
			r.e.Index = &r.index
		case field{entData, protowire.BytesType}:
			r.e.Data = data
		default:
			return false
		}
	}
	return true
}

// field is a field's number and how it is encoded.
type field struct {
	num protowire.Number
	typ protowire.Type
}

// consumeField reads one field: a number, or bytes, which are part of b and never nil. n is its length,
// negative where it is malformed. Of a field of another kind neither is read.
func consumeField(b []byte) (f field, v uint64, data []byte, n int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, 0, nil, n
	}
	f = field{num, typ}
	var m int
	switch typ {
	case protowire.VarintType:
		v, m = protowire.ConsumeVarint(b[n:])
	case protowire.BytesType:
		data, m = protowire.ConsumeBytes(b[n:])
		if data != nil {
			data = data[:len(data):len(data)]
		}
	default:
		m = protowire.ConsumeFieldValue(num, typ, b[n:])
	}
	if m < 0 {
		return f, 0, nil, m
	}
	return f, v, data, n + m
}
