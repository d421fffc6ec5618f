package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// ctl is etcdctl for one test; failures end the test.
type ctl struct {
	t   *testing.T
	ctx context.Context
	e   harness.Etcdctl
}

func newCtl(t *testing.T) *ctl {
	c := sharedCluster(t)
	return &ctl{t: t, ctx: testContext(t, 2*time.Minute), e: harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}}
}

// run returns what etcdctl printed.
func (c *ctl) run(args ...string) string {
	c.t.Helper()
	return c.runIn("", args...)
}

func (c *ctl) runIn(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.e.Run(c.ctx, stdin, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// want runs and compares.
func (c *ctl) want(want string, args ...string) {
	c.t.Helper()
	if got := c.run(args...); strings.TrimRight(got, "\n") != want {
		c.t.Errorf("etcdctl %q:\ngot  %q\nwant %q", args, got, want)
	}
}

// fails runs and expects an error with a text.
func (c *ctl) fails(want string, args ...string) {
	c.t.Helper()
	out, err := c.e.Run(c.ctx, "", args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		c.t.Errorf("etcdctl %q: got %q, %v; want error %q", args, out, err, want)
	}
}

// start runs in the background; its lines come on the channel until the test ends.
func (c *ctl) start(args ...string) (<-chan string, *exec.Cmd) {
	c.t.Helper()
	cmd := c.e.Command(c.ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ch := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(ch)
		for s := bufio.NewScanner(out); s.Scan(); {
			ch <- s.Text()
		}
	}()
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait() // killed
	})
	return ch, cmd
}

// read takes n lines.
func (c *ctl) read(ch <-chan string, n int) []string {
	c.t.Helper()
	var got []string
	for len(got) < n {
		select {
		case line, ok := <-ch:
			if !ok {
				c.t.Fatalf("output ended after %q", got)
			}
			got = append(got, line)
		case <-time.After(limit(15 * time.Second)):
			c.t.Fatalf("only %q came", got)
		}
	}
	return got
}

// revision is the header revision of a key that is certainly not there.
func (c *ctl) revision() int64 {
	c.t.Helper()
	out := c.run("get", "/no/such/key", "-w", "fields")
	m := regexp.MustCompile(`"Revision" : (\d+)`).FindStringSubmatch(out)
	if m == nil {
		c.t.Fatalf("no revision in %q", out)
	}
	var rev int64
	if _, err := fmt.Sscan(m[1], &rev); err != nil {
		c.t.Fatal(err)
	}
	return rev
}

func TestEtcdctlPutGetDel(t *testing.T) {
	c := newCtl(t)
	c.want("OK", "put", "/pgd/a", "1")
	c.want("OK\n/pgd/a\n1", "put", "--prev-kv", "/pgd/a", "2")
	c.want("/pgd/a\n2", "get", "/pgd/a")
	c.want("", "get", "/pgd/none")
	c.want("2", "get", "/pgd/a", "--print-value-only")
	c.want("OK", "put", "/pgd/b", "3")
	c.want("/pgd/a\n\n/pgd/b", "get", "/pgd/", "--prefix", "--keys-only=true", "--limit=2", "--sort-by=key", "--order=ascend", "--consistency=l", "-w", "simple", "--hex=false", "--rev=0", "--from-key=false", "--count-only=false", "--print-value-only=false", "--min-mod-rev=0")
	c.want("1\n/pgd/a\n2", "del", "--prev-kv", "/pgd/a")
	c.want("0", "del", "/pgd/a")
	c.want("1", "del", "--prefix", "/pgd/")
	c.want("OK", "put", "k/奥特曼", "迪迦")
	c.want("OK", "put", "/奥特曼", "赛罗")
	c.want("/奥特曼\n赛罗", "get", "/奥特曼")
	c.want("1", "del", "/奥特曼")
	c.want("1", "del", "k/奥特曼")
}

func TestEtcdctlGetOptions(t *testing.T) {
	c := newCtl(t)
	keys := sampleKeys()
	for i, k := range keys {
		c.run("put", k, fmt.Sprint(9-i))
	}
	rev := c.revision()
	c.run("put", keys[2], "changed")
	c.want(keys[2]+"\n7", "get", keys[2], "--rev", fmt.Sprint(rev))
	c.want(keys[2]+"\nchanged", "get", keys[2])

	// Over all ranges, in key order, with a limit that ends within another range than it began.
	c.want(strings.Join(keys[:1], "\n\n"), "get", "\x01first", "--keys-only", "--limit", "1")
	got := c.run("get", "/", "--prefix", "--keys-only", "--limit", "3", "--sort-by", "key", "--order", "descend")
	if want := []string{"/奥/sample", "/page/15/sample", "/page/10/sample"}; strings.Join(strings.Fields(got), " ") != strings.Join(want, " ") {
		t.Errorf("descending: %q", got)
	}
	got = c.run("get", "/", "--prefix", "--sort-by", "modify", "--order", "descend", "--limit", "1", "--keys-only")
	if strings.TrimSpace(got) != keys[2] {
		t.Errorf("newest: %q", got)
	}
	got = c.run("get", "/order", "/page/99", "--sort-by", "value", "--order", "ascend", "--rev", fmt.Sprint(rev), "--print-value-only")
	if strings.Join(strings.Fields(got), " ") != "4 5 6 7 8" {
		t.Errorf("by value: %q", got)
	}
	got = c.run("get", "", "--from-key", "--count-only", "-w", "fields")
	if !regexp.MustCompile(`"Count" : ([89]|\d\d+)`).MatchString(got) {
		t.Errorf("count: %q", got)
	}
	got = c.run("get", "/page/", "--prefix", "--limit", "2", "-w", "json")
	if !strings.Contains(got, `"more":true`) || !strings.Contains(got, `"count":3`) {
		t.Errorf("more and count: %s", got)
	}
	c.fails("etcdserver: mvcc: required revision is a future revision", "get", "x", "--rev", "999999999")
	for _, k := range keys {
		c.want("1", "del", k)
	}
}

