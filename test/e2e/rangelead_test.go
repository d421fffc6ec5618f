package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// lead lets a node lead a range, by way of another one. A refusal is its status and text.
func lead(ctx context.Context, via *harness.Node, id uint64, node string) (m harness.Moved, code int, text string, err error) {
	m, err = harness.Ops{ClientURL: via.ClientURL}.Lead(ctx, id, node)
	if no := (*harness.Refusal)(nil); errors.As(err, &no) {
		return m, no.Status, no.Text, nil
	}
	return m, http.StatusOK, "", err
}

// rangeOf is the range that holds a key.
func rangeOf(t *testing.T, c *harness.Cluster, key string) rangeInfo {
	t.Helper()
	for _, r := range ranges(t, c.Nodes[0]) {
		if bytes.Compare(r.Start, []byte(key)) <= 0 && (len(r.End) == 0 || bytes.Compare([]byte(key), r.End) < 0) {
			return r
		}
	}
	t.Fatalf("no range holds %q", key)
	return rangeInfo{}
}

// writers put keys of one range, each its own, from many clients at a time; a quarter of them with a key of another
// range in the same transaction, which is anchored there.
type writers struct {
	stop chan struct{}
	rest time.Duration // between two writes
	done sync.WaitGroup
	mu   sync.Mutex
	revs []int64
	last map[string]string
	errs []error
}

const writersAtOnce = 64

func startWriters(ctx context.Context, t *testing.T, c *harness.Cluster, prefix string) *writers {
	return startIdleWriters(ctx, t, c, prefix, 0)
}

// startIdleWriters is the same with writers that rest between two writes.
func startIdleWriters(ctx context.Context, t *testing.T, c *harness.Cluster, prefix string, rest time.Duration) *writers {
	w := &writers{stop: make(chan struct{}), rest: rest, last: map[string]string{}}
	clients := make([]*clientv3.Client, len(c.Nodes))
	for i, n := range c.Nodes {
		clients[i] = newClient(t, c, n.ClientURL)
	}
	for i := range writersAtOnce {
		key := fmt.Sprintf("%s/%02d", prefix, i)
		w.done.Go(func() { w.write(ctx, clients[i%len(clients)], key, i%4 == 3) })
	}
	return w
}

// pause is over when a writer may go on.
func (w *writers) pause() <-chan time.Time {
	if w.rest > 0 {
		return time.After(w.rest)
	}
	now := make(chan time.Time)
	close(now)
	return now
}

// write puts a key over and over; wide: together with one of another range.
func (w *writers) write(ctx context.Context, cl *clientv3.Client, key string, wide bool) {
	for n := 0; ; n++ {
		select {
		case <-w.stop:
			return
		case <-w.pause():
		}
		value := fmt.Sprint(n)
		puts := []clientv3.Op{clientv3.OpPut(key, value)}
		if wide {
			puts = append(puts, clientv3.OpPut("/order/1"+key, value))
		}
		resp, err := cl.Txn(ctx).Then(puts...).Commit()
		w.mu.Lock()
		if err != nil {
			w.errs = append(w.errs, err)
		} else {
			w.revs = append(w.revs, resp.Header.Revision)
			w.last[key] = value
		}
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// also notes the revision of a write that somebody else did.
func (w *writers) also(rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revs = append(w.revs, rev)
}

// newest is the highest revision that a writer was told.
func (w *writers) newest() (rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.revs {
		rev = max(rev, r)
	}
	return rev
}

// end ends the writers, of which some may have failed.
func (w *writers) end() {
	close(w.stop)
	w.done.Wait()
}

// finish ends the writers and checks what they were told: no error, and what was acknowledged is there. dense: their
// revisions follow one another.
func (w *writers) finish(ctx context.Context, t *testing.T, cl *clientv3.Client, dense bool) {
	t.Helper()
	w.end()
	for _, err := range w.errs {
		t.Errorf("a client's error: %v", err)
	}
	slices.Sort(w.revs)
	for i := 1; i < len(w.revs); i++ {
		if gap := w.revs[i] - w.revs[i-1]; gap == 0 || gap != 1 && dense {
			t.Errorf("revision %d follows %d", w.revs[i], w.revs[i-1])
		}
	}
	for key, value := range w.last {
		resp, err := cl.Get(ctx, key)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			t.Errorf("%s: %v, %v, acknowledged was %s", key, resp, err, value)
		}
	}
}

// move lets a node lead a range. It asks again where that took too long, and tells how often it did. A node that
// was late may lead by then.
func move(ctx context.Context, t *testing.T, c *harness.Cluster, id uint64, via, to *harness.Node) (m harness.Moved, asked int) {
	t.Helper()
	for asked = 1; ; asked++ {
		m, code, text, err := lead(ctx, via, id, to.Name)
		switch {
		case err == nil && code == http.StatusOK && m.Name == to.Name:
			return m, asked
		case asked > 1 && code == http.StatusBadRequest && strings.Contains(text, "already"):
			for _, r := range ranges(t, to) {
				if r.ID == id {
					m.Term = r.Term
				}
			}
			return m, asked
		case code != http.StatusGatewayTimeout || asked == 5:
			t.Fatalf("r%d to %s: %d %s %v", id, to.Name, code, text, err)
		}
		t.Logf("r%d to %s: %s", id, to.Name, text)
	}
}

// TestRangeLead moves the leader of a range round and round under 64 writers: no client sees an error, no revision is
// left out, and no write is lost.
func TestRangeLead(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, 3*time.Minute)
	cl := newClient(t, c)
	rounds := 50
	if testing.Short() {
		rounds = 12
	}
	r := rangeOf(t, c, "k/lead")
	before := terms(t, c)
	w := startWriters(ctx, t, c, "k/lead")
	at := slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == nameOf(r) })
	planned := true
	var stood []int64
	for i := range rounds {
		at = (at + 1) % len(c.Nodes)
		m, asked := move(ctx, t, c, r.ID, c.Nodes[i%len(c.Nodes)], c.Nodes[at])
		if asked > 1 { // the machine stood still, and the old leader went on
			planned = false
		}
		if i > 0 && m.Term != r.Term+1 {
			planned = false
		}
		r.Term = m.Term
		stood = append(stood, m.Stood)
	}
	place := 1 + slices.IndexFunc(ranges(t, c.Nodes[0]), func(o rangeInfo) bool { return o.ID == r.ID })
	planned = planned && sameTermsBut(before, terms(t, c), place)
	if !planned { // the machine stood still for so long that leaders were elected
		t.Logf("revisions may have gaps: leaders changed by themselves")
	}
	w.finish(ctx, t, cl, planned)
	slices.Sort(stood)
	t.Logf("%d moves, %d writes; requests waited for %d us in the middle, %d at most", rounds, len(w.revs), stood[len(stood)/2], stood[len(stood)-1])
	rangeLeadErrors(ctx, t, c, r.ID, c.Nodes[at].Name)
}

