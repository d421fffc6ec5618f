package replica

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/replicatest"
)

// movingGroup is a loneGroup that hands over when the test says so.
type movingGroup struct {
	*loneGroup
	mu      sync.Mutex
	to      shard.ReplicaID
	done    func(error) // nil: nothing is under way
	aborted bool
}

func (g *movingGroup) HandOver(_ shard.RangeID, _ uint64, to shard.ReplicaID, done func(error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to, g.done = to, done
	return nil
}

func (g *movingGroup) AbortHandOver(shard.RangeID, uint64) {
	g.mu.Lock()
	done := g.done
	g.done, g.aborted = nil, true
	g.mu.Unlock()
	if done != nil {
		done(shard.ErrTimeout)
	}
}

func (g *movingGroup) asked() shard.ReplicaID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.to
}

// outcome is what a transfer was answered with.
type outcome struct {
	resp *pb.TransferResponse
	err  error
}

func moving(t *testing.T, election time.Duration) (*movingGroup, *Replica) {
	t.Helper()
	g := &movingGroup{loneGroup: newLoneGroup()}
	t.Cleanup(g.stop)
	cfg := testConfig(t.TempDir(), 0, g.loneGroup, &counter{rev: 1}, &feedLog{})
	cfg.Host = g
	cfg.TickInterval = time.Millisecond
	cfg.TxnPatience = election
	cfg.Desc.Replicas = append(cfg.Desc.Replicas[:1:1], shard.Replica{ID: 2, Node: 20}, shard.Replica{ID: 3, Node: 30, Role: shard.Learner})
	r := open(t, cfg)
	g.sms = append(g.sms, r)
	g.lead(t, r)
	return g, r
}

func (g *movingGroup) transfer(t *testing.T, r *Replica, node uint64) <-chan outcome {
	ch := make(chan outcome, 1)
	r.Transfer(t.Context(), &pb.TransferRequest{Node: node}, func(resp *pb.TransferResponse, err error) { ch <- outcome{resp, err} })
	return ch
}

// TestTransfer: a write that is under way ends first, one that comes later is told where to go, and who asked hears of
// the new leader when there is one.
func TestTransfer(t *testing.T) {
	g, r := moving(t, time.Hour)
	for node, want := range map[uint64]string{99: "holds no replica", 30: "has no vote", uint64(r.cfg.Self.Node): "already"} {
		if o := <-g.transfer(t, r, node); !errors.Is(o.err, shard.ErrInvalid) || !strings.Contains(o.err.Error(), want) {
			t.Errorf("to %d: %v, want %q", node, o.err, want)
		}
	}
	g.hold(true)
	write := func(key string) <-chan error {
		ch := make(chan error, 1)
		r.Write(context.Background(), &pb.WriteRequest{Op: replicatest.Put(key, "1")}, func(_ *pb.WriteResponse, err error) { ch <- err })
		return ch
	}
	first := write("a")
	moved := g.transfer(t, r, 20)
	second := write("b")
	if g.asked() != 0 {
		t.Fatal("handed over with a write under way")
	}
	if o := <-g.transfer(t, r, 20); !errors.Is(o.err, shard.ErrTooManyRequests) {
		t.Errorf("another transfer: %v", o.err)
	}
	g.hold(false)
	if err := <-first; err != nil {
		t.Errorf("the write ahead: %v", err)
	}
	waitFor(t, func() bool { return g.asked() == 2 })
	r.LeaderChanged(raftgroup.Leadership{Term: 7}) // the election
	var nl *shard.NotLeaderError
	if err := <-second; !errors.As(err, &nl) {
		t.Errorf("the write behind: %v", err)
	}
	select {
	case o := <-moved:
		t.Fatalf("answered before anybody leads: %+v", o)
	default:
	}
	r.LeaderChanged(raftgroup.Leadership{Term: 7, Leader: 2})
	if o := <-moved; o.err != nil || o.resp.LeaderNode != 20 || o.resp.Term != 7 {
		t.Errorf("answered %+v", o)
	}
	if o := <-g.transfer(t, r, 20); !errors.As(o.err, &nl) || nl.Leader != 20 {
		t.Errorf("asked of a follower: %v", o.err)
	}
}

// TestTransferGivesWay: nobody takes over, so the leader goes on with what has waited.
func TestTransferGivesWay(t *testing.T) {
	g, r := moving(t, 40*time.Millisecond)
	moved := g.transfer(t, r, 0)
	waitFor(t, func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.done != nil || g.aborted })
	if err := put(r, "k"); err != nil {
		t.Errorf("a write that waited: %v", err)
	}
	if o := <-moved; !errors.Is(o.err, shard.ErrTimeout) {
		t.Errorf("answered %+v", o)
	}
}

// put writes a key and waits.
func put(r *Replica, key string) error {
	ch := make(chan error, 1)
	r.Write(context.Background(), &pb.WriteRequest{Op: replicatest.Put(key, "1")}, func(_ *pb.WriteResponse, err error) { ch <- err })
	return <-ch
}

// TestCloseEndsATransfer: who waits for a leader to be known is told that the replica is closed.
func TestCloseEndsATransfer(t *testing.T) {
	g, r := moving(t, time.Hour)
	moved := g.transfer(t, r, 20)
	waitFor(t, func() bool { return g.asked() == 2 })
	r.LeaderChanged(raftgroup.Leadership{Term: 7})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if o := <-moved; !errors.Is(o.err, shard.ErrStopped) {
		t.Errorf("answered %+v", o)
	}
}
