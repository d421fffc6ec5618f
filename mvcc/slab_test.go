package mvcc

import (
	"bytes"
	"slices"
	"testing"

	"pontoon/shard"
)

func TestSlab(t *testing.T) {
	var s slab
	for round := range 3 {
		var bufs [][]byte
		for i, n := range []int{0, 1, 300, slabChunk - 300, slabChunk, slabChunk + 1, 7, slabChunk / 2, slabChunk / 2, slabChunk/2 + 1, 3 * slabChunk} {
			b := s.buf(n)
			if len(b) != 0 || cap(b) != n {
				t.Fatalf("round %d: %d bytes with room for %d, want %d", round, len(b), cap(b), n)
			}
			bufs = append(bufs, append(b, bytes.Repeat([]byte{byte(i + 1)}, n)...))
		}
		for i, b := range bufs {
			if slices.ContainsFunc(b, func(c byte) bool { return c != byte(i+1) }) {
				t.Fatalf("round %d: slice %d shares memory with another one", round, i)
			}
		}
		s.release()
	}
}

// A record never outgrows what is set apart for it.
func TestRecordsFit(t *testing.T) {
	for _, v := range []version{
		{kv: shard.KeyValue{Key: make([]byte, MaxKeyBytes), Value: make([]byte, 100), CreateRevision: 1, ModRevision: 1<<63 - 1, Version: 1<<63 - 1, Lease: -1}},
		{kv: shard.KeyValue{Key: []byte("k"), CreateRevision: 1, ModRevision: 1, Version: 1}},
		{kv: shard.KeyValue{Key: []byte("k"), ModRevision: 5}, del: true},
	} {
		key, value := len(v.kv.Key), len(v.kv.Value)
		if n := len(appendLogRecord(nil, nil, &v)); n > recordHeadMax+key+value {
			t.Errorf("%d bytes in the log with a key of %d and a value of %d", n, key, value)
		}
		if n := len(appendBaseRecord(nil, nil, &v)); n > recordHeadMax+value {
			t.Errorf("%d bytes in the base with a value of %d", n, value)
		}
	}
}
