package raftgroup_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/raftgroup/simtest"
	"pontoon/shard"
)

// TestScenarios drives clusters of hosts by the files in testdata. Every file begins with
// "cluster". The commands are the methods of scenario.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

type scenario struct {
	t   *testing.T
	c   *simtest.Cluster
	out []string // what callbacks have said since the last command that prints
	// held are the kinds of work that nodes leave waiting.
	held map[shard.NodeID][]string
}

func (s *scenario) say(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf(format, args...))
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	cmds := map[string]func(*datadriven.TestData){
		"cluster": s.cluster, "start": s.start, "crash": s.crash, "gone": s.gone, "pause": s.pause, "resume": s.resume,
		"tick": s.tick, "settle": s.settle, "step": s.step, "propose": s.propose, "status": s.status,
		"data": s.data, "isolate": s.isolate, "cut": s.cut, "heal": s.heal, "confirm": s.confirm,
		"lease": s.lease, "transfer": s.transfer, "handover": s.handOver, "abort": s.abort, "stopping": s.stopping, "campaign": s.campaign, "drop": s.drop, "flush": s.flush,
		"machine": s.machine, "snapshots": s.snapshots, "log": s.log, "lose": s.lose, "until-leader": s.untilLeader,
		"change": s.change, "step-change": s.stepChange, "hold": s.hold, "partition": s.partition, "disk": s.disk, "join": s.join, "leave": s.leave, "held": s.heldReplicas, "forget": s.forget, "unreachable": s.unreachable,
		"child": s.child, "birth": s.birth, "strangers": s.strangers, "retry": s.retry,
	}
	fn := cmds[d.Cmd]
	if fn == nil {
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	s.out = nil
	fn(d)
	if len(s.out) == 0 {
		return "ok"
	}
	return strings.Join(s.out, "\n")
}

func intArg(t *testing.T, d *datadriven.TestData, name string, def int) int {
	if d.HasArg(name) {
		d.ScanArgs(t, name, &def)
	}
	return def
}

func (s *scenario) node(d *datadriven.TestData) *simtest.Node {
	return s.c.Node(shard.NodeID(intArg(s.t, d, "node", 1)))
}

func (s *scenario) group(d *datadriven.TestData) shard.RangeID {
	return shard.RangeID(intArg(s.t, d, "group", 1))
}

