package raftlog_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/raftgroup"
	"pontoon/raftgroup/raftlog"
)

// BenchmarkSave is a write of one entry to a disk that costs nothing.
func BenchmarkSave(b *testing.B) {
	s, err := raftlog.Open("log", raftlog.Options{FS: vfs.NewMem()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	data := make([]byte, 256)
	index := uint64(0)
	for b.Loop() {
		index++
		e := &raftpb.Entry{Term: new(uint64(1)), Index: new(index), Data: data}
		up := raftgroup.Update{Group: 5, Entries: []*raftpb.Entry{e}}
		if err := s.Save([]raftgroup.Update{up}); err != nil {
			b.Fatal(err)
		}
	}
}
