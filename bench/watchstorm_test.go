package bench

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

func smallStorm(change func(*Spec)) Spec {
	return small("watch-storm", func(s *Spec) {
		s.Watchers, s.Rate, s.Calm, s.Duration, s.Timeout = 12, 200, 100*time.Millisecond, 300*time.Millisecond, 3*time.Second
		change(s)
	})
}

// twoFaces makes a store reachable at two addresses, as two servers of one; the second one ends when it is told to.
func twoFaces(t *testing.T, s *server, spec Spec) (e *env, end func()) {
	t.Helper()
	faces := map[string]*bufconn.Listener{}
	e = &env{spec: spec, sys: &system{target: Target{Kind: TargetPontoon}}, say: func(string) {}}
	for _, name := range []string{"stays", "ends"} {
		l, g := bufconn.Listen(1<<20), grpc.NewServer()
		etcdserverpb.RegisterKVServer(g, s)
		etcdserverpb.RegisterWatchServer(g, s)
		go func() { _ = g.Serve(l) }()
		t.Cleanup(g.Stop)
		faces[name], end = l, g.Stop
		e.sys.info.Endpoints = append(e.sys.info.Endpoints, "passthrough:///"+name)
	}
	e.sys.setup.client.New = func(c clientv3.Config) (*clientv3.Client, error) {
		_, name, _ := strings.Cut(c.Endpoints[0], ":///")
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return faces[name].DialContext(ctx) }))
		return clientv3.New(c)
	}
	c, err := e.sys.dial(stays)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	e.clients, e.kvs = append(e.clients, c), append(e.kvs, c)
	return e, end
}

func playStorm(t *testing.T, s *server, spec Spec, end func(really func())) (*Run, []string) {
	t.Helper()
	if err := spec.Validate(); err != nil {
		t.Fatal(err)
	}
	e, really := twoFaces(t, s, spec)
	w := newWatchStorm(e)
	w.end = func(context.Context) error { end(really); return nil }
	m := &measurement{Config: Config{Spec: spec}, run: &Run{}, sys: e.sys, work: w}
	m.sys.target.Kind = TargetEndpoints // nothing is started here
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := m.measure(t.Context()); err != nil {
		return m.run, append(m.run.Problems, err.Error())
	}
	return m.run, m.run.Problems
}

func TestAStormOfAGoodServer(t *testing.T) {
	r, problems := playStorm(t, newServer(), smallStorm(func(*Spec) {}), func(really func()) { really() })
	if len(problems) > 0 || r.Operations != 6 || r.Latency.Count != 6 || r.Kinds["others"].Count != 6 {
		t.Fatalf("%d back, %v others, %q", r.Operations, r.Kinds["others"].Count, problems)
	}
	if r.Figures["all-back-µs"] <= 0 || r.Figures["put-p50-µs"] <= 0 || r.Latency.Max < 1 {
		t.Errorf("%v", r.Figures)
	}
}

func TestAStormNoticesABadServer(t *testing.T) {
	for fault, want := range map[string]string{
		dropsEvent:   "",
		repeatsEvent: "after one of revision",
		swapsEvents:  "after one of revision",
		changesValue: "bytes that were not written",
		losesWrite:   "is not there",
		skipsReplay:  "delivered",
		replaysMore:  "after one of revision",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel() // they wait for what does not come
			var problems []string
			for range 5 { // on a machine with much else to do a storm may be over before the server has done it
				s := newServer()
				s.fault = fault
				_, problems = playStorm(t, s, smallStorm(func(s *Spec) { s.Timeout = time.Second }), func(really func()) { really() })
				if all := strings.Join(problems, "\n"); len(problems) > 0 && strings.Contains(all, want) {
					return
				}
			}
			t.Errorf("want %q, got %q", want, problems)
		})
	}
}

// A server that does not end leaves nobody to come back.
func TestAStormMustHappen(t *testing.T) {
	_, problems := playStorm(t, newServer(), smallStorm(func(*Spec) {}), func(func()) {})
	if all := strings.Join(problems, "\n"); !strings.Contains(all, "do not deliver again") {
		t.Errorf("%q", problems)
	}
}

func TestEndsAreVetted(t *testing.T) {
	w := newWatchStorm(&env{spec: smallStorm(func(*Spec) {}), sys: &system{target: Target{Kind: TargetPontoon}}})
	w.watchers = []*stormWatcher{{why: "Unavailable"}, {}, {why: "Internal"}}
	var p problems
	w.vetEnds(&p)
	if all := p.all(); len(all) != 1 || !strings.Contains(all[0], "Internal") {
		t.Errorf("%q", all)
	}
	began := time.Now()
	w.began.Store(&began)
	w.watchers = nil
	for i := range 101 {
		w.watchers = append(w.watchers, &stormWatcher{ended: began.Add(time.Second + time.Duration(i)*time.Millisecond)})
	}
	if w.tellEnds(); w.figures["drain-µs"] != 100_000 || w.figures["drain-uneven"] > 0.05 {
		t.Errorf("%v", w.figures)
	}
	for range 50 {
		w.watchers = append(w.watchers, &stormWatcher{ended: began.Add(1001 * time.Millisecond)})
	}
	if w.tellEnds(); w.figures["drain-uneven"] < 0.9 {
		t.Errorf("%v", w.figures)
	}
}

func TestStormSpecs(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"three gateways": func(s *Spec) { s.Gateways = 3 },
		"no puts":        func(s *Spec) { s.Rate = 0 },
		"no calm":        func(s *Spec) { s.Calm = 0 },
		"all calm":       func(s *Spec) { s.Calm = s.Duration },
		"one watcher":    func(s *Spec) { s.Watchers = 1 },
		"another way":    func(s *Spec) { s.Way = "gently" },
		"for ever":       func(s *Spec) { s.Timeout = 0 },
	} {
		if err := smallStorm(change).Validate(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	stop, drain := smallStorm(func(s *Spec) { s.Way = EndStop }), smallStorm(func(s *Spec) { s.Way, s.DrainPeriod = EndDrain, time.Minute })
	if a := drainArgs(stop, TargetPontoon); len(a) != 1 || a[0] != "--drain-period=0s" {
		t.Errorf("%q", a)
	}
	if a := drainArgs(drain, TargetPontoon); len(a) != 1 || a[0] != "--drain-period=1m0s" || drainArgs(drain, TargetEtcd) != nil {
		t.Errorf("%q", a)
	}
}
