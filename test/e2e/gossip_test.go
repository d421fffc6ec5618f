package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// TestGossip: that a node was killed shows on the others within seconds, and so does its return.
func TestGossip(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 2*time.Minute)
	seen := func(by *harness.Node, name, state string) func() error {
		return func() error {
			code, body, err := httpGet(ctx, by.ClientURL+"/pontoon/v1/nodes")
			if err != nil || code != http.StatusOK {
				return fmt.Errorf("%d, %w", code, err)
			}
			var nodes []struct{ Name, State string }
			if err := json.Unmarshal([]byte(body), &nodes); err != nil {
				return err
			}
			for _, n := range nodes {
				if n.Name == name && n.State == state {
					return nil
				}
			}
			return fmt.Errorf("%s sees %s", by.Name, body)
		}
	}
	victim, others := c.Nodes[1], []*harness.Node{c.Nodes[0], c.Nodes[2]}
	for _, n := range others {
		eventually(t, limit(10*time.Second), "all are alive", seen(n, victim.Name, "alive"))
	}
	began := time.Now()
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, n := range others {
		eventually(t, limit(10*time.Second), "the killed node is dead", seen(n, victim.Name, "dead"))
	}
	died := time.Since(began)
	began = time.Now()
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		for _, m := range c.Nodes {
			eventually(t, limit(10*time.Second), "the node is back", seen(n, m.Name, "alive"))
		}
	}
	t.Logf("dead after %v, back after %v", died.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}
