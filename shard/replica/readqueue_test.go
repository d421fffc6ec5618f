package replica

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"pontoon/internal/pb"
	"pontoon/shard"
)

// Readers are started as the queue grows, never more than allowed, and every read is taken once.
func TestPointReads(t *testing.T) {
	p := readQueue[fencedRead]{readersMax: pointReadersMax, perReader: pointReadsWaiting, count: 1000, bytes: 1000}
	started := 0
	for i := range 1000 {
		if start, err := p.add(fencedRead{index: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		} else if start {
			started++
		}
		if want := min(1+i/pointReadsWaiting, pointReadersMax); started != want {
			t.Fatalf("%d reads wait, %d readers, want %d", i+1, started, want)
		}
	}
	if _, err := p.add(fencedRead{}); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Fatalf("one more than may wait: %v", err)
	}
	var mu sync.Mutex
	seen := map[uint64]int{}
	var wg sync.WaitGroup
	for range started {
		wg.Go(func() {
			p.drain(func(f fencedRead) {
				mu.Lock()
				defer mu.Unlock()
				seen[f.index]++
			})
		})
	}
	wg.Wait()
	for i := range uint64(1000) {
		if seen[i+1] != 1 {
			t.Errorf("read %d was taken %d times", i+1, seen[i+1])
		}
	}
	if start, _ := p.add(fencedRead{}); !start {
		t.Error("no reader is started after all have left")
	}
}

// One reader takes what comes in the meantime.
func TestPointReadsInOrder(t *testing.T) {
	p := readQueue[fencedRead]{readersMax: pointReadersMax, perReader: pointReadsWaiting, count: 1000, bytes: 1000}
	p.add(fencedRead{index: 1})
	var got []uint64
	p.drain(func(f fencedRead) {
		got = append(got, f.index)
		if f.index == 5 {
			return
		}
		if start, _ := p.add(fencedRead{index: f.index + 1}); start {
			t.Errorf("a second reader for read %d", f.index+1)
		}
	})
	if len(got) != 5 || got[4] != 5 {
		t.Errorf("taken: %v", got)
	}
}

// What waits is bounded by what it holds, too, and who has given up costs no read.
func TestPointReadsInBytes(t *testing.T) {
	p := readQueue[fencedRead]{readersMax: 1, count: 1000, bytes: 2500}
	key := bytes.Repeat([]byte("k"), 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	answers := []error{}
	read := fencedRead{ctx: ctx, req: &pb.FenceRequest{Read: &pb.ReadRequest{Span: &pb.Span{Start: key}}},
		reply: func(_ *pb.FenceResponse, err error) { answers = append(answers, err) }}
	for i := range 3 {
		if _, err := p.add(read); (err != nil) != (i == 2) {
			t.Errorf("read %d: %v", i, err)
		}
	}
	var r Replica // that has no store to read
	p.drain(r.readFenced)
	if len(answers) != 2 || !errors.Is(answers[0], shard.ErrTimeout) || p.mu.bytes != 0 {
		t.Errorf("answers %v, %d bytes left", answers, p.mu.bytes)
	}
}
