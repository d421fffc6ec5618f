package raftgroup

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"pontoon/internal/mutate"
	"pontoon/shard"
)

// Changes of the configuration. Each is an entry, with a context that the state machine gets with it: what the
// state machine knows of the members and what Raft knows of them come from one entry, so that a replica has both or
// neither. Raft counts by a configuration once the entry has been applied.
//
// A crash may come between the state machine, which has applied a change durably, and the note of the
// configuration in the log. The log knows where its last change is: changes that the state has and
// the note has not are found there at the start. A snapshot brings the configuration of its state, or a
// later one, and never an earlier one.

// ChangeKind is a step of a change of a group's replicas.
type ChangeKind uint8

// The steps. Voters come and go through a joint configuration only, at most one in and one out at a time: in it
// the majorities of before and of after must both agree.
const (
	AddLearner    ChangeKind = iota + 1 // In gets everything, and has no vote
	RemoveLearner                       // Out, which is a learner
	EnterJoint                          // the learner In becomes a voter, the voter Out leaves; either may be 0
	LeaveJoint                          // the configuration of before is no more
)

// ConfChange is one step.
type ConfChange struct {
	Kind    ChangeKind
	In, Out shard.ReplicaID
	// From is the index of the configuration (Conf.Index) that the step, and its context, start from.
	From uint64
	// Context goes to the state machines, at most contextBytesMax of it.
	Context []byte
}

const contextBytesMax = 64 << 10

// ErrChangePending is the reason why a change of the configuration is refused that does not start from the one in
// force, or while the one before it is not applied, or might not be.
var ErrChangePending = errors.New("another change of the configuration is under way")

// ChangeConfig proposes a step in a term, as ProposeFunc proposes data; of what it says of errors and dropped
// the same holds. It is dropped as shard.ErrInvalid where the configuration does not allow the step, and with
// ErrChangePending where it is another one by now. A change is never refused at apply: who leads
// must not propose one while anything is on its way that changes what the context says, nor the other way round.
func (h *Host) ChangeConfig(id shard.RangeID, term uint64, c ConfChange, dropped func(error)) error {
	g := h.group(id)
	if g == nil {
		return shard.ErrUnavailable
	}
	if len(c.Context) > contextBytesMax {
		return fmt.Errorf("%w: the context of a change has %d bytes, at most %d", shard.ErrInvalid, len(c.Context), contextBytesMax)
	}
	if term == 0 || g.pub.leadTerm.Load() != term {
		return g.notLeader()
	}
	p := proposal{term: term, dropped: dropped}
	if !g.box.call(func() { c.propose(g, p) }) {
		return shard.ErrUnavailable
	}
	return nil
}

// propose appends the step, if this replica still leads the term.
func (c *ConfChange) propose(g *group, p proposal) {
	st := g.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || st.GetTerm() != p.term {
		p.drop(g.notLeader())
		return
	}
	conf := g.members.conf()
	if c.From != conf.Index && !mutate.On(mutate.ChangeFromAnywhere) {
		p.drop(ErrChangePending)
		return
	}
	if err := c.check(conf.State); err != nil {
		p.drop(err)
		return
	}
	data, err := proto.Marshal(c.raft())
	if err != nil {
		panic(raftPanic("marshal a configuration change: " + err.Error()))
	}
	e := &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Data: data}
	msg := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(g.cfg.Replica)), Entries: []*raftpb.Entry{e}}
	switch err := g.rn.Step(msg); {
	case err != nil && st.LeadTransferee != raft.None:
		p.drop(&shard.NotLeaderError{Range: g.cfg.ID, Term: p.term})
	case err != nil:
		p.drop(shard.ErrTooManyRequests)
	case msg.Entries[0].GetType() != raftpb.EntryConfChangeV2: // Raft has appended an empty entry in its place
		p.drop(ErrChangePending)
	}
}

