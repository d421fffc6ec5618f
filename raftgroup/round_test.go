package raftgroup_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// counted notes how many updates each write has, and how many messages each frame.
type counted struct {
	nullSender
	*simtest.MemLog
	mu             sync.Mutex
	writes, frames []int
}

func (c *counted) Save(batch []raftgroup.Update) error {
	c.mu.Lock()
	c.writes = append(c.writes, len(batch))
	c.mu.Unlock()
	return c.MemLog.Save(batch)
}

func (c *counted) Send(_ shard.NodeID, f *pb.RaftFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, len(f.Messages))
}

// appendsOf is a frame with an append of so many entries, 0 or 1, for each group.
func appendsOf(t *testing.T, groups, entries int) *pb.RaftFrame {
	f := &pb.RaftFrame{FromNode: 2, Boot: 1}
	for id := range uint64(groups) {
		m := &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(7)), LogTerm: new(raftgroup.InitialTerm), Index: new(raftgroup.InitialIndex),
			Commit: new(raftgroup.InitialIndex),
		}
		for range entries {
			m.Entries = []*raftpb.Entry{{Index: new(raftgroup.InitialIndex + 1), Term: new(uint64(7)), Type: raftpb.EntryNormal.Enum(), Data: []byte("x")}}
		}
		body, err := raftgroup.EncodeMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		f.Messages = append(f.Messages, &pb.GroupMessage{Group: id + 1, Message: body})
	}
	return f
}

// The appends of one frame, for several groups, are written with one write and acknowledged by one frame, whatever the number of workers.
func TestAFrameIsOneRound(t *testing.T) {
	const groups = 8
	stranger := appendsOf(t, groups+1, 0).Messages[groups]
	synctest.Test(t, func(t *testing.T) {
		c := &counted{MemLog: simtest.NewMemLog()}
		h, err := raftgroup.NewHost(raftgroup.Config{
			Node: 1, Log: c, Sender: c, Workers: 4,
			OnStranger: func(raftgroup.Stranger) { synctest.Wait() }, // in the middle of the frame, workers have time
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := h.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for id := range shard.RangeID(groups) {
			err := h.AddGroup(raftgroup.GroupConfig{
				ID: id + 1, Replica: 1, Peers: map[shard.ReplicaID]shard.NodeID{1: 1, 2: 2, 3: 3}, SM: &nullMachine{},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		h.HandleFrame(2, appendsOf(t, groups, 0)) // who leads is news to the observer, not to be counted
		synctest.Wait()
		c.writes, c.frames = nil, nil
		f := appendsOf(t, groups, 1)
		f.Messages = append(f.Messages[:groups/2:groups/2], append([]*pb.GroupMessage{stranger}, f.Messages[groups/2:]...)...)
		h.HandleFrame(2, f)
		synctest.Wait()
		if len(c.writes) != 1 || c.writes[0] != groups || len(c.frames) != 1 || c.frames[0] != groups {
			t.Errorf("writes of %v updates and frames of %v messages, want one of %d each", c.writes, c.frames, groups)
		}
		cancel()
		wg.Wait()
	})
}
