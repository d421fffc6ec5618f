package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// stuckLog is a log whose pipe is full from a text on.
type stuckLog struct {
	at    string
	stuck chan struct{} // closed when somebody waits in it
	free  chan struct{}
	once  sync.Once
}

func (l *stuckLog) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.at) {
		l.once.Do(func() { close(l.stuck) })
		<-l.free
	}
	return len(p), nil
}

// TestStopReturnsWhenItsContextEnds: a node that is told to stop in the moment in which it becomes ready, and
// whose log takes nothing any more, is given up when the context says so. It ends when it can.
func TestStopReturnsWhenItsContextEnds(t *testing.T) {
	for _, at := range []string{"published local member", "serving client traffic"} {
		t.Run(at, func(t *testing.T) {
			log := &stuckLog{at: at, stuck: make(chan struct{}), free: make(chan struct{})}
			cfg := oneNode(t, t.TempDir())
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			s, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			<-log.stuck
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			stopped := make(chan error, 1)
			go func() { stopped <- s.Stop(ctx) }()
			select {
			case err := <-stopped:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("stopped with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("Stop has not returned though its context has ended")
			}
			close(log.free)
			stopNode(t, s)
		})
	}
}
