package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/shard"
)

// The layout is described in docs/format/raftlog.md.

// formatName is the value of formatKey.
const formatName = "pontoon raft log 1"

// formatKey sorts before every group's keys: there is no group 0.
var formatKey = make([]byte, 9)

const (
	kindHardState byte = 1
	kindConf      byte = 2
	kindTruncated byte = 3
	kindEntry     byte = 4
	kindReplica   byte = 5
	kindChange    byte = 6

	metaKeyLen  = 9
	entryKeyLen = 17
	entryHead   = 9 // type and term before the data
)

var errMalformed = errors.New("malformed value")

func metaKey(g shard.RangeID, kind byte) []byte {
	k := make([]byte, metaKeyLen)
	putMetaKey(k, g, kind)
	return k
}

func putMetaKey(k []byte, g shard.RangeID, kind byte) {
	binary.BigEndian.PutUint64(k, uint64(g))
	k[8] = kind
}

func entryKey(g shard.RangeID, index uint64) []byte {
	k := make([]byte, entryKeyLen)
	putEntryKey(k, g, index)
	return k
}

func putEntryKey(k []byte, g shard.RangeID, index uint64) {
	putMetaKey(k, g, kindEntry)
	binary.BigEndian.PutUint64(k[9:], index)
}

// entriesEnd is above every entry of a group, and below the next group.
func entriesEnd(g shard.RangeID) []byte { return metaKey(g, kindEntry+1) }

func decodeEntryKey(k []byte) (shard.RangeID, uint64, error) {
	if len(k) != entryKeyLen || k[8] != kindEntry {
		return 0, 0, errMalformed
	}
	return shard.RangeID(binary.BigEndian.Uint64(k)), binary.BigEndian.Uint64(k[9:]), nil
}

func encodeUints(vs ...uint64) []byte {
	return appendUints(make([]byte, 0, len(vs)*binary.MaxVarintLen64), vs...)
}

func appendUints(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// decodeUints reads exactly len(vs) numbers, and returns what follows them.
func decodeUints(b []byte, vs ...*uint64) ([]byte, error) {
	for _, v := range vs {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errMalformed
		}
		*v, b = x, b[n:]
	}
	return b, nil
}

func hardStateLen(hs *raftgroup.HardState) int {
	return protowire.SizeVarint(hs.Term) + protowire.SizeVarint(hs.Vote) + protowire.SizeVarint(hs.Commit)
}

// putHardState fills b, which is hardStateLen long.
func putHardState(b []byte, hs *raftgroup.HardState) { appendUints(b[:0], hs.Term, hs.Vote, hs.Commit) }

func decodeHardState(b []byte) (raftgroup.HardState, error) {
	var hs raftgroup.HardState
	rest, err := decodeUints(b, &hs.Term, &hs.Vote, &hs.Commit)
	if err == nil && len(rest) > 0 {
		err = errMalformed
	}
	return hs, err
}

func encodePosition(p *raftgroup.Position) []byte { return encodeUints(p.Index, p.Term) }

func decodePosition(b []byte) (raftgroup.Position, error) {
	var p raftgroup.Position
	rest, err := decodeUints(b, &p.Index, &p.Term)
	if err == nil && len(rest) > 0 {
		err = errMalformed
	}
	return p, err
}

func encodeReplica(r *raftgroup.Replica) []byte { return encodeUints(uint64(r.State), uint64(r.ID)) }

func decodeReplica(g shard.RangeID, b []byte) (raftgroup.Replica, error) {
	var state, id uint64
	rest, err := decodeUints(b, &state, &id)
	if err == nil && (len(rest) > 0 || state > uint64(raftgroup.ReplicaRemoved)) {
		err = errMalformed
	}
	return raftgroup.Replica{Group: g, ID: shard.ReplicaID(id), State: raftgroup.ReplicaState(state)}, err
}

func decodeChange(b []byte) (index uint64, err error) {
	rest, err := decodeUints(b, &index)
	if err == nil && len(rest) > 0 {
		err = errMalformed
	}
	return index, err
}

func encodeConf(c *raftgroup.Conf) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(encodeUints(c.Index), c.State)
}

func decodeConf(b []byte) (raftgroup.Conf, error) {
	c := raftgroup.Conf{State: &raftpb.ConfState{}}
	rest, err := decodeUints(b, &c.Index)
	if err != nil {
		return c, err
	}
	if err := proto.Unmarshal(rest, c.State); err != nil {
		return c, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return c, nil
}

func entryValueLen(e *raftpb.Entry) int { return entryHead + len(e.GetData()) }

// putEntryValue fills b, which is entryValueLen long.
func putEntryValue(b []byte, e *raftpb.Entry) {
	b[0] = byte(e.GetType())
	binary.BigEndian.PutUint64(b[1:], e.GetTerm())
	copy(b[entryHead:], e.GetData())
}

// decodeEntry copies what it needs of b.
func decodeEntry(index uint64, b []byte) (*raftpb.Entry, error) {
	term, err := decodeEntryTerm(b)
	if err != nil {
		return nil, err
	}
	typ := raftpb.EntryType(b[0])
	e := &raftpb.Entry{Index: &index, Term: &term, Type: &typ}
	if len(b) > entryHead {
		e.Data = append([]byte(nil), b[entryHead:]...)
	}
	return e, nil
}

func decodeEntryTerm(b []byte) (uint64, error) {
	if len(b) < entryHead || b[0] > byte(raftpb.EntryConfChangeV2) {
		return 0, errMalformed
	}
	return binary.BigEndian.Uint64(b[1:]), nil
}
