package backend

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pontoon/internal/peer"
	"pontoon/shard"
)

// countedLog counts its lines, and has enough at some time.
type countedLog struct {
	lines  atomic.Int64
	enough func()
}

func (l *countedLog) Write(p []byte) (int, error) {
	if l.lines.Add(1) == 1000 {
		l.enough()
	}
	return len(p), nil
}

// TestJoinPauses: where every attempt fails at once, one pauses before the next.
func TestJoinPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*joinRetry+time.Millisecond)
		defer cancel()
		log := &countedLog{enough: cancel}
		r, err := OpenRemote(RemoteConfig{
			Identity: peer.Identity{ClusterID: 1, Node: 9}, Members: []shard.Member{{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}},
			Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Join(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		if n := log.lines.Load(); n != 11 {
			t.Errorf("%d attempts in the time of ten pauses", n)
		}
	})
}
