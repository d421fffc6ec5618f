package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pontoon/internal/pb"
	"pontoon/raftgroup"
	"pontoon/shard"
)

// metaMoved has a replica of the meta group moved, and waits until the group knows that it is done.
func metaMoved(t *testing.T, r *running, from, to shard.NodeID) {
	t.Helper()
	ctx := t.Context()
	var op shard.OpState
	eventually(t, "the move begins", func() (ok bool) {
		var err error
		op, err = r.cluster.Client.Begin(ctx, &pb.BeginOpRequest{Move: &pb.MoveOp{RangeId: uint64(shard.MetaID), From: uint64(from), To: uint64(to), Reason: "test"}})
		return err == nil // the cluster's version has to rise first
	})
	eventually(t, "the move is done", func() bool {
		now, err := r.cluster.Client.Op(ctx, op.ID)
		if err == nil && now.Failure != "" {
			t.Fatalf("%+v", now)
		}
		return err == nil && now.Outcome() == shard.OpDone
	})
}

// metaWhere asks a node for the group, as others do: what the answer says of where it is.
func metaWhere(r *running) *shard.NotLeaderError {
	answered := make(chan error, 1)
	r.Handle(context.Background(), 0x99, &pb.PeerRequest{Oracle: &pb.OracleRequest{}}, func(resp *pb.PeerResponse) { answered <- pb.ErrorFromPB(resp.Error) })
	var nl *shard.NotLeaderError
	errors.As(<-answered, &nl)
	return nl
}

// TestMetaGroupMoves: the meta group gets a replica on another node and leaves the first, while both write. Nothing stays where it was but
// the tombstone; who asks there is told where it is; and a start without anything that was saved finds it, because
// the log says who has it. What is not here and has a vote has lost its files: it does not begin again.
func TestMetaGroupMoves(t *testing.T) {
	dirs := [2]string{t.TempDir(), t.TempDir()}
	var addrs [2]string
	rs := runTwo(t, dirs, &addrs)
	first, second := rs[0], rs[1]
	if first.meta.get() == nil || second.meta.get() != nil {
		t.Fatal("the group does not begin on the first node alone")
	}
	second.swap(t, "a", "1")
	metaMoved(t, second, 0, 0x12)
	if second.meta.get() == nil || noted(t, second.Host, shard.MetaID).State != raftgroup.ReplicaPresent {
		t.Error("the second node has no replica")
	}
	metaMoved(t, second, 0x11, 0)
	eventually(t, "the first replica is gone", func() bool {
		return first.meta.get() == nil && !exists(filepath.Join(dirs[0], "meta")) && noted(t, first.Host, shard.MetaID).State == raftgroup.ReplicaRemoved
	})
	if was := second.swap(t, "a", "2"); was != "1" {
		t.Errorf("it was %q", was)
	}
	first.swap(t, "z", "2")
	if nl := metaWhere(first); nl == nil || nl.Leader != 0x12 || len(nl.Known) != 1 || len(nl.Known[0].Replicas) != 1 || nl.Known[0].Replicas[0].Node != 0x12 {
		t.Errorf("who asks the first node is told %+v", nl)
	}

	known := shard.Descriptor{ID: shard.MetaID, Generation: 1 << 20, Replicas: []shard.Replica{{ID: 1 << 20, Node: 0x11}}}
	first.ranges.newcomers.present = func(shard.RangeID) (shard.Descriptor, bool) { return known, true }
	consider := func(what string, id shard.ReplicaID, role shard.Role, fails, waits bool) {
		t.Helper()
		known.Replicas = []shard.Replica{{ID: id, Node: 0x11, Role: role}}
		err := first.ranges.newcomers.consider(raftgroup.Stranger{From: 0x12, Group: shard.MetaID, Replica: id})
		if (err != nil) != fails || (first.meta.get() != nil) != waits {
			t.Fatalf("%s: it is here: %v, %v", what, first.meta.get() != nil, err)
		}
	}
	consider("a voter that has lost its files", 1<<20, shard.Voter, true, false)
	consider("the same", 1<<20, shard.Joining, false, false)
	consider("one that was removed", 1, shard.Learner, false, false)
	state, err := os.ReadFile(filepath.Join(dirs[1], "meta", "meta.snap"))
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(dirs[0], "meta"), 0o700), os.WriteFile(filepath.Join(dirs[0], "meta", "meta.snap"), state, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	consider("a learner, where an old state has been left", 1<<20, shard.Learner, false, true)
	if d, has := first.meta.get().Descriptor(); has {
		t.Errorf("it waits, and has the state %v", d)
	}
	eventually(t, "it is noted", func() bool { return noted(t, first.Host, shard.MetaID).State == raftgroup.ReplicaWaiting })
	first.swap(t, "z", "3")
	for _, r := range rs {
		r.stop(t)
	}

	for _, dir := range dirs {
		for _, f := range []string{savedMapFile, mapTailFile} {
			if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	rs = runTwo(t, dirs, &addrs)
	defer func() {
		for _, r := range rs {
			r.stop(t)
		}
	}()
	if rs[1].meta.get() == nil {
		t.Error("the replica is not here after a start")
	}
	if was := rs[1].swap(t, "a", "3") + rs[0].swap(t, "z", "4"); was != "23" {
		t.Errorf("it was %q", was)
	}
	eventually(t, "a replica that the group does not have goes", func() bool {
		return rs[0].meta.get() == nil && noted(t, rs[0].Host, shard.MetaID).ID == 1<<20
	})
}
