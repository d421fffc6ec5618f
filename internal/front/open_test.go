package front

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"pontoon/internal/admission"
	"pontoon/internal/backend"
	"pontoon/internal/httpapi"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// overNobody is a backend whose nodes are not there.
func overNobody(t *testing.T) *backend.Backend {
	t.Helper()
	r, err := backend.OpenRemote(backend.RemoteConfig{
		Identity: peer.Identity{ClusterID: 1, Node: 9}, Members: []shard.Member{{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r.Backend()
}

func listenOn(t *testing.T) []httpapi.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return []httpapi.Listener{{Listener: l, URL: "http://" + l.Addr().String()}}
}

var errFault = errors.New("a fault of the test's")

// TestOpenAndCloseWithAFaultAtEveryStep: each step of Open fails in turn, and a front that opens is closed without
// running, stopped as soon as it runs, or when it serves. No port stays open, and no goroutine.
func TestOpenAndCloseWithAFaultAtEveryStep(t *testing.T) {
	b := overNobody(t)
	steps := (&Front{}).steps()
	rounds := 200
	if testing.Short() {
		rounds = 6 * len(steps) // each step in each of the six ways below
	}
	for i := range rounds {
		at := steps[i/6%len(steps)].name
		cfg := Config{Backend: b, Await: func(context.Context) error { return nil }, Client: listenOn(t), Metrics: listenOn(t)}
		if i%2 == 1 {
			cfg.ClientHTTP = listenOn(t)
		}
		ls := slices.Concat(cfg.Client, cfg.ClientHTTP, cfg.Metrics)
		if i%3 == 0 {
			cfg.fault = func(step string) error {
				if step == at {
					return errFault
				}
				return nil
			}
		}
		f, err := Open(cfg)
		if i%3 == 0 {
			if !errors.Is(err, errFault) {
				t.Fatalf("a fault at %s: %v", at, err)
			}
		} else if err != nil {
			t.Fatal(err)
		} else {
			if i%3 == 1 {
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- f.Run(ctx) }()
				if i%2 == 0 {
					<-f.Ready()
				}
				cancel()
				if err := <-ended; err != nil {
					t.Fatalf("run: %v", err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
		}
		for _, l := range ls {
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("round %d leaves %s open: %v", i, l.URL, err)
			}
		}
	}
}

// TestWhatIsRequired: a configuration that lacks something is refused by name.
func TestWhatIsRequired(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"whole backend": func(c *Config) { c.Backend = &backend.Backend{} },
		"Await":         func(c *Config) { c.Await = nil },
	} {
		cfg := Config{Backend: overNobody(t), Await: func(context.Context) error { return nil }}
		change(&cfg)
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestSoManyAtATime: lists of all ranges and hashes of all keys are refused beyond a few at a time, and let in again.
func TestSoManyAtATime(t *testing.T) {
	n := &node{backend: overNobody(t), listing: newSemaphore(listsAtOnce)}
	m := newMaintenance(n, slog.New(slog.DiscardHandler))
	for range listsAtOnce {
		n.listing.tryAcquire()
	}
	for range hashesAtOnce {
		m.hashes.tryAcquire()
	}
	if _, err := n.Ranges(t.Context()); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("one list too many: %v", err)
	}
	if _, err := m.HashKV(t.Context(), 0); !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("one hash too many: %v", err)
	}
	n.listing.release()
	if !n.listing.tryAcquire() {
		t.Error("nobody is let in any more")
	}
}

// TestWhatARoutingClientMayCall: of all kinds of calls that the format lists, exactly these, and everything that a
// client states is checked first.
func TestWhatARoutingClientMayCall(t *testing.T) {
	b := overNobody(t)
	d := newDoor(b, admission.New(admission.Limits{MaxRequestBytes: 4096, MaxTxnOps: 8}), nil, 0, 0, nil)
	defer func() { _ = d.close() }()
	var may []string
	fields := (&pb.PeerRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Kind() != protoreflect.MessageKind {
			continue
		}
		req := &pb.PeerRequest{}
		req.ProtoReflect().Mutable(fd)
		d.handle(t.Context(), peer.Client, req, func(resp *pb.PeerResponse) {
			if err := pb.ErrorFromPB(resp.Error); err == nil || !strings.Contains(err.Error(), "only nodes may make this call") {
				may = append(may, string(fd.Name()))
			}
		})
	}
	if want := []string{"write", "fence", "read", "transfer", "oracle", "descriptors", "compact", "begin_op", "ops", "plan", "unstick", "borders"}; !slices.Equal(may, want) {
		t.Errorf("a client may %v, want %v", may, want)
	}
	b.Cluster.Learn(7, 3)
	span := &pb.Span{Start: []byte("a"), End: []byte("b")}
	for _, tt := range []struct {
		what string
		req  *pb.PeerRequest
		want error
	}{
		{"to allocate", &pb.PeerRequest{Oracle: &pb.OracleRequest{Count: 1}}, shard.ErrInvalid},
		{"an empty span", &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 2, Revision: 3}}, shard.ErrInvalid},
		{"no revision", &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 2, Span: span}}, shard.ErrInvalid},
		{"a read above its fence", &pb.PeerRequest{Fence: &pb.FenceRequest{Span: span, Revision: 3, Read: &pb.ReadRequest{Span: span, Revision: 4}}}, shard.ErrInvalid},
		{"a read, where nothing is held", &pb.PeerRequest{Read: &pb.ReadRequest{RangeId: 2, Revision: 3, Span: span}}, shard.ErrUnavailable},
		{"a fence that is known, where nothing is held", &pb.PeerRequest{Fence: &pb.FenceRequest{Span: span, Revision: 7, Epoch: 3}}, shard.ErrUnavailable},
	} {
		d.handle(t.Context(), peer.Client, tt.req, func(resp *pb.PeerResponse) {
			if err := pb.ErrorFromPB(resp.Error); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", tt.what, err)
			}
		})
	}
}