// cluster nodes=3 groups=1 [lease] [first=1] [noquiesce] [down] [keep=100] [members=3] makes a cluster and starts
// it; with members the groups are on the first nodes alone.
// The node named by first campaigns at once.
func (s *scenario) cluster(d *datadriven.TestData) {
	cryptotest.SetGlobalRandom(s.t, uint64(intArg(s.t, d, "seed", 1)))
	s.c = simtest.NewCluster(intArg(s.t, d, "nodes", 3))
	keep := uint64(intArg(s.t, d, "keep", 0))
	s.held = map[shard.NodeID][]string{}
	s.c.Config = func(c *raftgroup.Config) {
		c.CatchUpEntries = keep
		c.Hold = func(w raftgroup.Work) bool { return slices.Contains(s.held[c.Node], workNames[w]) }
	}
	first := shard.NodeID(intArg(s.t, d, "first", 1))
	var on []shard.NodeID
	for i := range intArg(s.t, d, "members", 0) {
		on = append(on, shard.NodeID(i+1))
	}
	for i := range intArg(s.t, d, "groups", 1) {
		s.c.AddGroup(raftgroup.GroupConfig{
			ID: shard.RangeID(i + 1), Lease: d.HasArg("lease"), NoQuiesce: d.HasArg("noquiesce"),
		}, on...)
	}
	s.c.First = first
	if d.HasArg("down") {
		return
	}
	if err := s.c.StartAll(); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

// start node=1 [late=2] starts a node; the late group stays down.
func (s *scenario) start(d *datadriven.TestData) {
	s.c.Late = nil
	if late := intArg(s.t, d, "late", 0); late != 0 {
		s.c.Late = []shard.RangeID{shard.RangeID(late)}
	}
	if err := s.c.Start(s.node(d).ID); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

func (s *scenario) crash(d *datadriven.TestData) { s.c.Crash(s.node(d).ID) }

// gone node=1 tells all others that the node's process does not run.
func (s *scenario) gone(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		if n.Host != nil && n.ID != s.node(d).ID {
			n.Host.PeerGone(s.node(d).ID)
		}
	}
	s.c.Settle()
}

func (s *scenario) pause(d *datadriven.TestData)  { s.c.Pause(s.node(d).ID, true) }
func (s *scenario) resume(d *datadriven.TestData) { s.c.Pause(s.node(d).ID, false); s.c.Settle() }

func (s *scenario) tick(d *datadriven.TestData)    { s.c.Tick(intArg(s.t, d, "n", 1)) }
func (s *scenario) settle(*datadriven.TestData)    { s.c.Settle() }
func (s *scenario) isolate(d *datadriven.TestData) { s.c.Net.Isolate(s.node(d).ID) }
func (s *scenario) heal(*datadriven.TestData)      { s.c.Net.Heal() }

func (s *scenario) cut(d *datadriven.TestData) {
	s.c.Net.Cut(shard.NodeID(intArg(s.t, d, "from", 1)), shard.NodeID(intArg(s.t, d, "to", 2)))
}

// step runs one node alone, without delivering anything.
func (s *scenario) step(d *datadriven.TestData) {
	n := s.node(d)
	for i := intArg(s.t, d, "n", 1000); i > 0 && n.Host.Step(); i-- {
	}
}

// until-leader ticks until a node other than the one given leads, and says how long it took.
func (s *scenario) untilLeader(d *datadriven.TestData) {
	not := shard.NodeID(intArg(s.t, d, "not", 0))
	_, before := s.c.Leader(s.group(d))
	for i := range 60 {
		if node, term := s.c.Leader(s.group(d)); node != 0 && node != not && (not == 0 || term > before) {
			s.say("node %d leads term %d after %d ticks", node, term, i)
			return
		}
		s.c.Tick(1)
	}
	s.say("no leader")
}

// propose node=1 data=x [count=3] [term=6] [nosettle]
func (s *scenario) propose(d *datadriven.TestData) {
	n, g := s.node(d), s.group(d)
	st, _ := n.Host.Status(g)
	term := uint64(intArg(s.t, d, "term", int(st.Term)))
	data := "x"
	if d.HasArg("data") {
		d.ScanArgs(s.t, "data", &data)
	}
	count := intArg(s.t, d, "count", 1)
	for i := range count {
		v := data
		if count > 1 {
			v = fmt.Sprintf("%s%d", data, i)
		}
		err := n.Host.ProposeFunc(g, term, []byte(v), func(err error) { s.say("dropped %s: %v", v, err) })
		if err != nil {
			s.say("refused: %v", err)
		}
	}
	if !d.HasArg("nosettle") {
		s.c.Settle()
	}
}

// status [node=1] prints what each node knows.
func (s *scenario) status(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		if n.Host == nil {
			s.say("%d: down", n.ID)
			continue
		}
		st, ok := n.Host.Status(s.group(d))
		if !ok {
			s.say("%d: no such group", n.ID)
			continue
		}
		role := "follower"
		if st.IsLeader {
			role = "leader"
		}
		asleep := ""
		if st.Quiescent {
			asleep = " quiescent"
		}
		s.say("%d: %s term=%d leader=%d commit=%d applied=%d last=%d%s",
			n.ID, role, st.Term, st.Leader, st.Commit, st.Applied, st.LastIndex, asleep)
	}
}

func (s *scenario) data(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		all := n.Data(s.group(d))
		text := strings.Join(all, " ")
		if len(all) > 8 {
			text = fmt.Sprintf("%d entries, %s to %s", len(all), all[0], all[len(all)-1])
		}
		s.say("%d: %s", n.ID, text)
		for _, e := range n.GroupErrors {
			s.say("%d: error: %s", n.ID, e)
		}
		if n.Fatal != nil {
			s.say("%d: fatal: %v", n.ID, n.Fatal)
		}
	}
}

// confirm node=1 [callers=1] [nosettle]
func (s *scenario) confirm(d *datadriven.TestData) {
	n := s.node(d)
	st, _ := n.Host.Status(s.group(d))
	callers := intArg(s.t, d, "callers", 1)
	for i := range callers {
		n.Host.Confirm(s.group(d), uint64(intArg(s.t, d, "term", int(st.Term))), func(ok bool, commit uint64) {
			if i == callers-1 { // one for all
				s.say("proof of node %d: %v, commit %d", n.ID, ok, commit)
			}
		})
	}
	if !d.HasArg("nosettle") {
		s.c.Settle()
	}
}

