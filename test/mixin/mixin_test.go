package mixin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/test/e2e/harness"
)

// fault is something that goes wrong, and the alerts that it must fire.
type fault struct {
	name  string
	fires []string
	disks bool // it needs disks that can be made slow
	// window is the longest range that its alerts look back over: they may fire for that long after its end. Below 0: the next fault's end mends this
	// one, too.
	window time.Duration
	// begin makes it go wrong, until end is called, which mends it. Both return at once or soon; ctx ends with the fault.
	begin func(ctx context.Context, t *testing.T, s *site) (end func())
}

// faults fire all alerts. The last one leaves data behind.
var faults = []fault{
	{"the lead goes from member to member", []string{"etcdHighNumberOfLeaderChanges/warning"}, false, 15 * time.Minute, restlessLead},
	{"a member stands still", []string{"etcdMembersDown/critical"}, false, 5 * time.Minute, stopped},
	{"a member answers late", []string{"etcdMemberCommunicationSlow/warning"}, false, 5 * time.Minute, halting},
	{"slow disks", []string{"etcdHighFsyncDurations/warning", "etcdHighFsyncDurations/critical", "etcdHighCommitDurations/warning", "etcdGRPCRequestsSlow/critical"}, true, 5 * time.Minute, slowDisks},
	{"two of three members are gone", []string{"etcdInsufficientMembers/critical", "etcdNoLeader/critical", "etcdHighNumberOfFailedGRPCRequests/warning",
		"etcdHighNumberOfFailedGRPCRequests/critical", "etcdHighNumberOfFailedProposals/warning"}, false, 15 * time.Minute, noMajority},
	{"the quota is used up", []string{"etcdDatabaseQuotaLowSpace/critical", "etcdExcessiveDatabaseGrowth/warning"}, false, -1, full},
	{"most of it is deleted", []string{"etcdDatabaseHighFragmentationRatio/warning"}, false, 4 * time.Hour, hollow},
}

// TestEveryAlertHasItsFault: none is left out.
func TestEveryAlertHasItsFault(t *testing.T) { everyAlertHasItsFault(t, alerts, faults) }

func everyAlertHasItsFault(t *testing.T, alerts []alert, faults []fault) {
	t.Helper()
	fires := map[string]bool{}
	for _, f := range faults {
		for _, key := range f.fires {
			fires[key] = true
		}
	}
	for _, a := range alerts {
		if !fires[a.key()] {
			t.Errorf("nothing fires %s", a.key())
		}
		delete(fires, a.key())
	}
	for key := range fires {
		t.Errorf("there is no alert %s", key)
	}
}

// TestMixin: under load no alert fires and no query is empty; every alert is fired by its fault, and resolves after it.
func TestMixin(t *testing.T) {
	s := newSite(t)
	t.Run("everyday", func(t *testing.T) { everydayOf(t, s, alerts, panels) })
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if f.disks && s.disks == nil {
				t.Skipf("disks cannot be made slow here: %v", s.why)
			}
			happens(t, s, f)
		})
	}
	t.Logf("fired: %v", s.w.fired())
}

// everydayOf: the cluster is well, for longer than any alert takes to fire.
func everydayOf(t *testing.T, s *site, alerts []alert, panels []panel) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for _, a := range alerts {
		e, err := compress(a.expr)
		if err != nil {
			t.Fatal(err)
		}
		for _, series := range selectors(e) {
			s.until(ctx, t, patience, a.key()+" asks for "+series, func() error {
				_, err := s.w.points(ctx, series)
				return err
			})
		}
	}
	for _, p := range panels {
		e, err := compress(p.expr)
		if err != nil {
			t.Fatal(err)
		}
		s.until(ctx, t, patience, fmt.Sprintf("%s: %v", p.title, e), func() error {
			v, err := s.w.points(ctx, e.String())
			if err == nil && !strings.HasPrefix(p.expr, "sum(") && len(v) < nodes {
				err = fmt.Errorf("%d points of %d nodes", len(v), nodes)
			}
			return err
		})
	}
	longest := slices.MaxFunc(alerts, func(a, b alert) int { return int(a.hold - b.hold) }).hold
	rest(ctx, (longest+5*time.Minute)/compression)
	for key := range s.w.fired() {
		if slices.Contains(slowness, key) {
			t.Logf("this machine is busy: %s", key)
		} else {
			t.Errorf("nothing is wrong, and yet there was %s\n%s", key, s.scrapes())
		}
	}
}

// slowness is what may be true of a machine that has other things to do, too.
var slowness = []string{"etcdGRPCRequestsSlow/critical", "etcdHighFsyncDurations/warning", "etcdHighFsyncDurations/critical", "etcdHighCommitDurations/warning",
	"etcdMemberCommunicationSlow/warning"}