// rangeLeadErrors: who asks for what cannot be is told why.
func rangeLeadErrors(ctx context.Context, t *testing.T, c *harness.Cluster, id uint64, leader string) {
	t.Helper()
	for _, tt := range []struct {
		id         uint64
		node, want string
	}{
		{99999, leader, "there is no range r99999"},
		{id, "nobody", `no member has the name or the id "nobody"`},
		{id, leader, "already"},
	} {
		if _, code, text, err := lead(ctx, c.Nodes[0], tt.id, tt.node); err != nil || code != http.StatusBadRequest || !strings.Contains(text, tt.want) {
			t.Errorf("%d to %s: %d %s %v, want %q", tt.id, tt.node, code, text, err, tt.want)
		}
	}
}

func nameOf(r rangeInfo) string {
	for _, rep := range r.Replicas {
		if rep.Node == r.Leader {
			return rep.Name
		}
	}
	return ""
}

// sameTermsBut reports whether no other range, nor the meta group, has had another leader.
func sameTermsBut(before, after string, moved int) bool {
	a, b := strings.Fields(before), strings.Fields(after)
	a[moved], b[moved] = "", ""
	return slices.Equal(a, b)
}

// leadMeta lets a node lead the meta group.
func leadMeta(ctx context.Context, t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	leadMetaBy(ctx, t, c, n, func(to *harness.Node) *clientv3.Client { return newClient(t, c, to.ClientURL) })
}

// leadMetaBy is leadMeta by clients that are made so.
func leadMetaBy(ctx context.Context, t *testing.T, c *harness.Cluster, n *harness.Node, connect func(*harness.Node) *clientv3.Client) {
	t.Helper()
	cl := connect(n)
	ids := memberIDs(ctx, t, cl, c)
	st, err := cl.Status(ctx, n.ClientURL)
	if err != nil {
		t.Fatal(err)
	}
	for id, member := range ids {
		if member != n || id == st.Leader {
			continue
		}
		if _, err := connect(ids[st.Leader]).MoveLeader(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStopUnderWrites stops a node that leads a range and the meta group, under 64 writers that know the other nodes:
// it hands over everything that it leads, so no client sees an error, and no revision is left out.
func TestStopUnderWrites(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, 3*time.Minute)
	cl := newClient(t, c, c.Nodes[1].ClientURL, c.Nodes[2].ClientURL)
	r := rangeOf(t, c, "k/stop")
	if nameOf(r) != c.Nodes[0].Name {
		move(ctx, t, c, r.ID, c.Nodes[1], c.Nodes[0])
	}
	leadMeta(ctx, t, c, c.Nodes[0])
	w := startWriters(ctx, t, &harness.Cluster{Nodes: c.Nodes[1:]}, "k/stop")
	eventually(t, limit(20*time.Second), "writes are acknowledged", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.revs) < 1000 && len(w.errs) == 0 {
			return fmt.Errorf("%d are", len(w.revs))
		}
		return nil
	})
	took, code, err := c.Nodes[0].Stop(ctx)
	if err != nil || code != 0 {
		t.Fatalf("stopped with code %d: %v", code, err)
	}
	log := c.Nodes[0].Log()
	dense := strings.Contains(log, "handed over the lead of ranges") && strings.Contains(log, `"kept":0`)
	w.finish(ctx, t, cl, dense)
	if !dense {
		t.Logf("revisions may have gaps: not everything was handed over in time")
	}
	t.Logf("%d writes; the node has stopped within %v", len(w.revs), took)
	if strings.Contains(log, "was not handed over") {
		t.Errorf("the node has kept leads to its end:\n%s", c.Nodes[0].LogTail(20))
	}
}

