package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a Handler that keeps what it gets.
type recorder struct {
	block chan struct{}       // HandleFrame waits for it to be closed, if set
	check func(*pb.RaftFrame) // looks at every frame, if set

	mu struct {
		sync.Mutex
		snapshot    func(from shard.NodeID, h *pb.SnapshotHeader, r io.Reader) error
		groups      []uint64 // of the messages, in order
		from        map[uint64]shard.NodeID
		unreachable map[shard.NodeID]int
	}
}

func newRecorder() *recorder {
	r := new(recorder)
	r.mu.from = make(map[uint64]shard.NodeID)
	r.mu.unreachable = make(map[shard.NodeID]int)
	return r
}

func (r *recorder) HandleFrame(from shard.NodeID, f *pb.RaftFrame) {
	if r.block != nil {
		<-r.block
	}
	if r.check != nil {
		r.check(f)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range f.Messages {
		r.mu.groups = append(r.mu.groups, m.Group)
		r.mu.from[m.Group] = from
	}
}

func (r *recorder) HandleSnapshot(from shard.NodeID, h *pb.SnapshotHeader, rd io.Reader) error {
	r.mu.Lock()
	fn := r.mu.snapshot
	r.mu.Unlock()
	return fn(from, h, rd)
}

// onSnapshot says what becomes of snapshots from now on. A sender may have failed before the stream
// that it had opened was served.
func (r *recorder) onSnapshot(fn func(from shard.NodeID, h *pb.SnapshotHeader, r io.Reader) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.snapshot = fn
}

func (r *recorder) PeerUnreachable(node shard.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.unreachable[node]++
}

func (r *recorder) received() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.groups)
}

func (r *recorder) reports(node shard.NodeID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.unreachable[node]
}

// node is a transport with a handler and the connections of one node.
type node struct {
	*Transport
	rec *recorder
}

func start(t *testing.T, net *peertest.Net, id shard.NodeID, cfg Config) node {
	t.Helper()
	d := net.Dialer(t, id)
	return startWith(t, d, id, cfg)
}

func startWith(t *testing.T, d *peer.Dialer, id shard.NodeID, cfg Config) node {
	rec := newRecorder()
	cfg.Node, cfg.Handler = id, rec
	cfg.Dial, cfg.DialSnapshot = d.For(peer.ClassRaft), d.For(peer.ClassBulk)
	tr := New(cfg)
	t.Cleanup(func() { _ = tr.Close() })
	return node{tr, rec}
}

func frameOf(group uint64, size int) *pb.RaftFrame {
	return &pb.RaftFrame{Messages: []*pb.GroupMessage{{Group: group, Message: make([]byte, size)}}}
}

func TestFramesArriveInOrder(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{FrameBytes: 4096})
	b := start(t, net, 2, Config{})
	net.Serve(t, 2, b, nil, nil)
	const n = 3000
	for i := range uint64(n) {
		a.Send(2, frameOf(i, 100))
	}
	peertest.Eventually(t, "all frames", func() bool { return b.rec.received() == n })
	for i, g := range b.rec.mu.groups {
		if g != uint64(i) {
			t.Fatalf("message %d is of group %d", i, g)
		}
	}
	if from := b.rec.mu.from[0]; from != 1 {
		t.Errorf("from node %v, want 1", from)
	}
	st := a.Stats()
	if st.FramesDropped != 0 || st.FramesSent == 0 || st.FramesSent >= n || st.BytesSent < n*100 {
		t.Errorf("stats %+v: frames were not coalesced or not counted", st)
	}
}

func TestFullQueueDropsAndReports(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{QueueFrames: 8})
	b := start(t, net, 2, Config{})
	b.rec.block = make(chan struct{})
	defer close(b.rec.block)
	net.Serve(t, 2, b, nil, nil)
	// More than queue and flow control windows hold: Send must come back all the same.
	for i := range uint64(400) {
		a.Send(2, frameOf(i, 256<<10))
	}
	peertest.Eventually(t, "a report", func() bool { return a.rec.reports(2) > 0 })
	if a.Stats().FramesDropped == 0 {
		t.Error("no drop was counted")
	}
}

func TestDownPeerIsReportedAndFoundAgain(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	b := start(t, net, 2, Config{})
	srv := net.Serve(t, 2, b, nil, nil)
	a.Send(2, frameOf(1, 1))
	peertest.Eventually(t, "first frame", func() bool { return b.rec.received() == 1 })

	srv.Stop()
	peertest.Eventually(t, "a report without sending", func() bool { return a.rec.reports(2) > 0 })

	net.Serve(t, 2, b, nil, nil)
	i := uint64(2)
	peertest.Eventually(t, "frames after the restart", func() bool {
		a.Send(2, frameOf(i, 1))
		i++
		return b.rec.received() > 1
	})
}

