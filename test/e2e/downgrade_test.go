package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestDowngrade: etcdctl and JSON are told what etcd 3.7 would say of a target, and nothing is begun.
func TestDowngrade(t *testing.T) {
	pontoonOnly(t)
	c := sharedCluster(t)
	for _, s := range []struct {
		args []string
		ok   bool
		want string
	}{
		{[]string{"downgrade", "validate", "3.6"}, true, "Downgrade validate success, cluster version 3.7"},
		{[]string{"downgrade", "validate", "3.5.0"}, false, "etcdserver: invalid downgrade target version"},
		{[]string{"downgrade", "validate", "three"}, false, "etcdserver: wrong downgrade target version format"},
		{[]string{"downgrade", "enable", "3.7"}, false, "etcdserver: invalid downgrade target version"},
		{[]string{"downgrade", "enable", "3.6.0"}, false, "no older version of Pontoon"},
		{[]string{"downgrade", "cancel"}, true, "Downgrade cancel success, cluster version 3.7"},
		{[]string{"endpoint", "status", "-w", "fields"}, true, `"DowngradeEnabled" : false`},
	} {
		out, err := ctlAt(t, c.Endpoints()[:1], s.args...)
		if (err == nil) != s.ok || !strings.Contains(out+fmt.Sprint(err), s.want) {
			t.Errorf("%v: %v, %s", s.args, err, out)
		}
	}
	n := c.Nodes[1]
	for body, want := range map[string][2]string{
		`{"action": 0, "version": "3.0"}`:          {"400", "etcdserver: invalid downgrade target version"},
		`{"action": "VALIDATE", "version": "x"}`:   {"400", "etcdserver: wrong downgrade target version format"},
		`{"action": "ENABLE", "version": "3.6.0"}`: {"400", noOlder},
	} {
		if code, answer := jsonCall(t, n, "/v3/maintenance/downgrade", body); code != want[0] || field(answer, "message") != want[1] {
			t.Errorf("%s: %s, %v", body, code, answer)
		}
	}
	if code, answer := jsonCall(t, n, "/v3/maintenance/downgrade", `{"version": "3.6"}`); code != "200" || field(answer, "version") != "3.7" {
		t.Errorf("validate as JSON: %s, %v", code, answer)
	}
}

const noOlder = "etcdserver: downgrade is not possible: no older version of Pontoon can read what this one writes"
