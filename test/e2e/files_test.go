package e2e

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"pontoon/test/e2e/harness"
)

// TestConnectionsUpToTheLimitOfFiles: whoever opens as many connections as there may be open files ends no node, though
// its log goes on to files that it has not opened yet, and takes no connection from those who have one.
func TestConnectionsUpToTheLimitOfFiles(t *testing.T) {
	lengthy(t)
	c := newCluster(t, harness.Options{
		Nodes: 1, Ranges: 4,
		Within: func(int) []string { return []string{"sh", "-c", `ulimit -n 300 && exec "$@"`, "sh"} },
	})
	ctx := testContext(t, 2*time.Minute)
	cl := newClient(t, c)
	if _, err := cl.Put(ctx, "first", "1"); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.Nodes[0].ClientURL, "http://"), time.Second)
		if err != nil {
			break // the system's own queue is full
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
			t.Fatal(err)
		}
	}
	value := string(bytes.Repeat([]byte("v"), 500_000))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 60 { // 120 MB: several files of the log
				if _, err := cl.Put(ctx, "again", value); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if !c.Nodes[0].Running() {
		t.Error("the node has ended")
	}
	if log := c.Nodes[0].Log(); strings.Contains(log, "too many open files") {
		t.Error("the node could not open a file of its own")
	}
}