func TestUnknownNodeIsReported(t *testing.T) {
	a := start(t, peertest.NewNet(), 1, Config{})
	a.Send(7, frameOf(1, 1))
	a.Send(1, frameOf(1, 1))
	peertest.Eventually(t, "reports", func() bool { return a.rec.reports(7) > 0 && a.rec.reports(1) > 0 })
}

func TestOtherClusterIsRefused(t *testing.T) {
	net := peertest.NewNet()
	b := start(t, net, 2, Config{})
	net.Serve(t, 2, b, nil, nil)
	for name, id := range map[string]peer.Identity{
		"cluster":  {ClusterID: 0xbad, Node: 1},
		"own node": {ClusterID: peertest.ClusterID, Node: 2},
	} {
		stranger := startWith(t, net.DialerAs(t, id), id.Node+10, Config{})
		stranger.Send(2, frameOf(1, 1))
		peertest.Eventually(t, name+" refused", func() bool { return stranger.rec.reports(2) > 0 })
	}
	if b.rec.received() != 0 {
		t.Error("a frame of a stranger got in")
	}
	d := net.DialerAs(t, peer.Identity{ClusterID: 0xbad, Node: 1})
	conn, err := d.Conn(2, peer.ClassRaft)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pb.NewPeerClient(conn).Raft(t.Context())
	if err == nil {
		err = peer.AwaitAccepted(stream)
	}
	if !peer.Refused(err) || !strings.Contains(err.Error(), "cluster id mismatch") {
		t.Errorf("refused with %v", err)
	}
}

// corrupting flips a bit of the third message that is sent on a stream.
func corrupting(cc grpc.ClientConnInterface) grpc.ClientConnInterface { return corruptConn{cc} }

func sendSnapshot(tr *Transport, to shard.NodeID, data []byte, werr error) error {
	done := make(chan error, 2)
	tr.SendSnapshot(to, &pb.SnapshotHeader{Group: 9, Message: []byte("m")}, func(w io.Writer) error {
		for len(data) > 0 && werr == nil {
			n := min(len(data), 1+rand.N(100_000))
			if _, err := w.Write(data[:n]); err != nil {
				return err
			}
			data = data[n:]
		}
		return werr
	}, func(err error) { done <- err })
	return <-done
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestSnapshot(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{ChunkBytes: 64 << 10})
	b := start(t, net, 2, Config{})
	var got []byte
	b.rec.onSnapshot(func(from shard.NodeID, h *pb.SnapshotHeader, r io.Reader) (err error) {
		if from != 1 || h.FromNode != 1 || h.Group != 9 || string(h.Message) != "m" {
			return fmt.Errorf("header %v from %v", h, from)
		}
		got, err = io.ReadAll(r)
		return err
	})
	net.Serve(t, 2, b, nil, nil)
	for _, size := range []int{0, 1, 64 << 10, 3<<20 + 17} {
		want := randomBytes(size)
		if err := sendSnapshot(a.Transport, 2, want, nil); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes arrived as other %d", size, len(got))
		}
	}
	if st := a.Stats(); st.SnapshotsSent != 4 || st.SnapshotErrors != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestSnapshotFailures(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{ChunkBytes: 4 << 10})
	b := start(t, net, 2, Config{SnapshotsIn: 1})
	read := func(_ shard.NodeID, _ *pb.SnapshotHeader, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	b.rec.onSnapshot(read)
	net.Serve(t, 2, b, nil, nil)
	expect := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", what, err, want)
		}
	}
	expect("write fails", sendSnapshot(a.Transport, 2, nil, errors.New("disk is gone")), "disk is gone")
	expect("unknown node", sendSnapshot(a.Transport, 9, nil, nil), "no address")
	expect("self", sendSnapshot(a.Transport, 1, nil, nil), "itself")

	b.rec.onSnapshot(func(shard.NodeID, *pb.SnapshotHeader, io.Reader) error { return errors.New("not wanted") })
	expect("refused", sendSnapshot(a.Transport, 2, randomBytes(64<<20), nil), "not wanted")
	b.rec.onSnapshot(func(shard.NodeID, *pb.SnapshotHeader, io.Reader) error { return nil })
	expect("not read", sendSnapshot(a.Transport, 2, randomBytes(100), nil), "more than were read")
	b.rec.onSnapshot(read)

	d := net.Dialer(t, 3)
	evil := New(Config{Node: 3, Dial: d.For(peer.ClassRaft), ChunkBytes: 4 << 10, DialSnapshot: func(n shard.NodeID) (grpc.ClientConnInterface, error) {
		cc, err := d.Conn(n, peer.ClassBulk)
		return corrupting(cc), err
	}})
	expect("corrupted", sendSnapshot(evil, 2, randomBytes(20<<10), nil), "checksum mismatch")
	_ = evil.Close()

	entered, leave := make(chan struct{}), make(chan struct{})
	b.rec.onSnapshot(func(shard.NodeID, *pb.SnapshotHeader, io.Reader) error {
		close(entered)
		<-leave
		return errors.New("enough")
	})
	done := make(chan error, 1)
	go func() { done <- sendSnapshot(a.Transport, 2, nil, nil) }()
	<-entered // the only token is taken
	expect("too many", sendSnapshot(a.Transport, 2, nil, nil), "already")
	close(leave)
	expect("the one before", <-done, "enough")

	_ = a.Close()
	expect("closed", sendSnapshot(a.Transport, 2, nil, nil), "stopped")
}