func TestEtcdctlWatchFromThePast(t *testing.T) {
	c := newCtl(t)
	c.run("put", "kw/replay", "1")
	c.run("put", "kw/replay", "2")
	c.run("del", "kw/replay")
	ch, _ := c.start("watch", "--rev=1", "kw/replay")
	want := "PUT kw/replay 1 PUT kw/replay 2 DELETE kw/replay "
	if got := strings.Join(c.read(ch, 9), " "); got != want+"" && got != strings.TrimRight(want, " ")+" " {
		t.Errorf("got %q, want %q", got, want)
	}
	c.run("put", "kw/replay", "3")
	if got := c.read(ch, 3); got[0] != "PUT" || got[2] != "3" {
		t.Errorf("live event: %q", got)
	}
}

func TestEtcdctlWatchPrefixAcrossRanges(t *testing.T) {
	c := newCtl(t)
	ch, _ := c.start("watch", "--prefix", "/page/", "--prev-kv", "--progress-notify")
	// The watch begins at some moment; from the first event on nothing may be missing.
	c.run("put", "/page/01/w", "0")
	first := ""
	for first == "" {
		c.run("put", "/page/01/w", "start")
		select {
		case first = <-ch:
		case <-time.After(300 * time.Millisecond):
		}
	}
	for _, k := range []string{"/page/01/w", "/page/07/w", "/page/12/w", "/page/19/w"} {
		c.run("put", k, "x-"+k)
	}
	var values []string
	for line := range ch {
		if strings.HasPrefix(line, "x-") && line != "x-start" {
			if len(values) == 0 || values[len(values)-1] != line {
				values = append(values, line)
			}
		}
		if line == "x-/page/19/w" {
			break
		}
	}
	if got := strings.Join(values, " "); got != "x-/page/01/w x-/page/07/w x-/page/12/w x-/page/19/w" {
		t.Errorf("got %q", got)
	}
	for _, k := range []string{"/page/01/w", "/page/07/w", "/page/12/w", "/page/19/w"} {
		c.run("del", k)
	}
}

func TestEtcdctlTxn(t *testing.T) {
	c := newCtl(t)
	c.run("put", "kt/user", "bad")
	txn := "value(\"kt/user\") = \"bad\"\nversion(\"kt/user\") > \"0\"\n\ndel kt/user\nget kt/user\n\nput kt/user good\n\n"
	c.wantIn("SUCCESS\n\n1", txn)
	c.wantIn("FAILURE\n\nOK", txn)
	c.want("kt/user\ngood", "get", "kt/user")
	c.run("del", "kt/user")
}

// wantIn runs a transaction from its text and compares the beginning.
func (c *ctl) wantIn(want, txn string) {
	c.t.Helper()
	got := strings.TrimSpace(c.runIn(txn, "txn"))
	if !strings.HasPrefix(got, want) {
		c.t.Errorf("txn:\ngot  %q\nwant %q", got, want)
	}
}

// TestEtcdctlCompact is last in its file's order of harm: it makes old revisions unreadable for
// everybody on the shared cluster.
func TestEtcdctlCompact(t *testing.T) {
	c := newCtl(t)
	c.run("put", "kc/x", "1")
	c.run("put", "kc/x", "2")
	rev := c.revision()
	c.want(fmt.Sprintf("compacted revision %d", rev), "compact", fmt.Sprint(rev), "--physical")
	c.fails("etcdserver: mvcc: required revision has been compacted", "get", "kc/x", "--rev", fmt.Sprint(rev-1))
	c.fails("etcdserver: mvcc: required revision has been compacted", "compact", fmt.Sprint(rev))
	c.fails("etcdserver: mvcc: required revision is a future revision", "compact", "999999999")
	c.want("kc/x\n2", "get", "kc/x", "--rev", fmt.Sprint(rev))
	out, err := c.e.Run(c.ctx, "", "watch", "--rev=1", "kc/x")
	if err == nil || !strings.Contains(out+err.Error(), "required revision has been compacted") {
		t.Errorf("watch below the compaction: %q, %v", out, err)
	}
	c.run("del", "kc/x")
}

