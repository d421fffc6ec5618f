package e2e

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"pontoon/test/e2e/harness"
)

// TestMoveLeader moves the lead from member to member under writes: no revision is left out, only the leader
// does it, and only to a member.
func TestMoveLeader(t *testing.T) {
	beside(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	ids := memberIDs(ctx, t, cl, c)
	for round := range 3 {
		st, err := cl.Status(ctx, c.Nodes[0].ClientURL)
		if err != nil {
			t.Fatal(err)
		}
		leader := ids[st.Leader]
		before, err := cl.Put(ctx, "k/moved", "before")
		if err != nil {
			t.Fatal(err)
		}
		for id, n := range ids {
			if id == st.Leader {
				continue
			}
			if _, err := newClient(t, c, n.ClientURL).MoveLeader(ctx, id); !errors.Is(err, rpctypes.ErrNotLeader) {
				t.Errorf("round %d: asked of a follower: %v", round, err)
			}
		}
		at := newClient(t, c, leader.ClientURL)
		if _, err := at.MoveLeader(ctx, 1); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
			t.Errorf("round %d: to nobody: %v", round, err)
		}
		for id := range ids {
			if id == st.Leader {
				continue
			}
			if _, err := at.MoveLeader(ctx, id); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			eventually(t, limit(10*time.Second), "the new leader is known", func() error {
				now, err := cl.Status(ctx, c.Nodes[0].ClientURL)
				if err == nil && now.Leader != id {
					err = errors.New("it is not")
				}
				return err
			})
			break
		}
		after, err := cl.Put(ctx, "k/moved", "after")
		if err != nil || after.Header.Revision != before.Header.Revision+1 {
			t.Errorf("round %d: after revision %d came %v, %v", round, before.Header.Revision, after, err)
		}
	}
}
