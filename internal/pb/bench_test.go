package pb

import "testing"

// benchMessages is what passes by the thousand.
func benchMessages() map[string]generated {
	put := &Op{Put: &PutOp{Key: []byte("key/of/a/put"), Value: make([]byte, 256)}}
	entry := &Entry{Term: 5, Epoch: 4, Closed: 1000, ProposalId: 1 << 40, Proposer: 3, Batch: &Batch{FirstRevision: 10_000}}
	page := &ReadResponse{Count: 1000}
	for range 16 {
		entry.Batch.Requests = append(entry.Batch.Requests, put)
		page.Kvs = append(page.Kvs, &KeyValue{Key: put.Put.Key, Value: put.Put.Value, CreateRevision: 100_000, ModRevision: 1_000_000, Version: 7})
	}
	raft := &RaftFrame{FromNode: 3, Boot: 1 << 50, Heartbeats: []*Heartbeat{{Group: 3, From: 4, To: 5, Term: 6, Commit: 100_000, Notice: true}}}
	for range 4 {
		raft.Messages = append(raft.Messages, &GroupMessage{Group: 5, Message: make([]byte, 400)})
	}
	return map[string]generated{
		"put": put, "entry": entry, "page": page, "raft": raft,
		"write":   &PeerRequest{Id: 77, TimeoutMs: 5000, Revision: 100_000, Epoch: 3, Write: &WriteRequest{RangeId: 3, Generation: 1, Op: put}},
		"written": &PeerResponse{Id: 77, Revision: 100_000, Epoch: 3, Write: &WriteResponse{Result: &Result{Put: &PutResult{}, Revision: 100_000}, Revision: 100_000, Wrote: true, Term: 5}},
		"oracle":  &PeerResponse{Id: 77, Revision: 100_000, Epoch: 3, Oracle: &OracleResponse{Revision: 100_000, Epoch: 3, RangesVersion: 5}},
	}
}

func BenchmarkCodec(b *testing.B) {
	for name, m := range benchMessages() {
		raw, err := m.MarshalVT()
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, len(raw))
		fresh := m.ProtoReflect().Type()
		for how, fn := range map[string]func(){
			"size":   func() { _ = m.SizeVT() },
			"encode": func() { _, _ = m.MarshalToSizedBufferVT(buf) },
			"copied": func() { _ = fresh.New().Interface().(generated).UnmarshalVT(raw) },
			"shared": func() { _ = fresh.New().Interface().(generated).UnmarshalVTUnsafe(raw) },
		} {
			b.Run("message="+name+"/"+how, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					fn()
				}
			})
		}
	}
}
