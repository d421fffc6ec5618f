package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"encoding/json"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// opInfo is an op of the meta group, as nodes tell it.
type opInfo struct {
	ID       uint64 `json:"id"`
	Range    uint64 `json:"range"`
	Child    uint64 `json:"child"`
	Outcome  string `json:"outcome"`
	Failure  string `json:"failure"`
	Waiting  string `json:"waiting"`
	StoodUs  int64  `json:"stood_us"`
	EndedStr string `json:"ended"`
}

// over reports whether the op has come to its end.
func (o opInfo) over() bool { return o.Outcome != "" && o.Outcome != "under way" }

// beginSplit has a range cut at key, by way of a node.
func beginSplit(ctx context.Context, via *harness.Node, key string) (op opInfo, code int, text string, err error) {
	body, err := json.Marshal(map[string]any{"split": map[string]any{"key": []byte(key)}, "reason": "test"})
	if err != nil {
		return op, 0, "", err
	}
	return askOp(ctx, http.MethodPost, via.ClientURL+"/pontoon/v1/ops", string(body))
}

func askOp(ctx context.Context, method, url, body string) (op opInfo, code int, text string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return op, 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return op, 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 == 2 {
		err = json.Unmarshal(b, &op)
	}
	return op, resp.StatusCode, string(b), err
}

// split cuts a range and waits until it is done. Requests of the range have stood for so long.
func split(ctx context.Context, t *testing.T, c *harness.Cluster, key string) time.Duration {
	t.Helper()
	via := c.Nodes[rand.IntN(len(c.Nodes))]
	op, code, text, err := beginSplit(ctx, via, key)
	if err != nil || code/100 != 2 {
		t.Fatalf("split at %q: %d %s %v", key, code, text, err)
	}
	eventually(t, limit(time.Minute), fmt.Sprintf("op %d, the split at %q, is over", op.ID, key), func() error {
		now, code, text, err := askOp(ctx, http.MethodGet, fmt.Sprintf("%s/pontoon/v1/ops/%d", via.ClientURL, op.ID), "")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("%d %s %w", code, text, err)
		}
		if !now.over() {
			return fmt.Errorf("%s: %s", now.Outcome, now.Waiting)
		}
		op = now
		return nil
	})
	if op.Failure != "" {
		t.Fatalf("the split at %q: %s", key, op.Failure)
	}
	return time.Duration(op.StoodUs) * time.Microsecond
}

// TestSplit cuts a range under 64 writers, and the parts again, while one watcher watches everything: no client sees an
// error, no revision is left out, no write is lost, and the watcher hears of each once and in order.
func TestSplit(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{})
	ctx := testContext(t, 4*time.Minute)
	cl := newClient(t, c)
	splits := 200
	if testing.Short() {
		splits = 24
	}
	rec := newRecorder()
	watching := rec.watch(ctx, newClient(t, c, c.Nodes[1].ClientURL))
	lease, err := cl.Grant(ctx, 3600) // its keys will be in many ranges
	if err != nil {
		t.Fatal(err)
	}
	leased := 0
	for i := 0; i < splits; i += 7 {
		if _, err := cl.Put(ctx, fmt.Sprintf("k/split/%02d/%03d/leased", i%writersAtOnce, i), "x", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		leased++
	}
	before, was := termsByRange(t, c), len(ranges(t, c.Nodes[0]))
	w := startWriters(ctx, t, c, "k/split")
	var most time.Duration
	for i := range splits {
		key := fmt.Sprintf("k/split/%02d", i%writersAtOnce)
		if i >= writersAtOnce { // beside a key, not at one
			key = fmt.Sprintf("%s/%03d", key, i)
		}
		most = max(most, split(ctx, t, c, key))
	}
	planned := keptLeaders(before, termsByRange(t, c))
	w.finish(ctx, t, cl, planned)
	t.Logf("%d splits, %d writes; requests of a range waited for %v at most; dense: %v", splits, len(w.revs), most, planned)
	if n := len(ranges(t, c.Nodes[0])); n != was+splits {
		t.Errorf("%d ranges, there were %d", n, was)
	}
	last := w.revs[len(w.revs)-1]
	rec.waitFor(t, last, limit(30*time.Second))
	watching.stop(t)
	h := rec.snapshot()
	h.checkOrder(t)
	if planned {
		h.checkDense(t, last)
	}
	checkState(ctx, t, cl, h, last)
	sameHash(ctx, t, cl, c, last)
	left, err := cl.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || len(left.Keys) != leased {
		t.Errorf("the lease has %d keys, %d were attached: %v", len(left.Keys), leased, err)
	}
	if _, err := cl.Revoke(ctx, lease.ID); err != nil {
		t.Error(err)
	}
	if resp, err := cl.Get(ctx, "k/split/", clientv3.WithPrefix()); err != nil || resp.Count != writersAtOnce {
		t.Errorf("%d keys are left after the lease has ended: %v", resp.Count, err)
	}
	splitErrors(ctx, t, c)
}