func TestSnapshotReceiverGivesUpOnStall(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	b := start(t, net, 2, Config{SnapshotStall: 200 * time.Millisecond})
	gaveUp := make(chan struct{})
	b.rec.onSnapshot(func(_ shard.NodeID, _ *pb.SnapshotHeader, r io.Reader) error {
		defer close(gaveUp)
		_, err := io.Copy(io.Discard, r)
		return err
	})
	net.Serve(t, 2, b, nil, nil)
	done := make(chan error, 1)
	a.SendSnapshot(2, &pb.SnapshotHeader{}, func(io.Writer) error {
		select {
		case <-gaveUp:
		case <-time.After(5 * time.Second): // the header itself came too late on a busy machine
		}
		return nil
	}, func(err error) { done <- err })
	if err := <-done; err == nil || !strings.Contains(err.Error(), "no progress") {
		t.Errorf("got %v", err)
	}
}

func TestSnapshotSenderGivesUpOnStall(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{SnapshotStall: 200 * time.Millisecond})
	b := start(t, net, 2, Config{})
	release := make(chan struct{})
	b.rec.onSnapshot(func(shard.NodeID, *pb.SnapshotHeader, io.Reader) error { <-release; return nil })
	net.Serve(t, 2, b, nil, nil)
	t.Cleanup(func() { close(release) })
	if err := sendSnapshot(a.Transport, 2, make([]byte, 64<<20), nil); !errors.Is(err, errStalled) {
		t.Errorf("got %v", err)
	}
}

func TestReorderlessMerge(t *testing.T) {
	a := &pb.RaftFrame{Heartbeats: []*pb.Heartbeat{{Group: 1}}, Rounds: []*pb.ProofRound{{Seq: 1}}}
	merge(a, &pb.RaftFrame{Alive: true, Heartbeats: []*pb.Heartbeat{{Group: 2}}, Rounds: []*pb.ProofRound{{Seq: 2}}})
	if !a.Alive || len(a.Heartbeats) != 2 || a.Heartbeats[1].Group != 2 || len(a.Rounds) != 2 || a.Rounds[1].Seq != 2 {
		t.Errorf("merged to %v", a)
	}
}

// TestMessagesAreUsedAgain: what was sent is handed out for the next message, and never before.
func TestMessagesAreUsedAgain(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{FrameBytes: 2048})
	b := start(t, net, 2, Config{})
	b.rec.check = func(f *pb.RaftFrame) { // each message is the number of its group, repeated
		for _, m := range f.Messages {
			if want := bytes.Repeat([]byte{byte(m.Group)}, len(m.Message)); !bytes.Equal(m.Message, want) {
				t.Errorf("group %d: got %x", m.Group, m.Message)
			}
		}
	}
	net.Serve(t, 2, b, nil, nil)
	const senders, n = 4, 1000
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range n {
				m := pb.NewGroupMessage()
				if m.Group != 0 || len(m.Message) != 0 {
					t.Errorf("a new message of group %d with %d bytes", m.Group, len(m.Message))
				}
				m.Group = uint64(s + 1)
				m.Message = append(m.Message, bytes.Repeat([]byte{byte(m.Group)}, 1+i%300)...)
				a.Send(2, &pb.RaftFrame{Messages: []*pb.GroupMessage{m}})
			}
		})
	}
	wg.Wait()
	peertest.Eventually(t, "everything arrives", func() bool { return b.rec.received() == senders*n })
}