func (s *scenario) lease(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		if n.Host == nil {
			continue
		}
		st, _ := n.Host.Status(s.group(d))
		if until, ok := n.Host.LeaseUntil(s.group(d), st.Term); ok {
			s.say("%d: lease in term %d for %v", n.ID, st.Term, until.Sub(s.c.Clock.Now()).Round(time.Millisecond))
		}
	}
	if len(s.out) == 0 {
		s.say("nobody")
	}
}

func (s *scenario) transfer(d *datadriven.TestData) {
	s.node(d).Host.TransferLeader(s.group(d), shard.ReplicaID(intArg(s.t, d, "to", 2)))
	if !d.HasArg("nosettle") {
		s.c.Settle()
	}
}

// handover node=1 [to=2] [term=6] hands the leadership over, and says in the end what has come of it.
func (s *scenario) handOver(d *datadriven.TestData) {
	h := s.node(d).Host
	st, _ := h.Status(s.group(d))
	err := h.HandOver(s.group(d), uint64(intArg(s.t, d, "term", int(st.Term))), shard.ReplicaID(intArg(s.t, d, "to", 0)), func(err error) {
		if err == nil {
			s.say("node %d has handed over", s.node(d).ID)
			return
		}
		s.say("node %d goes on: %v", s.node(d).ID, err)
	})
	if err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

func (s *scenario) stopping(d *datadriven.TestData) { s.node(d).Host.Leave() }

// abort node=1 ends the wait of a handover.
func (s *scenario) abort(d *datadriven.TestData) {
	h := s.node(d).Host
	st, _ := h.Status(s.group(d))
	h.AbortHandOver(s.group(d), uint64(intArg(s.t, d, "term", int(st.Term))))
	s.c.Settle()
}

func (s *scenario) campaign(d *datadriven.TestData) {
	s.node(d).Host.Campaign(s.group(d))
	s.c.Settle()
}

// drop types=(MsgApp,rounds) [from=1] [to=2] [also] loses these from now on, besides what is lost already where it
// says also; without types nothing is lost.
func (s *scenario) drop(d *datadriven.TestData) {
	types := listArg(d, "types")
	lost := s.c.Net.Drop
	if lost == nil || !d.HasArg("also") {
		lost = func(_, _ shard.NodeID, _ *pb.RaftFrame) bool { return false }
	}
	if len(types) == 0 {
		s.c.Net.Drop = nil
		return
	}
	onlyFrom, onlyTo := shard.NodeID(intArg(s.t, d, "from", 0)), shard.NodeID(intArg(s.t, d, "to", 0))
	s.c.Net.Drop = func(from, to shard.NodeID, f *pb.RaftFrame) bool {
		if (onlyFrom == 0 || from == onlyFrom) && (onlyTo == 0 || to == onlyTo) {
			dropTypes(f, types)
		}
		return lost(from, to, f)
	}
}

func dropTypes(f *pb.RaftFrame, types []string) {
	f.Messages = slices.DeleteFunc(f.Messages, func(gm *pb.GroupMessage) bool {
		var m raftpb.Message
		return proto.Unmarshal(gm.Message, &m) == nil && slices.Contains(types, m.GetType().String())
	})
	if slices.Contains(types, "rounds") {
		f.Rounds = nil
	}
	if slices.Contains(types, "notices") {
		f.Heartbeats = slices.DeleteFunc(f.Heartbeats, func(hb *pb.Heartbeat) bool { return hb.Notice })
	}
}

// unreachable node=1 peer=3 tells a node that something it sent to another one was lost.
func (s *scenario) unreachable(d *datadriven.TestData) {
	s.node(d).Host.PeerUnreachable(shard.NodeID(intArg(s.t, d, "peer", 2)))
}

// flush node=1 [auto=false] makes a machine durable, or keeps it from being so by itself.
func (s *scenario) flush(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		m := n.Machines[s.group(d)]
		if d.HasArg("never") {
			m.AutoFlush = false
		} else {
			m.Flush()
		}
	}
}

// machine node=1 fail|crash-in-install makes a state machine misbehave.
func (s *scenario) machine(d *datadriven.TestData) {
	m := s.node(d).Machines[s.group(d)]
	switch {
	case d.HasArg("fail"):
		m.FailApply = simtest.ErrCrashed
	case d.HasArg("crash-in-install"):
		m.CrashInInstall = true
	case d.HasArg("fine"):
		m.FailApply, m.CrashInInstall, m.Waits = nil, false, ""
	case d.HasArg("waits"):
		d.ScanArgs(s.t, "waits", &m.Waits)
	}
	s.say("installed %d, discarded %d", m.Installed, m.Discarded)
}