// TestRollingRestart restarts a node again and again, mostly while it has only just come up and is being elected here and there, under
// 64 writers that know the other nodes: none of them sees an error.
func TestRollingRestart(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, harness.Options{Ranges: 12, Args: []string{"--placement=off"}})
	ctx := testContext(t, 3*time.Minute)
	w := startWriters(ctx, t, &harness.Cluster{Nodes: c.Nodes[1:]}, "k/roll")
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	n := c.Nodes[0]
	var longest time.Duration
	for i := range rounds {
		took, code, err := n.Stop(ctx)
		if err != nil || code != 0 {
			t.Fatalf("stopped with code %d: %v", code, err)
		}
		longest = max(longest, took)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		if err := n.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		for range i % 4 { // some of the leads come back to it
			r := ranges(t, n)[rand.IntN(12)]
			if nameOf(r) != n.Name {
				move(ctx, t, c, r.ID, c.Nodes[1], n)
			}
		}
	}
	w.finish(ctx, t, newClient(t, c), false)
	t.Logf("%d writes over %d restarts; a stop took %v at most", len(w.revs), rounds, longest)
}

// TestStopAll stops all nodes at the same time, under 64 writers: none waits for another that is about to stop too, each
// ends by itself, and what was acknowledged is there when they are back.
func TestStopAll(t *testing.T) {
	c := newCluster(t, byHand())
	ctx := testContext(t, 3*time.Minute)
	writing, cancel := context.WithCancel(ctx)
	w := startWriters(writing, t, c, "k/all")
	eventually(t, limit(20*time.Second), "writes are acknowledged", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.revs) < 1000 && len(w.errs) == 0 {
			return fmt.Errorf("%d are", len(w.revs))
		}
		return nil
	})
	began := time.Now()
	if err := c.StopAll(limit(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Logf("all have stopped within %v", time.Since(began))
	cancel()
	w.done.Wait()
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c)
	for key, value := range w.last {
		resp, err := cl.Get(ctx, key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%s: %v, %v", key, resp, err)
		}
		var got, acked int
		if _, err := fmt.Sscan(string(resp.Kvs[0].Value)+" "+value, &got, &acked); err != nil || got < acked {
			t.Errorf("%s is %d, acknowledged was %d: %v", key, got, acked, err)
		}
	}
	put, err := cl.Put(ctx, "k/all/last", "1")
	if last := slices.Max(w.revs); err != nil || put.Header.Revision <= last {
		t.Errorf("%v, %v after revision %d", put, err, last)
	}
}

// TestRangeLeadToASilentNode asks for a leader on a node that stands still: the present one goes on, and the answer says
// what is in the way.
func TestRangeLeadToASilentNode(t *testing.T) {
	pontoonOnly(t)
	c := newCluster(t, byHand())
	ctx := testContext(t, 2*time.Minute)
	r := rangeOf(t, c, "k/silent")
	at := slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return n.Name == nameOf(r) })
	leader, silent := c.Nodes[at], c.Nodes[(at+1)%len(c.Nodes)]
	leadMeta(ctx, t, c, leader)
	if err := silent.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Signal(syscall.SIGCONT) }()                     // it is killed with the test anyway
	eventually(t, limit(10*time.Second), "the node is silent", func() error { // a signal takes its time
		brief, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		if _, _, err := httpGet(brief, silent.ClientURL+"/version"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	_, code, text, err := lead(ctx, leader, r.ID, silent.Name)
	if err != nil || code != http.StatusGatewayTimeout || !strings.Contains(text, "is not heard of") && !strings.Contains(text, "did not take over in time") {
		t.Errorf("%d %s %v", code, text, err)
	}
	if _, err := newClient(t, c, leader.ClientURL).Put(ctx, "k/silent", "goes on"); err != nil {
		t.Error(err)
	}
	if now := rangeOf(t, &harness.Cluster{Nodes: []*harness.Node{leader}}, "k/silent"); now.Leader != r.Leader || now.Term != r.Term {
		t.Errorf("%x leads term %d, it was %x in term %d", now.Leader, now.Term, r.Leader, r.Term)
	}
}
