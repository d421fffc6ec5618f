package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"pontoon/internal/config"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "T0"

// service is a cluster in which others register.
type service struct {
	t     *testing.T
	store *apitest.Store
	addr  string
	cli   *clientv3.Client
}

func newService(t *testing.T) *service {
	s := &service{t: t, store: apitest.New()}
	_, s.addr = s.store.Serve(t, nil)
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{s.addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	s.cli = cli
	t.Cleanup(func() { _ = cli.Close() })
	return s
}

func (s *service) put(key, value string) {
	s.t.Helper()
	if _, err := s.cli.Put(s.t.Context(), "/_etcd/registry/"+token+"/"+key, value); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) config() *config.Discovery {
	return &config.Discovery{Endpoints: []string{s.addr}, Token: token, DialTimeout: time.Second, RequestTimeout: 5 * time.Second,
		KeepAliveTime: time.Second, KeepAliveTimeout: time.Second, Insecure: true}
}

func (s *service) join(ctx context.Context, id shard.NodeID, own string) (string, error) {
	return Join(ctx, s.config(), id, own, slog.New(slog.DiscardHandler))
}

// TestJoin: nodes that come in any order, one of them twice, all find the same members; who comes late finds the cluster full.
func TestJoin(t *testing.T) {
	s := newService(t)
	s.put("_config/size", "3")
	s.put("members/junk", "no url at all")
	var wg sync.WaitGroup
	found := make([]string, 3)
	for i := range found {
		wg.Go(func() {
			var err error
			if found[i], err = s.join(t.Context(), shard.NodeID(0xa0+i), fmt.Sprintf("n%d=http://10.0.0.%d:2380,n%d=http://10.0.1.%d:2380", i, i, i, i)); err != nil {
				t.Errorf("n%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i, f := range found {
		if f != found[0] || strings.Count(f, ",") != 5 || !strings.Contains(f, fmt.Sprintf("n%d=http://10.0.0.%d:2380,n%d=http://10.0.1.%d:2380", i, i, i, i)) {
			t.Errorf("n%d found %q, n0 %q", i, f, found[0])
		}
	}
	if got, err := s.join(t.Context(), 0xa1, "n1=http://10.0.0.1:2380,n1=http://10.0.1.1:2380"); err != nil || got != found[0] {
		t.Errorf("the same member again: %q, %v", got, err)
	}
	var refused *JoinError
	if _, err := s.join(t.Context(), 0xff, "late=http://10.0.0.9:2380"); !errors.As(err, &refused) || !errors.Is(err, ErrFull) || err.Error() != "failed to join discovery cluster (discovery: cluster is full)" {
		t.Errorf("late: %v", err)
	}
	if r, err := s.cli.Get(t.Context(), "/_etcd/registry/"+token+"/members/ff"); err != nil || len(r.Kvs) != 0 {
		t.Errorf("who came late has registered: %v, %v", r, err)
	}
}

// TestJoinCrowd: more come at the same time than the cluster has members: those count who were first, and all agree on them.
func TestJoinCrowd(t *testing.T) {
	s := newService(t)
	s.put("_config/size", "2")
	var wg sync.WaitGroup
	var mu sync.Mutex
	full, found := 0, map[string]int{}
	for i := range 5 {
		wg.Go(func() {
			got, err := s.join(t.Context(), shard.NodeID(i+1), fmt.Sprintf("n%d=http://10.0.0.%d:2380", i, i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrFull):
				full++
			case err != nil:
				t.Errorf("n%d: %v", i, err)
			default:
				found[got]++
				if !strings.Contains(got, fmt.Sprintf("n%d=", i)) {
					t.Errorf("n%d is not in %q", i, got)
				}
			}
		})
	}
	wg.Wait()
	if full != 3 || len(found) != 1 {
		t.Errorf("%d found it full, and others: %v", full, found)
	}
}

func TestJoinRefused(t *testing.T) {
	for _, c := range []struct {
		name, size, own string
		want            error
	}{
		{"no size", "", "n=http://10.0.0.1:1", ErrSizeNotFound},
		{"a word", "three", "n=http://10.0.0.1:1", ErrBadSize},
		{"none", "0", "n=http://10.0.0.1:1", ErrBadSize},
		{"less", "-1", "n=http://10.0.0.1:1", ErrBadSize},
		{"a million", "1000000", "n=http://10.0.0.1:1", ErrBadSize},
		{"no URL", "1", "n=10.0.0.1", ErrInvalidURL},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t)
			if c.size != "" {
				s.put("_config/size", c.size)
			}
			var refused *JoinError
			if _, err := s.join(t.Context(), 1, c.own); !errors.Is(err, c.want) || !errors.As(err, &refused) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	d := newService(t).config()
	d.Cert, d.Key = "/nowhere", "/nowhere"
	var refused *JoinError
	if _, err := Join(t.Context(), d, 1, "n=http://10.0.0.1:1", slog.New(slog.DiscardHandler)); !errors.As(err, &refused) {
		t.Errorf("no certificate: %v", err)
	}
}

// TestJoinStopped: who waits for others can be told to stop.
func TestJoinStopped(t *testing.T) {
	s := newService(t)
	s.put("_config/size", "2")
	ctx, cancel := context.WithCancel(t.Context())
	var logs lines
	waits := logs.wait("waiting for peers from discovery service")
	got := make(chan error, 1)
	go func() {
		_, err := Join(ctx, s.config(), 1, "n1=http://10.0.0.1:1", slog.New(slog.NewJSONHandler(&logs, nil)))
		got <- err
	}()
	<-waits
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestJoinPatience: a service that does not answer is asked again, each time after a longer pause, and a watch that ends is begun again.
func TestJoinPatience(t *testing.T) {
	s := newService(t)
	s.put("_config/size", "2")
	var pauses []time.Duration
	kv := &flaky{KV: s.cli, fail: 10}
	r := &registration{
		kv: kv, watch: &ending{s.cli}, timeout: time.Minute, dir: registry + "/" + token, id: "1", log: slog.New(slog.DiscardHandler),
		pause: func(_ context.Context, d time.Duration) error {
			pauses = append(pauses, d)
			if len(pauses) == 11 { // it is the watch that has ended
				s.put("members/2", "n2=http://10.0.0.2:1")
			}
			return nil
		},
	}
	got, err := r.join(t.Context(), "n1=http://10.0.0.1:1")
	if err != nil || got != "n1=http://10.0.0.1:1,n2=http://10.0.0.2:1" {
		t.Errorf("got %q, %v", got, err)
	}
	const second = time.Second
	want := []time.Duration{2 * second, 4 * second, 8 * second, 16 * second, 32 * second, 64 * second, 128 * second, 256 * second, 256 * second, 256 * second, 2 * second}
	if fmt.Sprint(pauses) != fmt.Sprint(want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
}

// flaky fails some times.
type flaky struct {
	clientv3.KV
	fail int
}

func (f *flaky) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if f.fail > 0 {
		f.fail--
		return nil, errors.New("no answer")
	}
	return f.KV.Get(ctx, key, opts...)
}

// ending is watches that end at once.
type ending struct{ clientv3.Watcher }

func (*ending) Watch(context.Context, string, ...clientv3.OpOption) clientv3.WatchChan {
	ch := make(chan clientv3.WatchResponse)
	close(ch)
	return ch
}

// lines is a log that tells of a line.
type lines struct {
	mu    sync.Mutex
	text  string
	found chan struct{}
}

func (l *lines) wait(text string) <-chan struct{} {
	l.text, l.found = text, make(chan struct{})
	return l.found
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text != "" && bytes.Contains(p, []byte(l.text)) {
		close(l.found)
		l.text = ""
	}
	return len(p), nil
}