// retry node=1 group=1 has a machine try again what had to wait.
func (s *scenario) retry(d *datadriven.TestData) {
	raftgroup.Retry(s.node(d).Host, s.group(d))
	s.c.Settle()
}

func (s *scenario) snapshots(d *datadriven.TestData) {
	s.c.Net.HoldSnapshots = d.HasArg("hold")
	s.c.Settle()
}

// lose node=1 makes a machine lose its state while its log stays. lost prints who waits for one.
func (s *scenario) lose(d *datadriven.TestData) {
	if err := s.c.Lose(s.node(d).ID, s.group(d)); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
	if s.node(d).Lost(s.group(d)) {
		s.say("waits for a state")
	}
}

// log prints where each node's log begins and ends on disk.
func (s *scenario) log(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		st, _, err := n.Log.Load(s.group(d))
		if err != nil {
			s.say("%v", err)
		}
		s.say("%d: (%d, %d] term=%d vote=%d", n.ID, st.Truncated.Index, st.Last, st.HardState.Term, st.HardState.Vote)
	}
}

var workNames = map[raftgroup.Work]string{
	raftgroup.WorkSteps: "steps", raftgroup.WorkWrites: "writes", raftgroup.WorkApplies: "applies",
}

// hold node=1 [work=(applies,writes,steps)] leaves such work of a node waiting from now on; without, nothing waits.
func (s *scenario) hold(d *datadriven.TestData) {
	s.held[s.node(d).ID] = listArg(d, "work")
	s.c.Settle()
}

func listArg(d *datadriven.TestData, name string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == name {
			return a.Vals
		}
	}
	return nil
}

// partition nodes=(1,2) cuts these from all others, both ways.
func (s *scenario) partition(d *datadriven.TestData) {
	inside := listArg(d, "nodes")
	for _, a := range s.c.Nodes {
		for _, b := range s.c.Nodes {
			if slices.Contains(inside, fmt.Sprint(a.ID)) != slices.Contains(inside, fmt.Sprint(b.ID)) {
				s.c.Net.Cut(a.ID, b.ID)
			}
		}
	}
}

// change node=1 [add=(4,5)] [remove=(2)] [learn=(6)] [nosettle] proposes a change of the configuration: with voters
// in it a joint one, with nothing in it the end of that.
func (s *scenario) change(d *datadriven.TestData) {
	cc := &raftpb.ConfChangeV2{}
	for _, c := range []struct {
		arg string
		typ raftpb.ConfChangeType
	}{{"add", raftpb.ConfChangeAddNode}, {"remove", raftpb.ConfChangeRemoveNode}, {"learn", raftpb.ConfChangeAddLearnerNode}} {
		for _, v := range listArg(d, c.arg) {
			id, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				d.Fatalf(s.t, "%v", err)
			}
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: c.typ.Enum(), NodeId: &id})
		}
	}
	if len(cc.Changes) > 0 && !d.HasArg("learn") {
		cc.Transition = raftpb.ConfChangeTransitionJointExplicit.Enum()
	}
	s.node(d).Host.ProposeConfChange(s.group(d), cc, func(err error) {
		if err != nil {
			s.say("dropped: %v", err)
		}
	})
	if !d.HasArg("nosettle") {
		s.c.Settle()
	}
}

