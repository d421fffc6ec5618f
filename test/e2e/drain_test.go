package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/test/e2e/harness"
)

// Of TestPacedStop: streams, over connections, and the time that their ends are to take.
const (
	pacedStreams = 800
	pacedConns   = 40
	pacedPeriod  = 2 * time.Second
)

// TestPacedStop: a gateway that is stopped, and a node, ends the streams of its clients evenly over --drain-period, tells load balancers so from the beginning, and
// answers requests meanwhile; streams end with Unavailable and nothing else.
func TestPacedStop(t *testing.T) {
	pontoonOnly(t)
	drain := fmt.Sprint("--drain-period=", pacedPeriod)
	c := newCluster(t, harness.Options{Args: []string{drain}})
	t.Run("gateway", func(t *testing.T) { pacedStop(t, startGateway(t, c, "g1", drain)) })
	t.Run("node", func(t *testing.T) { pacedStop(t, c.Nodes[2]) })
}

func pacedStop(t *testing.T, n *harness.Node) {
	ctx := testContext(t, limit(time.Minute))
	var wg sync.WaitGroup
	ends := make([]time.Time, pacedStreams)
	for i := range pacedConns {
		cc := bareConn(t, n)
		for j := range pacedStreams / pacedConns {
			at := i*pacedStreams/pacedConns + j
			recv := standingWatch(ctx, t, etcdserverpb.NewWatchClient(cc))
			wg.Go(func() {
				err := recv()
				ends[at] = time.Now()
				if status.Code(err) != codes.Unavailable {
					t.Errorf("a stream ended with %v", err)
				}
			})
		}
	}
	began := time.Now()
	stopped := make(chan error, 1)
	go func() {
		_, code, err := n.Stop(ctx)
		if err == nil && code != 0 {
			err = fmt.Errorf("it left with %d", code)
		}
		stopped <- err
	}()
	eventually(t, pacedPeriod/2, "load balancers are told", func() error {
		code, body, err := httpGet(ctx, n.ClientURL+"/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, "[-]not_stopping failed")) {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	if code, body := jsonCall(t, n, "/v3/kv/range", `{"key":"YQ=="}`); code != "200" {
		t.Errorf("a request meanwhile: %s %v", code, body)
	}
	wg.Wait()
	took := time.Since(began)
	if err := <-stopped; err != nil {
		t.Errorf("the stop: %v", err)
	}
	quarters := [4]int{}
	for _, end := range ends {
		quarters[min(3, int(4*end.Sub(began)/pacedPeriod))]++
	}
	t.Logf("%d streams ended in %v, by quarters of %v: %v", pacedStreams, took, pacedPeriod, quarters)
	for _, got := range quarters {
		if even := pacedStreams / 4; got < even*6/10 || got > even*14/10 {
			t.Errorf("by quarters: %v", quarters)
			break
		}
	}
}

// standingWatch creates a watch and returns what waits for the end of its stream.
func standingWatch(ctx context.Context, t *testing.T, cl etcdserverpb.WatchClient) func() error {
	t.Helper()
	w, err := cl.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("paced")}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	return func() error {
		_, err := w.Recv()
		return err
	}
}

// TestConnectionAge: where connections have an age, on a port that takes HTTP too, a watcher connects again and again and misses nothing.
func TestConnectionAge(t *testing.T) {
	pontoonOnly(t)
	beside(t)
	c := newCluster(t, harness.Options{Nodes: 1, Args: []string{"--max-connection-age=1s", "--max-connection-age-grace=1s"}})
	ctx := testContext(t, limit(time.Minute))
	n := c.Nodes[0]
	recv := standingWatch(ctx, t, etcdserverpb.NewWatchClient(bareConn(t, n)))
	watcher, writer := newClient(t, c, n.ClientURL), newClient(t, c, n.ClientURL)
	events := watcher.Watch(ctx, "aged")
	began := time.Now()
	err := recv()
	if took := time.Since(began); status.Code(err) != codes.Unavailable || took < time.Second || took > limit(5*time.Second) {
		t.Errorf("after %v the stream ended with %v", took, err)
	}
	const puts = 100
	for i := range puts {
		for { // a connection may end under a request that came too late for it, which has not been begun then
			if _, err := writer.Put(ctx, "aged", fmt.Sprint(i)); err == nil {
				break
			} else if status.Code(err) != codes.Unavailable {
				t.Fatal(err)
			}
		}
		select {
		case <-time.After(40 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	next := 0
	for next < puts {
		r, ok := <-events
		if !ok || r.Err() != nil {
			t.Fatalf("after %d events: %v", next, r.Err())
		}
		for _, e := range r.Events {
			switch got := string(e.Kv.Value); {
			case got == fmt.Sprint(next):
				next++
			case got != fmt.Sprint(next-1): // put twice
				t.Fatalf("event %s, want %d", got, next)
			}
		}
	}
}
