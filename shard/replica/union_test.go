package replica

import (
	"errors"
	"io"
	"testing"

	"pontoon/internal/pb"
	"pontoon/mvcc"
	"pontoon/raftgroup"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
	"pontoon/shard/replica/replicatest"
)

// sent installs on one replica the state of another.
func sent(t *testing.T, from, to *Replica) {
	t.Helper()
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(from.SnapshotTo(pw)) }()
	staged, err := to.Receive(pr)
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Install(); err != nil {
		t.Fatal(err)
	}
}

// TestASnapshotReplacesWhatIsCopied: a copy that was begun of a store which a snapshot has replaced is not used, whichever of the two it was.
func TestASnapshotReplacesWhatIsCopied(t *testing.T) {
	for _, replaced := range []shard.RangeID{2, 3} {
		p := newPair(t)
		ahead := newFixture(t, func(c *Config) {
			c.Desc, c.Oracle = p.left.r.Desc(), &counter{rev: 100}
			if replaced == 3 {
				c.Desc = p.right.r.Desc()
			}
		})
		old, late := map[shard.RangeID]string{2: "a", 3: "x"}[replaced], map[shard.RangeID]string{2: "b", 3: "y"}[replaced]
		target := map[shard.RangeID]*fixture{2: p.left, 3: p.right}[replaced]
		target.mustWrite(t, replicatest.Put(old, "1"), "2 put@2")
		mg := &pb.Merge{Op: 5, Generation: 1, Right: 3, RightGeneration: 1, After: 3}
		ask := func() (is *pb.PrepareMergeResponse) {
			p.left.r.PrepareMerge(t.Context(), &pb.PrepareMergeRequest{RangeId: 2, Merge: mg}, func(resp *pb.PrepareMergeResponse, err error) {
				if err != nil {
					t.Fatal(err)
				}
				is = resp
			})
			return is
		}
		waitFor(t, func() bool { return ask().Ready })
		ahead.mustWrite(t, replicatest.Put(old, "2"), "101 put@101")
		ahead.mustWrite(t, replicatest.Put(late, "1"), "102 put@102")
		freeze := &pb.ChangeRequest{RangeId: 3, Freeze: &pb.Freeze{Op: 5, Generation: 1, Left: 2, LeftGeneration: 1}}
		if replaced == 3 {
			if resp, err := changed(ahead.r, freeze); err != nil || resp.Outcome != uint32(shard.ChangeDone) {
				t.Fatal(resp, err)
			}
		} else if resp, err := changed(p.right.r, freeze); err != nil || resp.Outcome != uint32(shard.ChangeDone) {
			t.Fatal(resp, err)
		}
		sent(t, ahead.r, target.r)
		waitFor(t, func() bool { return ask().Ready })
		g := p.left.g
		if replaced == 2 { // whose log goes on behind the snapshot
			g = ahead.g
			g.mu.Lock()
			g.sms = []*Replica{p.left.r}
			g.mu.Unlock()
		}
		if err := g.ProposeFunc(2, g.term, apply.Marshal(&pb.Entry{Term: g.term, Merge: mg}), nil); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return p.left.r.Desc().Generation == 3 })
		for key, value := range map[string]string{old: "2", late: "1"} {
			if kv, ok, err := p.left.r.store.Get([]byte(key), 200); err != nil || !ok || string(kv.Value) != value {
				t.Errorf("%v was replaced: %s is %v %v, %v", replaced, key, kv, ok, err)
			}
		}
	}
}

// leaving is a node that stops while a merge waits for the right's replica.
type leaving struct{ *pair }

func (leaving) Await(shard.RangeID) (*Replica, error) { return nil, shard.ErrStopped }

// TestAMergeMeetsAStop: a node that stops has nothing to rebuild: the entry is applied after the next start.
func TestAMergeMeetsAStop(t *testing.T) {
	p := newPair(t)
	cfg := p.cfg
	cfg.Dir, cfg.Neighbours = t.TempDir(), leaving{p}
	r := open(t, cfg)
	e := &pb.Entry{Term: 6, Merge: &pb.Merge{Op: 5, Generation: 1, Right: 3, RightGeneration: 1, After: 3}}
	err := r.Apply([]raftgroup.Entry{{Index: 11, Term: 6, Data: apply.Marshal(e)}})
	if !errors.Is(err, shard.ErrStopped) || errors.Is(err, mvcc.ErrDamaged) || r.Desc().Generation != 1 {
		t.Errorf("%v, %+v", err, r.Desc())
	}
}
