package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// idleCost is what a node uses while nothing happens.
type idleCost struct {
	cores      float64
	wakeups    float64 // per second
	resident   int64
	goroutines int
}

// TestIdleCost measures a node with one range and one with many, and prints what one idle range
// costs. `make bench-idle` runs it alone.
func TestIdleCost(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	const many = 200
	one, all := measureIdle(t, 1), measureIdle(t, many)
	per := func(v float64) float64 { return v / (many - 1) }
	t.Logf("  1 range:  %5.2f %% of a core, %.0f wake-ups/s, %6.1f MiB, %d goroutines", 100*one.cores, one.wakeups, mib(one.resident), one.goroutines)
	t.Logf("%d ranges: %5.2f %% of a core, %.0f wake-ups/s, %6.1f MiB, %d goroutines", many, 100*all.cores, all.wakeups, mib(all.resident), all.goroutines)
	t.Logf("one idle range: %.4f %% of a core, %.0f KiB", 100*per(all.cores-one.cores), 1024*per(mib(all.resident-one.resident)))
	// The share of a core says as much about the machine as about the node, so it is printed alone.
	// What an idle range must not do is to wake anybody.
	if all.wakeups > 2*one.wakeups+20 {
		t.Errorf("%d idle ranges wake the node %.0f times a second, one range %.0f times", many, all.wakeups, one.wakeups)
	}
	if all.goroutines > one.goroutines+20 {
		t.Errorf("goroutines grow with ranges: %d, then %d", one.goroutines, all.goroutines)
	}
}

func mib(b int64) float64 { return float64(b) / (1 << 20) }

func measureIdle(t *testing.T, ranges int) idleCost {
	t.Helper()
	c := newCluster(t, harness.Options{Nodes: 1, Ranges: ranges})
	n := c.Nodes[0]
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	parallel(t, 8, 256, func(i int) error { // no range is virgin
		_, err := cl.Put(ctx, string([]byte{byte(i), 'x'}), "v")
		return err
	})
	_ = cl.Close()
	time.Sleep(6 * time.Second) // until elections, flushes and first heartbeats are over
	before, err := n.Usage()
	if err != nil {
		t.Skip(err)
	}
	const span = 10 * time.Second
	time.Sleep(span)
	after, err := n.Usage()
	if err != nil {
		t.Fatal(err)
	}
	cost := idleCost{
		cores: float64(after.CPU-before.CPU) / float64(span), wakeups: float64(after.Wakeups-before.Wakeups) / span.Seconds(),
		resident: after.Resident, goroutines: metric(ctx, t, n, "go_goroutines"),
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return cost
}

func metric(ctx context.Context, t *testing.T, n *harness.Node, name string) int {
	t.Helper()
	_, body, err := httpGet(ctx, n.ClientURL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(fmt.Sprintf(`(?m)^%s (\d+)`, name)).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no metric %s", name)
	}
	v, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return v
}
