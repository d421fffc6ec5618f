package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"pontoon/test/e2e/harness"
)

// memberCtl is etcdctl over all nodes of a cluster of the test's own.
func memberCtl(t *testing.T, c *harness.Cluster) *ctl {
	return &ctl{t: t, ctx: testContext(t, 4*time.Minute), e: harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}}
}

// memberList is what etcdctl tells of the members.
func (c *ctl) memberList() (out []*etcdserverpb.Member) {
	c.t.Helper()
	var list struct{ Members []*etcdserverpb.Member }
	if err := json.Unmarshal([]byte(c.run("member", "list", "-w", "json")), &list); err != nil {
		c.t.Fatal(err)
	}
	return list.Members
}

// memberAdd adds one, once the members have been within reach of each other for long enough, and returns its id and what etcdctl said.
func (c *ctl) memberAdd(args ...string) (id, out string) {
	c.t.Helper()
	eventually(c.t, limit(time.Minute), "a member can be added", func() (err error) {
		out, err = c.e.Run(c.ctx, "", append([]string{"member", "add"}, args...)...)
		if err != nil && !strings.Contains(err.Error(), "unhealthy cluster") {
			c.t.Fatal(err)
		}
		return err
	})
	m := regexp.MustCompile(`Member\s+([0-9a-f]+) added (?:as learner )?to cluster\s+[0-9a-f]+`).FindStringSubmatch(out)
	if m == nil {
		c.t.Fatalf("etcdctl member add %q: %q", args, out)
	}
	return m[1], out
}

// TestMemberCalls: the members change by etcdctl, from any node, and refusals are etcd's.
func TestMemberCalls(t *testing.T) {
	c := newCluster(t, harness.Options{})
	ctl := memberCtl(t, c)
	n1 := c.Nodes[0].PeerURL
	id, out := ctl.memberAdd("n4", "--peer-urls=http://127.0.0.1:9")
	for _, want := range []string{`ETCD_NAME="n4"`, `n1=` + n1, `n4=http://127.0.0.1:9`, `ETCD_INITIAL_CLUSTER_STATE="existing"`} {
		if !strings.Contains(out, want) {
			t.Errorf("member add does not say %q:\n%s", want, out)
		}
	}
	if list := ctl.run("member", "list"); !strings.Contains(list, id+", unstarted, , http://127.0.0.1:9, , false") || strings.Count(list, "\n") != 4 {
		t.Errorf("member list:\n%s", list)
	}
	ctl.fails("etcdserver: Peer URLs already exists", "member", "add", "n5", "--peer-urls="+n1)
	ctl.fails("etcdserver: member not found", "member", "remove", "abc")
	ctl.fails("etcdserver: member not found", "member", "update", "abc", "--peer-urls=http://127.0.0.1:10")
	ctl.fails("etcdserver: Peer URLs already exists", "member", "update", id, "--peer-urls="+n1)
	if out := ctl.run("member", "update", id, "--peer-urls=http://127.0.0.1:11"); !strings.Contains(out, "Member "+pad(id)+" updated in cluster") {
		t.Errorf("member update: %q", out)
	}
	ctl.fails("etcdserver: can only promote a learner member", "member", "promote", id)
	if out := ctl.run("member", "remove", id); !strings.Contains(out, "Member "+pad(id)+" removed from cluster") {
		t.Errorf("member remove: %q", out)
	}
	ctl.fails("etcdserver: member not found", "member", "remove", id)
	learner, _ := ctl.memberAdd("n4", "--peer-urls=http://127.0.0.1:9", "--learner")
	if learner == id {
		t.Error("an id was given out twice")
	}
	ctl.fails("etcdserver: can only promote a learner member which is in sync with leader", "member", "promote", learner)
	ctl.fails("etcdserver: too many learner members in cluster", "member", "add", "n5", "--peer-urls=http://127.0.0.1:12", "--learner")
	for _, n := range c.Nodes { // every node knows
		eventually(t, limit(10*time.Second), "the learner is listed", func() error {
			ms, err := newClient(t, c, n.ClientURL).MemberList(ctl.ctx)
			if err == nil && (len(ms.Members) != 4 || !strings.Contains(fmt.Sprint(ms.Members), "isLearner:true")) {
				err = fmt.Errorf("%v", ms.Members)
			}
			return err
		})
	}
	ctl.run("member", "remove", learner)
	if got := ctl.memberList(); len(got) != 3 {
		t.Errorf("%v", got)
	}
	// With a member down the next one would leave three of five.
	if err := c.Nodes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, limit(time.Minute), "the cluster is unhealthy", func() error {
		_, err := ctl.e.Run(ctl.ctx, "", "member", "remove", fmt.Sprintf("%x", memberNamed(t, ctl, "n2").ID))
		if err != nil && strings.Contains(err.Error(), "etcdserver: unhealthy cluster") {
			return nil
		}
		return errors.Join(errors.New("not refused"), err)
	})
}

// pad is an id as etcdctl prints it.
func pad(id string) string { return fmt.Sprintf("%16s", id) }

func memberNamed(t *testing.T, c *ctl, name string) *etcdserverpb.Member {
	t.Helper()
	for _, m := range c.memberList() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no member has the name %s", name)
	return nil
}
