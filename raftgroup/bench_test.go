package raftgroup_test

import (
	"io"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// BenchmarkProposal is what a proposal costs a group of one replica from the call until it is applied: a turn
// that appends, a write, a turn that commits, an apply. Nothing else runs.
func BenchmarkProposal(b *testing.B) {
	log := &nullLog{}
	h, err := raftgroup.NewHost(raftgroup.Config{Node: 1, Log: log, Sender: nullSender{}, CatchUpEntries: 1 << 10})
	if err != nil {
		b.Fatal(err)
	}
	sm := &nullMachine{}
	err = h.AddGroup(raftgroup.GroupConfig{ID: 1, Replica: 1, Peers: map[shard.ReplicaID]shard.NodeID{1: 1}, SM: sm})
	if err != nil {
		b.Fatal(err)
	}
	settle := func() {
		for h.Step() {
		}
	}
	settle()
	st, _ := h.Status(1)
	if !st.IsLeader {
		b.Fatalf("no leader: %+v", st)
	}
	data := make([]byte, 256)
	b.ReportAllocs()
	proposed := 0
	for b.Loop() {
		if err := h.Propose(1, st.Term, data); err != nil {
			b.Fatal(err)
		}
		proposed++
		settle()
	}
	if sm.data != proposed {
		b.Fatalf("%d of %d were applied", sm.data, proposed)
	}
}

type nullMachine struct {
	index, term uint64
	data        int
}

func (m *nullMachine) Apply(ents []raftgroup.Entry) error {
	for _, e := range ents {
		m.index, m.term = e.Index, e.Term
		if e.Data != nil {
			m.data++
		}
	}
	return nil
}
func (m *nullMachine) Applied() (index, term uint64)               { return m.index, m.term }
func (m *nullMachine) Durable() uint64                             { return m.index }
func (m *nullMachine) SnapshotTo(io.Writer) error                  { return nil }
func (m *nullMachine) Receive(io.Reader) (raftgroup.Staged, error) { return nil, io.EOF }

// nullLog holds the entries of one group, and nothing of what has been truncated.
type nullLog struct {
	state raftgroup.LogState
	ents  []*raftpb.Entry
	known bool
}

func (l *nullLog) Save(batch []raftgroup.Update) error {
	for i := range batch {
		u := &batch[i]
		l.known = true
		if u.Reset != nil {
			l.state.Truncated, l.state.Last, l.ents = *u.Reset, u.Reset.Index, nil
		}
		if n := len(u.Entries); n > 0 {
			l.ents, l.state.Last = append(l.ents, u.Entries...), u.Entries[n-1].GetIndex()
		}
		if u.Truncate != nil {
			l.ents = append(l.ents[:0:0], l.ents[u.Truncate.Index-l.state.Truncated.Index:]...)
			l.state.Truncated = *u.Truncate
		}
	}
	return nil
}

func (*nullLog) Replicas() ([]raftgroup.Replica, error) { return nil, nil }

func (l *nullLog) Load(shard.RangeID) (raftgroup.LogState, bool, error) { return l.state, l.known, nil }

func (l *nullLog) Entries(_ shard.RangeID, lo, hi, _ uint64) ([]*raftpb.Entry, error) {
	at := l.state.Truncated.Index + 1
	return l.ents[lo-at : hi-at : hi-at], nil
}

func (l *nullLog) Term(_ shard.RangeID, index uint64) (uint64, error) {
	return l.ents[index-l.state.Truncated.Index-1].GetTerm(), nil
}

type nullSender struct{}

func (nullSender) Send(shard.NodeID, *pb.RaftFrame) {}
func (nullSender) SendSnapshot(_ shard.NodeID, _ *pb.SnapshotHeader, _ func(io.Writer) error, done func(error)) {
	done(io.EOF)
}

// BenchmarkTick is what an idle group that is awake costs per tick.
func BenchmarkTick(b *testing.B) {
	now := time.Unix(1e9, 0)
	h, err := raftgroup.NewHost(raftgroup.Config{Node: 1, Log: &nullLog{}, Sender: nullSender{}, Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	err = h.AddGroup(raftgroup.GroupConfig{
		ID: 1, Replica: 1, Peers: map[shard.ReplicaID]shard.NodeID{1: 1}, SM: &nullMachine{}, NoQuiesce: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(100 * time.Millisecond)
		h.Tick()
		for h.Step() {
		}
	}
}