// firstTerm is that of a child's first leader.
const firstTerm = 6

// termsByRange are the terms of all leaders, the meta group's under 0.
func termsByRange(t *testing.T, c *harness.Cluster) map[uint64]uint64 {
	t.Helper()
	st, err := newClient(t, c).Status(testContext(t, 20*time.Second), c.Nodes[0].ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	out := map[uint64]uint64{0: st.RaftTerm}
	for _, r := range ranges(t, c.Nodes[0]) {
		out[r.ID] = r.Term
	}
	return out
}

// keptLeaders reports whether nobody was elected but the first leaders of new ranges.
func keptLeaders(before, after map[uint64]uint64) bool {
	for id, term := range after {
		if was, old := before[id]; old && term != was || !old && term != firstTerm {
			return false
		}
	}
	return true
}

// splitErrors: who asks for what cannot be is told why, and nothing changes.
func splitErrors(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	n := len(ranges(t, c.Nodes[0]))
	for _, key := range []string{"", "k/split/00"} {
		if op, code, text, err := beginSplit(ctx, c.Nodes[0], key); err != nil || code/100 != 4 {
			t.Errorf("split at %q: %d %s %v %+v", key, code, text, err, op)
		} else {
			t.Logf("split at %q: %s", key, strings.TrimSpace(text))
		}
	}
	if got := len(ranges(t, c.Nodes[0])); got != n {
		t.Errorf("%d ranges, there were %d", got, n)
	}
}

// TestSplitKill kills everything at random moments of splits, again and again: what was acknowledged is there, every op comes to
// its end, and all nodes hold the same.
func TestSplitKill(t *testing.T) {
	lengthy(t)
	pontoonOnly(t)
	o := newOrdeal(t)
	rounds := 6
	if env.long {
		rounds = 200
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	begun := 0
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(300)) * time.Millisecond):
			}
			prefix := loadPrefixes()[rand.IntN(len(loadPrefixes()))]
			key := fmt.Sprintf("%s/load/%02d/%d", prefix, rand.IntN(6), i)
			ctx, cancel := context.WithTimeout(o.ctx, 2*time.Second)
			if _, code, _, err := beginSplit(ctx, o.c.Nodes[i%3], key); err == nil && code/100 == 2 {
				begun++
			}
			cancel()
		}
	})
	for i := range rounds {
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		switch i % 3 {
		case 0:
			o.killAll()
		case 1:
			o.kill("a range's leader", o.rangeLeader())
		default:
			o.kill("the oracle's node", o.oracleNode())
		}
	}
	close(stop)
	wg.Wait()
	eventually(t, limit(time.Minute), "all ops are over", func() error {
		var list struct {
			Ops []opInfo `json:"ops"`
		}
		if err := getJSON(o.ctx, o.c.Nodes[0].ClientURL+"/pontoon/v1/ops", &list); err != nil {
			return err
		}
		for _, op := range list.Ops {
			if !op.over() {
				return fmt.Errorf("op %d: %s", op.ID, op.Waiting)
			}
		}
		return nil
	})
	t.Logf("%d splits begun, %d ranges", begun, len(ranges(t, o.c.Nodes[0])))
	o.verify()
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
