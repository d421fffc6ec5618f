package raftlog

import (
	"bytes"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
)

func encodeHardState(hs *raftgroup.HardState) []byte {
	b := make([]byte, hardStateLen(hs))
	putHardState(b, hs)
	return b
}

// FuzzDecode: no value makes a decoder panic, and what decodes encodes to something that decodes
// to the same.
func FuzzDecode(f *testing.F) {
	e := &raftpb.Entry{Term: new(uint64(7)), Index: new(uint64(9)), Type: raftpb.EntryNormal.Enum(), Data: []byte("data")}
	v := make([]byte, entryValueLen(e))
	putEntryValue(v, e)
	f.Add(v)
	f.Add(encodeHardState(&raftgroup.HardState{Term: 1, Vote: 2, Commit: 300}))
	f.Add(encodePosition(&raftgroup.Position{Index: 1 << 60, Term: 5}))
	conf, err := encodeConf(&raftgroup.Conf{State: &raftpb.ConfState{Voters: []uint64{1, 2}}, Index: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(conf)
	f.Add(entryKey(3, 4))
	f.Add(encodeReplica(&raftgroup.Replica{ID: 300, State: raftgroup.ReplicaRemoved}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEntry(9, b); err == nil {
			v := make([]byte, entryValueLen(e))
			putEntryValue(v, e)
			if !bytes.Equal(v, b) {
				t.Fatalf("entry %x became %x", b, v)
			}
		}
		if hs, err := decodeHardState(b); err == nil {
			if again, err := decodeHardState(encodeHardState(&hs)); err != nil || again != hs {
				t.Fatalf("%v: %v, %v", hs, again, err)
			}
		}
		if p, err := decodePosition(b); err == nil {
			if again, err := decodePosition(encodePosition(&p)); err != nil || again != p {
				t.Fatalf("%v: %v, %v", p, again, err)
			}
		}
		if r, err := decodeReplica(7, b); err == nil {
			if again, err := decodeReplica(7, encodeReplica(&r)); err != nil || again != r {
				t.Fatalf("%v: %v, %v", r, again, err)
			}
		}
		if i, err := decodeChange(b); err == nil {
			if again, err := decodeChange(encodeUints(i)); err != nil || again != i {
				t.Fatalf("%v: %v, %v", i, again, err)
			}
		}
		if c, err := decodeConf(b); err == nil {
			if _, err := encodeConf(&c); err != nil {
				t.Fatal(err)
			}
		}
		if g, i, err := decodeEntryKey(b); err == nil && !bytes.Equal(entryKey(g, i), b) {
			t.Fatalf("key %x became %v/%d", b, g, i)
		}
	})
}