func TestEtcdctlLease(t *testing.T) {
	c := newCtl(t)
	out := c.run("lease", "grant", "60")
	m := regexp.MustCompile(`^lease ([0-9a-f]+) granted with TTL\(60s\)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("grant: %q", out)
	}
	id := m[1]
	c.want("OK", "put", "--lease="+id, "kl/a", "1")
	c.want("OK", "put", "--lease="+id, "/page/07/l", "2")
	if got := c.run("lease", "keep-alive", "--once", id); !strings.Contains(got, "keepalived with TTL(60)") {
		t.Errorf("keep-alive: %q", got)
	}
	got := c.run("lease", "timetolive", "--keys", id)
	if !regexp.MustCompile(`lease ` + id + ` granted with TTL\(60s\), remaining\((60|5\d|4\d)s\), attached keys\(\[(/page/07/l kl/a|kl/a /page/07/l)\]\)`).MatchString(got) {
		t.Errorf("timetolive: %q", got)
	}
	if got := c.run("lease", "list"); !strings.Contains(got, id) {
		t.Errorf("list: %q", got)
	}
	c.want("lease "+id+" revoked", "lease", "revoke", id)
	c.want("", "get", "kl/a")
	c.want("", "get", "/page/07/l")
	c.want("lease "+id+" already expired", "lease", "timetolive", id)
	c.fails("etcdserver: requested lease not found", "lease", "revoke", id)
	c.fails("etcdserver: requested lease not found", "put", "--lease="+id, "kl/a", "1")
}

func TestEtcdctlEndpoints(t *testing.T) {
	c := newCtl(t)
	out := c.run("endpoint", "status", "--cluster", "-w", "table")
	if n := strings.Count(out, "http://127."); n != 3 {
		t.Errorf("status table has %d endpoints:\n%s", n, out)
	}
	if n := strings.Count(out, "3.7.3"); n != 3 {
		t.Errorf("status table has %d versions:\n%s", n, out)
	}
	if n := strings.Count(out, "true"); n != 1 {
		t.Errorf("status table has %d leaders:\n%s", n, out)
	}
	out = c.run("endpoint", "health", "--cluster", "-w", "table")
	if n := strings.Count(out, "true"); n != 3 {
		t.Errorf("health table has %d healthy endpoints:\n%s", n, out)
	}
	out = c.run("endpoint", "hashkv", "--cluster")
	if len(lines(out)) != 3 {
		t.Errorf("hashkv:\n%s", out)
	}
	out = c.run("member", "list", "-w", "table")
	for _, name := range []string{"n1", "n2", "n3", "started"} {
		if !strings.Contains(out, name) {
			t.Errorf("member list lacks %s:\n%s", name, out)
		}
	}
	c.want("", "alarm", "list")
}

func TestEtcdctlLock(t *testing.T) {
	c := newCtl(t)
	holder, cmd := c.start("lock", "klock/m")
	key := c.read(holder, 1)[0]
	if !strings.HasPrefix(key, "klock/m/") {
		t.Errorf("lock key %q", key)
	}
	waiter, _ := c.start("lock", "klock/m", "echo", "got it")
	select {
	case line := <-waiter:
		t.Fatalf("two hold the lock: %q", line)
	case <-time.After(500 * time.Millisecond):
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := c.read(waiter, 1)[0]; got != "got it" {
		t.Errorf("waiter printed %q", got)
	}
}

func TestEtcdctlElect(t *testing.T) {
	c := newCtl(t)
	first, cmd := c.start("elect", "kelect/e", "p1")
	if got := c.read(first, 2); !strings.HasPrefix(got[0], "kelect/e/") || got[1] != "p1" {
		t.Errorf("leader printed %q", got)
	}
	observer, _ := c.start("elect", "-l", "kelect/e")
	if got := c.read(observer, 2); got[1] != "p1" {
		t.Errorf("observer printed %q", got)
	}
	second, _ := c.start("elect", "kelect/e", "p2")
	select {
	case line := <-second:
		t.Fatalf("two were elected: %q", line)
	case <-time.After(500 * time.Millisecond):
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if got := c.read(second, 2); got[1] != "p2" {
		t.Errorf("second leader printed %q", got)
	}
	if got := c.read(observer, 2); got[1] != "p2" {
		t.Errorf("observer then printed %q", got)
	}
}

func TestEtcdctlCheckPerf(t *testing.T) {
	if !env.long {
		t.Skip("E2E_LONG=1 runs it")
	}
	c := newCluster(t, harness.Options{Ranges: 8})
	e := harness.Etcdctl{Binary: env.etcdctl, Endpoints: c.Endpoints()}
	out, err := e.Run(testContext(t, 3*time.Minute), "", "check", "perf", "--load=s")
	t.Logf("etcdctl check perf:\n%s", out)
	if err != nil {
		t.Error(err)
	}
}