// join node=4 replica=4 [stateless] makes a node hold a replica that waits; leave node=4 makes it give its replica up.
func (s *scenario) join(d *datadriven.TestData) {
	if err := s.c.Join(s.node(d).ID, s.group(d), shard.ReplicaID(intArg(s.t, d, "replica", 1)), d.HasArg("stateless")); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

func (s *scenario) leave(d *datadriven.TestData) {
	if err := s.c.Leave(s.node(d).ID, s.group(d)); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

// held prints what each node's log says is held. forget node=3 makes a node forget a tombstone.
func (s *scenario) heldReplicas(*datadriven.TestData) {
	names := []string{"unknown", "waiting", "present", "removed"}
	for _, n := range s.c.Nodes {
		list, err := n.Log.Replicas()
		if err != nil {
			s.say("%v", err)
		}
		var text []string
		for _, r := range list {
			text = append(text, fmt.Sprintf("%v replica %d %s", r.Group, r.ID, names[r.State]))
		}
		s.say("%d: %s", n.ID, strings.Join(text, ", "))
	}
}

func (s *scenario) forget(d *datadriven.TestData) {
	if err := s.node(d).Host.ForgetTombstone(s.group(d), func() { s.say("forgotten") }); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
}

// child group=2 says that there is a group that begins by births, on all nodes. birth node=1 group=2 [leads] [slow=4] makes it begin on one; with slow, what
// nodes say takes so many ticks, and somebody leads in the end.
func (s *scenario) child(d *datadriven.TestData) {
	s.c.AddChild(raftgroup.GroupConfig{ID: s.group(d)})
}

func (s *scenario) birth(d *datadriven.TestData) {
	slow := intArg(s.t, d, "slow", 0)
	hold := func(held bool) {
		for _, n := range s.c.Nodes {
			s.c.Net.Held[n.ID] = held && slow > 0
		}
	}
	hold(true)
	if err := s.c.Birth(s.node(d).ID, s.group(d), d.HasArg("leads")); err != nil {
		s.say("%v", err)
	}
	s.c.Settle()
	for ticks := 0; slow > 0; ticks += slow {
		s.c.Tick(slow)
		if node, _ := s.c.Leader(s.group(d)); node != 0 || ticks >= 100 {
			s.say("node %v leads after at most %d ticks", node, ticks)
			break
		}
		hold(false)
		for range s.c.Net.Waiting() {
			s.c.Net.Deliver()
		}
		hold(true)
		s.c.Settle()
	}
	hold(false)
	s.c.Settle()
}

// strangers prints what nodes have been told of, and forgets it.
func (s *scenario) strangers(*datadriven.TestData) {
	for _, n := range s.c.Nodes {
		for _, r := range n.Strangers {
			s.say("%d: %v replica %d, by %d", n.ID, r.Group, r.Replica, r.From)
		}
		n.Strangers = nil
	}
}

// step-change node=1 [add=4] [remove=2] [learn=4] [unlearn=4] [from=10] [places=(1:1,2:2)] [nosettle] proposes a step as the product
// does; without replicas it is the end of a joint configuration. places go along as the context.
func (s *scenario) stepChange(d *datadriven.TestData) {
	n, g := s.node(d), s.group(d)
	st, _ := n.Host.Status(g)
	replica := func(arg string) shard.ReplicaID { return shard.ReplicaID(intArg(s.t, d, arg, 0)) }
	from := uint64(intArg(s.t, d, "from", int(st.Conf.Index)))
	c := raftgroup.ConfChange{Kind: raftgroup.EnterJoint, In: replica("add"), Out: replica("remove"), From: from}
	switch {
	case d.HasArg("learn"):
		c.Kind, c.In = raftgroup.AddLearner, replica("learn")
	case d.HasArg("unlearn"):
		c.Kind, c.Out = raftgroup.RemoveLearner, replica("unlearn")
	case c.In == 0 && c.Out == 0:
		c.Kind = raftgroup.LeaveJoint
	}
	if places := listArg(d, "places"); places != nil {
		var pairs []string
		for _, p := range places {
			id, node, _ := strings.Cut(p, ":")
			pairs = append(pairs, fmt.Sprintf("%q:%s", id, node))
		}
		c.Context = []byte("{" + strings.Join(pairs, ",") + "}")
	}
	if err := n.Host.ChangeConfig(g, st.Term, c, func(err error) { s.say("dropped: %v", err) }); err != nil {
		s.say("refused: %v", err)
	}
	if !d.HasArg("nosettle") {
		s.c.Settle()
	}
}

// disk prints what each node's log says of terms, votes, commits and configurations.
func (s *scenario) disk(d *datadriven.TestData) {
	for _, n := range s.c.Nodes {
		st, _, err := n.Log.Load(s.group(d))
		if err != nil {
			s.say("%v", err)
		}
		cs := st.Conf.State
		s.say("%d: last=%d term=%d vote=%d commit=%d, at %d: %v%s", n.ID, st.Last, st.HardState.Term, st.HardState.Vote, st.HardState.Commit,
			st.Conf.Index, cs.GetVoters(), confSuffix(cs))
	}
}

func confSuffix(cs *raftpb.ConfState) string {
	out := ""
	if v := cs.GetVotersOutgoing(); len(v) > 0 {
		out += fmt.Sprintf(" out of %v", v)
	}
	if v := cs.GetLearners(); len(v) > 0 {
		out += fmt.Sprintf(" learners %v", v)
	}
	return out
}