// happens makes a fault, waits until its alerts have fired, mends it, and waits until all have resolved.
func happens(t *testing.T, s *site, f fault) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	began := time.Now()
	end := f.begin(ctx, t, s)
	var once sync.Once
	defer once.Do(end)
	seen := map[string]bool{}
	s.until(ctx, t, patience, fmt.Sprint("these fire: ", f.fires), func() error {
		now, err := s.w.firing()
		maps.Copy(seen, now)
		var missing []string
		for _, key := range f.fires {
			if !seen[key] {
				missing = append(missing, key)
			}
		}
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("%v do not, after %v; %v did", missing, time.Since(began).Round(time.Second), slices.Sorted(maps.Keys(seen)))
		}
		return err
	})
	fired := time.Now()
	once.Do(end)
	if f.window >= 0 {
		s.until(ctx, t, f.window/compression+patience, "all resolve", func() error {
			now, err := s.w.firing()
			maps.DeleteFunc(now, func(key string, _ bool) bool { return slices.Contains(slowness, key) && !slices.Contains(f.fires, key) })
			if err == nil && len(now) > 0 {
				err = fmt.Errorf("%v still fire", slices.Sorted(maps.Keys(now)))
			}
			return err
		})
	}
	t.Logf("fired after %v, resolved after %v; beside: %v", fired.Sub(began).Round(time.Second), time.Since(fired).Round(time.Second), beside(seen, f.fires))
}

func beside(seen map[string]bool, named []string) (others []string) {
	for _, key := range slices.Sorted(maps.Keys(seen)) {
		if !slices.Contains(named, key) {
			others = append(others, key)
		}
	}
	return others
}

// until asks again and again, until there is no error.
func (s *site) until(ctx context.Context, t *testing.T, within time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || !rest(ctx, scrapeEvery/2) {
			t.Fatalf("%s: %v\n%s", what, err, s.scrapes())
		}
	}
}

// scrapes tells how the scrapes go: what is late on a busy machine looks like a member that is down.
func (s *site) scrapes() string {
	var b strings.Builder
	for _, q := range []string{"up", "max_over_time(scrape_duration_seconds[1m])"} {
		v, err := s.w.points(context.Background(), q)
		fmt.Fprintf(&b, "%s: %v %v\n", q, v, err)
	}
	return b.String()
}

// a minute of the rules.
const minute = time.Minute / compression

// restlessLead has the lead handed over seven times, one a minute.
func restlessLead(ctx context.Context, t *testing.T, s *site) func() {
	for range 7 {
		s.until(ctx, t, patience, "the lead moves", func() error {
			at, others, err := s.metaLeader(ctx)
			if err == nil {
				_, err = s.clients[at].MoveLeader(ctx, others[0])
			}
			return err
		})
		rest(ctx, minute)
	}
	return func() {}
}

// stopped lets a member's process stand still.
func stopped(_ context.Context, t *testing.T, s *site) func() {
	n := s.Nodes[nodes-1]
	if err := n.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := n.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
}

// halting lets a member's process run for a fifth of the time, a tenth of a second at once: it answers everybody, and late.
func halting(ctx context.Context, t *testing.T, s *site) func() {
	ctx, cancel := context.WithCancel(ctx)
	n := s.Nodes[nodes-1]
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = n.Signal(syscall.SIGSTOP)
			rest(ctx, 400*time.Millisecond)
			_ = n.Signal(syscall.SIGCONT)
			rest(ctx, 100*time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// slowDisks lets all nodes' disks take a few writes a second.
func slowDisks(_ context.Context, t *testing.T, s *site) func() {
	s.setDisks(t, slowWrites)
	return func() { s.setDisks(t, 0) }
}

// noMajority kills two nodes while many write through the third.
func noMajority(ctx context.Context, t *testing.T, s *site) func() {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	s.writers(ctx, &wg, 0, 128)
	for _, n := range s.Nodes[1:] {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		cancel()
		wg.Wait()
		for _, n := range s.Nodes[1:] {
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// filled is how many keys full has put.
var filled int

// full puts until there is no room.
func full(ctx context.Context, t *testing.T, s *site) func() {
	var err error
	filled, err = s.fill(ctx)
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("%d keys were put, then %v", filled, err)
	}
	return func() {}
}

// hollow deletes every second key that fills the store, and compacts; its end defragments and disarms.
func hollow(ctx context.Context, t *testing.T, s *site) func() {
	c := s.clients[0]
	for i := range filled {
		if i%2 == 1 {
			continue
		}
		if _, err := c.Delete(ctx, fillKey(i)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.Get(ctx, "\x01")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.everybody(func(c *clientv3.Client, n *harness.Node) error {
			_, err := c.Defragment(ctx, n.ClientURL)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			t.Fatal(err)
		}
	}
}
