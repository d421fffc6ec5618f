package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"pontoon/test/e2e/harness"
)

// What TestStuckClients has of clients.
const (
	stuckClients = 1000
	stuckWindow  = 16 << 20 // what such a client says that it will take
	stuckBytes   = 6 << 20  // of values
	stuckPutters = 16
	delayRounds  = 100
	delayEvery   = 50 * time.Millisecond
)

// TestStuckClients: clients that ask for much and take nothing cost a bounded amount, in the process and in the system together, and others notice nothing.
func TestStuckClients(t *testing.T) {
	pontoonOnly(t)
	lengthy(t)
	for _, of := range []struct {
		window uint32
		value  int
		most   int64 // that each may cost the server's process and its system
	}{{0, 100 << 10, 160 << 10}, {stuckWindow, 100 << 10, 160 << 10}, {stuckWindow, 512, 192 << 10}} {
		t.Run(fmt.Sprintf("window %d, values of %d", of.window, of.value), func(t *testing.T) { stuck(t, of.window, of.value, of.most) })
	}
}

func stuck(t *testing.T, window uint32, value int, most int64) {
	c := newCluster(t, harness.Options{Nodes: 1, Args: []string{"--placement=off"}})
	ctx := testContext(t, limit(3*time.Minute))
	n := c.Nodes[0]
	cl := newClient(t, c, n.ClientURL)
	due(ctx, t, cl, value) // what the server itself keeps of it
	before, kernelBefore := weight(t, n)
	conns := make([]net.Conn, stuckClients)
	for i := range conns {
		conns[i] = stuckWatch(t, n, "due/", window)
	}
	watching := func(want float64) {
		t.Helper()
		eventually(t, limit(30*time.Second), fmt.Sprintf("%v watch", want), func() error {
			m, err := metricsOf(ctx, n)
			if err != nil {
				return err
			}
			got, err := m.Value("etcd_debugging_mvcc_watcher_total")
			if err == nil && got != want {
				err = fmt.Errorf("%v do", got)
			}
			return err
		})
	}
	watching(stuckClients)
	idle, _ := weight(t, n)
	other := cl.Watch(ctx, "due/", clientv3.WithPrefix())
	began := time.Now()
	due(ctx, t, cl, value)
	for got := 0; got < stuckBytes/value; {
		r, ok := <-other
		if !ok || r.Err() != nil {
			t.Fatalf("the one that takes: %v", r.Err())
		}
		got += len(r.Events)
	}
	took := time.Since(began)
	after, kernel := weight(t, n)
	each := (after - before + kernel - kernelBefore) / stuckClients
	t.Logf("%d clients that take nothing: %d KiB each: %d idle, %d more in the process, %d in the system; %d MiB were put and taken by another in %v",
		stuckClients, each>>10, (idle-before)/stuckClients>>10, (after-idle)/stuckClients>>10, (kernel-kernelBefore)/stuckClients>>10, stuckBytes>>20, took)
	if each > most {
		t.Errorf("each costs %d KiB", each>>10)
	}
	beside := delays(ctx, t, cl, value)
	for _, c := range conns {
		_ = c.Close()
	}
	watching(1)
	alone := delays(ctx, t, cl, value)
	p50, p99 := len(alone)/2, len(alone)*99/100
	t.Logf("from a put to its event elsewhere: p50 %v, p99 %v; beside these clients %v, %v", alone[p50], alone[p99], beside[p50], beside[p99])
	if beside[p50] > 2*alone[p50]+limit(20*time.Millisecond) {
		t.Errorf("others are delayed: %v, alone %v", beside[p50], alone[p50])
	}
}

// due puts stuckBytes of values of a size, some at a time.
func due(ctx context.Context, t *testing.T, cl *clientv3.Client, size int) {
	t.Helper()
	var puts errgroup.Group
	puts.SetLimit(stuckPutters)
	for i := range stuckBytes / size {
		puts.Go(func() error {
			_, err := cl.Put(ctx, fmt.Sprintf("due/%d", i%5), strings.Repeat("v", size))
			return err
		})
	}
	if err := puts.Wait(); err != nil {
		t.Fatal(err)
	}
}

// delays puts delayRounds values of a size, one every delayEvery, and tells how long each took until another client's watch had it, the shortest first.
func delays(ctx context.Context, t *testing.T, cl *clientv3.Client, size int) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	other := cl.Watch(ctx, "due/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-other
	pace := time.NewTicker(delayEvery)
	defer pace.Stop()
	var all []time.Duration
	for range delayRounds {
		<-pace.C
		began := time.Now()
		if _, err := cl.Put(ctx, "due/0", strings.Repeat("v", size)); err != nil {
			t.Fatal(err)
		}
		if r, ok := <-other; !ok || r.Err() != nil {
			t.Fatalf("the one that takes: %v", r.Err())
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all
}

// weight is what a node's process holds, and the system for its clients.
func weight(t *testing.T, n *harness.Node) (process, kernel int64) {
	t.Helper()
	u, err := n.Usage()
	if err != nil {
		t.Fatal(err)
	}
	kernel, _, err = n.KernelMemory()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u.Resident, kernel
}

// stuckWatch watches a prefix by a connection of which nothing is read, not even by the system beyond a few KiB. window is what it offers for its
// stream, and for the connection; 0: what every client does.
func stuckWatch(t *testing.T, n *harness.Node, prefix string, window uint32) net.Conn {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		return errors.Join(err, serr)
	}}
	c, err := d.Dial("tcp", strings.TrimPrefix(n.ClientURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	req, err := proto.Marshal(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var out, head bytes.Buffer
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, nil)
	h := hpack.NewEncoder(&head)
	for _, x := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.Watch/Watch"}, {":authority", "stuck"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		err = errors.Join(err, h.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]}))
	}
	if window == 0 {
		err = errors.Join(err, f.WriteSettings())
	} else {
		err = errors.Join(err, f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}), f.WriteWindowUpdate(0, window))
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(req))), req...)
	err = errors.Join(err, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}), f.WriteData(1, false, message))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return c
}