// check says why a step is not possible in a configuration.
func (c *ConfChange) check(cs *raftpb.ConfState) error {
	in, out := uint64(c.In), uint64(c.Out)
	joint := len(cs.GetVotersOutgoing()) > 0
	ok := false
	switch c.Kind {
	case AddLearner:
		ok = !joint && in != 0 && out == 0 && !slices.Contains(replicasOf(cs), in)
	case RemoveLearner:
		ok = !joint && in == 0 && slices.Contains(cs.GetLearners(), out)
	case EnterJoint:
		comes := in != 0 && slices.Contains(cs.GetLearners(), in)
		leaves := out != 0 && slices.Contains(cs.GetVoters(), out)
		ok = !joint && (in == 0 || comes) && (out == 0 || leaves) && (comes || leaves && len(cs.GetVoters()) > 1)
	case LeaveJoint:
		ok = joint && in == 0 && out == 0
	}
	if !ok {
		return fmt.Errorf("%w: step %d with replica %d in and %d out is not possible with the voters %v, those of before %v and the learners %v",
			shard.ErrInvalid, c.Kind, in, out, cs.GetVoters(), cs.GetVotersOutgoing(), cs.GetLearners())
	}
	return nil
}

// raft is the change as Raft knows it.
func (c *ConfChange) raft() *raftpb.ConfChangeV2 {
	cc := &raftpb.ConfChangeV2{Context: c.Context}
	add := func(id shard.ReplicaID, t raftpb.ConfChangeType) {
		if id != 0 {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(uint64(id))})
		}
	}
	in := raftpb.ConfChangeAddNode
	switch c.Kind {
	case AddLearner:
		in = raftpb.ConfChangeAddLearnerNode
	case EnterJoint:
		cc.Transition = raftpb.ConfChangeTransitionJointExplicit.Enum()
	}
	add(c.In, in)
	add(c.Out, raftpb.ConfChangeRemoveNode)
	return cc
}

// confChangeOf decodes the change in an entry.
func confChangeOf(e *raftpb.Entry) (*raftpb.ConfChangeV2, error) {
	var err error
	switch e.GetType() {
	case raftpb.EntryConfChange:
		cc := &raftpb.ConfChange{}
		if err = proto.Unmarshal(e.GetData(), cc); err == nil {
			return cc.AsV2(), nil
		}
	case raftpb.EntryConfChangeV2:
		cc := &raftpb.ConfChangeV2{}
		if err = proto.Unmarshal(e.GetData(), cc); err == nil {
			if _, known := raftpb.ConfChangeTransition_name[int32(cc.GetTransition())]; known {
				return cc, nil
			}
			err = fmt.Errorf("transition %v", cc.GetTransition())
		}
	default:
		return nil, fmt.Errorf("%w: entry %d has type %v", shard.ErrCorrupt, e.GetIndex(), e.GetType())
	}
	return nil, fmt.Errorf("%w: configuration change at %d: %w", shard.ErrCorrupt, e.GetIndex(), err)
}

// after is the configuration after a change at an index.
func (c Conf) after(cc *raftpb.ConfChangeV2, index uint64) (Conf, error) {
	t := tracker.MakeProgressTracker(1, 0)
	cfg, progress, err := confchange.Restore(confchange.Changer{Tracker: t, LastIndex: index}, c.State)
	if err == nil {
		t.Config, t.Progress = cfg, progress
		ch := confchange.Changer{Tracker: t, LastIndex: index}
		if cc.LeaveJoint() {
			cfg, progress, err = ch.LeaveJoint()
		} else if auto, joint := cc.EnterJoint(); joint {
			cfg, progress, err = ch.EnterJoint(auto, cc.Changes...)
		} else {
			cfg, progress, err = ch.Simple(cc.Changes...)
		}
	}
	if err != nil {
		return Conf{}, fmt.Errorf("%w: configuration change at %d in %v: %w", shard.ErrCorrupt, index, c.State, err)
	}
	t.Config, t.Progress = cfg, progress
	return Conf{State: t.ConfState(), Index: index}, nil
}

// recoverConf brings the configuration to where the state machine stands: see above. It returns the changes.
func recoverConf(log Log, id shard.RangeID, st *LogState, applied uint64) error {
	from := max(st.Conf.Index, st.Truncated.Index)
	if st.Change <= from || applied <= from || mutate.On(mutate.ConfBehindState) {
		return nil
	}
	for lo, end := from+1, min(applied, st.Change)+1; lo < end; {
		ents, err := log.Entries(id, lo, end, 1<<20)
		if err != nil {
			return fmt.Errorf("%v: read entries for changes of the configuration: %w", id, err)
		}
		for _, e := range ents {
			lo = e.GetIndex() + 1
			if e.GetType() == raftpb.EntryNormal {
				continue
			}
			cc, err := confChangeOf(e)
			if err != nil {
				return err
			}
			if st.Conf, err = st.Conf.after(cc, e.GetIndex()); err != nil {
				return err
			}
		}
	}
	return nil
}
