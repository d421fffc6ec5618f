package server

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/internal/front"
	"pontoon/internal/host"
	"pontoon/internal/peer"
	"pontoon/shard"
)

// patience of a test, on a busy machine.
const patience = 2 * time.Minute

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
	on  chan struct{} // gets one when something was logged, if there is room
}

func newLogBuffer() *logBuffer { return &logBuffer{on: make(chan struct{}, 1)} }

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.on <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

// await waits until the log has a text.
func (b *logBuffer) await(t *testing.T, text string) {
	t.Helper()
	late := time.After(patience)
	for {
		b.mu.Lock()
		has := strings.Contains(b.buf.String(), text)
		b.mu.Unlock()
		if has {
			return
		}
		select {
		case <-b.on:
		case <-late:
			t.Fatalf("the log never says %q", text)
		}
	}
}

func listen(t *testing.T) Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return Listener{Listener: l, URL: "http://" + l.Addr().String()}
}

// oneNode configures a cluster of one node, on loopback ports.
func oneNode(t *testing.T, dir string) Config {
	t.Helper()
	peers, clients := listen(t), listen(t)
	return Config{
		Host: host.Config{
			Name: "n1", Identity: peer.Identity{ClusterID: 0xc1, Node: 0x11}, DataDir: dir,
			Members: []shard.Member{{ID: 0x11, Name: "n1", PeerURLs: []string{peers.URL}}},
			Peer:    []Listener{peers}, ClientURLs: []string{clients.URL},
			SplitKeys: [][]byte{[]byte("g")}, Heartbeat: 10 * time.Millisecond,
		},
		Front: front.Config{Client: []Listener{clients}}, Election: 100 * time.Millisecond,
	}
}

func startNode(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNode(t, s) })
	return s
}

func stopNode(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func awaitReady(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.Ready():
	case err := <-s.Done():
		t.Fatalf("the node has ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the node is not ready")
	}
}

// TestWhatDoesNotEndANode: that a replica cannot be opened now, or a hint not be written, is said, tried
// again, and ends nothing.
func TestWhatDoesNotEndANode(t *testing.T) {
	for _, tt := range []struct{ blocked, says string }{
		{"ranges/r2", "a replica could not be opened"},
		{"ranges.map.tmp", "the range map could not be kept"},
	} {
		t.Run(tt.blocked, func(t *testing.T) {
			dir := t.TempDir()
			block := filepath.Join(dir, tt.blocked)
			if err := os.MkdirAll(filepath.Dir(block), 0o700); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(block, ".tmp") { // a directory where a file should be, or the other way round
				if err := os.Mkdir(block, 0o700); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(block, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			log := newLogBuffer()
			cfg := oneNode(t, dir)
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			s := startNode(t, cfg)
			log.await(t, tt.says)
			if err := os.Remove(block); err != nil {
				t.Fatal(err)
			}
			awaitReady(t, s)
			if !strings.HasSuffix(block, ".tmp") {
				return
			}
			log.await(t, "the range map is kept again")
		})
	}
}
