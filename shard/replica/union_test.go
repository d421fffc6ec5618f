package replica

import (
	"errors"
	"fmt"
	"io"
	"slices"
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

// opening is a node on which the right is not ready.
type opening struct {
	*pair
	right   *Replica
	why     error // nil: it is open
	changes []shard.RangeID
}

func (o *opening) Await(_, left shard.RangeID) (*Replica, error) {
	if left != 2 {
		return nil, fmt.Errorf("%w: %v waits", shard.ErrInvalid, left)
	}
	if o.why != nil {
		return nil, o.why
	}
	return o.right, nil
}

func (o *opening) Changed(id shard.RangeID) { o.changes = append(o.changes, id) }

// TestAMergeWaits: a merge of which the right is not open yet, or has to apply its freeze yet, waits without holding the worker, and what is ahead of it has
// been applied. One whose right is gone cannot be carried out any more.
func TestAMergeWaits(t *testing.T) {
	p := newPair(t)
	o := &opening{pair: p, why: ErrComing}
	cfg, rcfg := p.cfg, p.cfg
	cfg.Dir, cfg.Neighbours = t.TempDir(), o
	rcfg.Dir, rcfg.Neighbours, rcfg.Desc = t.TempDir(), o, p.right.r.Desc()
	left := open(t, cfg)
	o.right = open(t, rcfg)
	entry := func(index uint64, e *pb.Entry) raftgroup.Entry {
		e.Term = 6
		return raftgroup.Entry{Index: index, Term: 6, Data: apply.Marshal(e)}
	}
	merge := entry(12, &pb.Entry{Merge: &pb.Merge{Op: 5, Generation: 1, Right: 3, RightGeneration: 1, After: 3}})
	raise := entry(11, &pb.Entry{Epoch: 9, EpochRaise: &pb.EpochRaise{}})
	waits := func(what string, ents ...raftgroup.Entry) {
		t.Helper()
		err := left.Apply(ents)
		var later *raftgroup.Later
		if !errors.As(err, &later) || later.Index != 12 || !errors.Is(err, ErrComing) || errors.Is(err, mvcc.ErrDamaged) || left.Desc().Generation != 1 || left.AppliedIndex() != 11 {
			t.Errorf("%s: %v; %+v at %d", what, err, left.Desc(), left.AppliedIndex())
		}
	}
	waits("it is not open", raise, merge)
	o.why = nil
	waits("it is not frozen yet", merge)
	o.why = fmt.Errorf("%w: gone", shard.ErrInvalid)
	if err := left.Apply([]raftgroup.Entry{merge}); !errors.Is(err, mvcc.ErrDamaged) || !errors.Is(err, ErrNoRight) || errors.As(err, new(*raftgroup.Later)) {
		t.Errorf("it is gone: %v", err)
	}
	o.why = nil
	freeze := &pb.Freeze{Op: 5, Generation: 1, Left: 2, LeftGeneration: 1}
	if err := o.right.Apply([]raftgroup.Entry{entry(11, &pb.Entry{Freeze: freeze})}); err != nil || !slices.Equal(o.changes, []shard.RangeID{3}) {
		t.Fatalf("frozen: %v, and the left hears of %v", err, o.changes)
	}
	if err := left.Apply([]raftgroup.Entry{merge}); err != nil || left.Desc().Generation != 3 {
		t.Errorf("%v, %+v", err, left.Desc())
	}
	// Another right than the one that was frozen is not what the entry means.
	cfg.Dir = t.TempDir()
	left = open(t, cfg)
	if err := o.right.Apply([]raftgroup.Entry{entry(12, &pb.Entry{Freeze: &pb.Freeze{Thaw: true, Op: 5, Generation: 1}})}); err != nil {
		t.Fatal(err)
	}
	if err := left.Apply([]raftgroup.Entry{raise, merge}); !errors.Is(err, ErrNoRight) || left.AppliedIndex() != 11 {
		t.Errorf("it has been thawed: %v", err)
	}
}

// TestAStateThatComesIsTold: a replica that has another state lets its left look again.
func TestAStateThatComesIsTold(t *testing.T) {
	p := newPair(t)
	o := &opening{pair: p}
	cfg := p.cfg
	cfg.Dir, cfg.Neighbours, cfg.Desc = t.TempDir(), o, p.right.r.Desc()
	p.right.mustWrite(t, replicatest.Put("x", "1"), "2 put@2")
	sent(t, p.right.r, open(t, cfg))
	if !slices.Equal(o.changes, []shard.RangeID{3}) {
		t.Errorf("the left hears of %v", o.changes)
	}
}
