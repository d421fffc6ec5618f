package peerrpc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/mutate"
	"pontoon/internal/mutate/mutatetest"
	"pontoon/internal/patience"
	"pontoon/internal/pb"
	"pontoon/internal/peer"
	"pontoon/internal/peer/peertest"
	"pontoon/shard"
)

func TestMain(m *testing.M) {
	flag.Parse()
	mutate.Set(*mutatetest.Mutant)
	goleak.VerifyTestMain(m)
}

// TestMutants: the rule of detours that is taken out is noticed.
func TestMutants(t *testing.T) {
	mutatetest.Each(t, []string{mutate.DetourStays}, time.Minute, mutatetest.NoticedBy, "-test.failfast", "-test.run=Detour")
}

func start(t testing.TB, net *peertest.Net, id shard.NodeID, cfg Config) *Mesh {
	return startWith(t, net.Dialer(t, id), id, cfg)
}

func startWith(t testing.TB, d *peer.Dialer, id shard.NodeID, cfg Config) *Mesh {
	cfg.Node, cfg.Dial, cfg.DialFeed = id, d.For(peer.ClassCalls), d.For(peer.ClassFeed)
	m := New(cfg)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// echo answers an oracle request with its count as the revision.
func echo(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
	reply(&pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: int64(req.Oracle.Count)}})
}

func ask(n uint32) *pb.PeerRequest { return &pb.PeerRequest{Oracle: &pb.OracleRequest{Count: n}} }

func TestCall(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{Handler: echo})
	b := start(t, net, 2, Config{Handler: func(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		if req.Oracle.Count == 13 {
			go reply(&pb.PeerResponse{Error: pb.ErrorToPB(&shard.NotLeaderError{Range: 4, Leader: 3, Term: uint64(from)})})
			return
		}
		echo(ctx, from, req, reply)
	}})
	net.Serve(t, 2, nil, b, nil)
	for _, to := range []shard.NodeID{1, 2} { // local, remote
		resp, err := a.Call(t.Context(), to, ask(7))
		if err != nil || resp.Oracle.Revision != 7 {
			t.Errorf("node %v: %v, %v", to, resp, err)
		}
	}
	_, err := a.Call(t.Context(), 2, ask(13))
	var nl *shard.NotLeaderError
	if !errors.As(err, &nl) || nl.Leader != 3 || nl.Term != 1 || nl.Range != 4 {
		t.Errorf("error came as %v", err)
	}
	if st := a.Stats(); st.LocalCalls != 1 || st.CallsSent != 2 || st.StreamsOpened != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestCallsAreGathered(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	b := start(t, net, 2, Config{Handler: echo})
	net.Serve(t, 2, nil, b, nil)
	const n = 20_000
	var wg sync.WaitGroup
	var bad atomic.Int64
	for i := range n {
		wg.Add(1)
		a.CallFunc(context.Background(), 2, ask(uint32(i)), func(resp *pb.PeerResponse, err error) {
			if err != nil || resp.Oracle.Revision != int64(i) {
				bad.Add(1)
			}
			wg.Done()
		})
	}
	wg.Wait()
	if bad.Load() != 0 {
		t.Errorf("%d calls got the wrong answer", bad.Load())
	}
	sa, sb := a.Stats(), b.Stats()
	if sa.CallsSent != n || sa.FramesSent > n/4 || sb.CallsServed != n || sb.AnswerFrames > n/2 {
		t.Errorf("not gathered: client %+v, server %+v", sa, sb)
	}
}

// TestAnswersAreHandedOutFirst: what is asked while the answers of a frame are handed out leaves in
// one frame after them; who hands out at the same time does not hold it back any longer.
func TestAnswersAreHandedOutFirst(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	b := start(t, net, 2, Config{Handler: echo})
	net.Serve(t, 2, nil, b, nil)
	var wg sync.WaitGroup
	a.busy.Add(2)
	const n = 100
	for i := range n {
		wg.Add(1)
		a.CallFunc(t.Context(), 2, ask(uint32(i)), func(*pb.PeerResponse, error) { wg.Done() })
	}
	if st := a.Stats(); st.FramesSent != 0 {
		t.Errorf("%d frames on the way", st.FramesSent)
	}
	a.handedOut()
	wg.Wait()
	if st := a.Stats(); st.FramesSent != 1 || st.CallsSent != n {
		t.Errorf("%+v", st)
	}
	a.handedOut()
}

// TestTell: what is told arrives, in order with calls, and is not answered.
func TestTell(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{Handler: echo})
	var told atomic.Int64
	b := start(t, net, 2, Config{Handler: func(ctx context.Context, from shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		if req.Close != nil {
			told.Add(req.Close.Revision)
			reply(&pb.PeerResponse{Empty: &pb.Empty{}})
			return
		}
		echo(ctx, from, req, reply)
	}})
	net.Serve(t, 2, nil, b, nil)
	for range 100 {
		a.Tell(2, &pb.PeerRequest{Close: &pb.CloseRequest{Revision: 1}})
	}
	if resp, err := a.Call(t.Context(), 2, ask(7)); err != nil || resp.Oracle.Revision != 7 {
		t.Fatalf("%v, %v", resp, err)
	}
	if n := told.Load(); n != 100 {
		t.Errorf("%d of 100 have arrived", n)
	}
	if sa, sb := a.Stats(), b.Stats(); sa.CallsSent != 101 || sb.CallsServed != 101 || sb.AnswerFrames != 1 {
		t.Errorf("client %+v, server %+v", sa, sb)
	}
	a.Tell(1, &pb.PeerRequest{Oracle: &pb.OracleRequest{}})
	a.Tell(3, &pb.PeerRequest{Close: &pb.CloseRequest{Revision: 1}}) // nobody is there
}

func TestHints(t *testing.T) {
	net := peertest.NewNet()
	learn := func(dst *sync.Map) func(shard.NodeID, int64, uint64) {
		return func(from shard.NodeID, rev int64, epoch uint64) { dst.Store(from, fmt.Sprint(rev, epoch)) }
	}
	var atA, atB sync.Map
	a := start(t, net, 1, Config{Hints: func() (int64, uint64) { return 50, 5 }, Learn: learn(&atA)})
	b := start(t, net, 2, Config{Hints: func() (int64, uint64) { return 60, 6 }, Learn: learn(&atB), Handler: echo})
	net.Serve(t, 2, nil, b, nil)
	if _, err := a.Call(t.Context(), 2, ask(1)); err != nil {
		t.Fatal(err)
	}
	if v, _ := atA.Load(shard.NodeID(2)); v != "60 6" {
		t.Errorf("the caller learned %v", v)
	}
	if v, _ := atB.Load(shard.NodeID(1)); v != "50 5" {
		t.Errorf("the callee learned %v", v)
	}
}

func TestUnreachableIsUnavailable(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	net.Set(2, "127.0.0.1:1") // nobody listens
	for _, to := range []shard.NodeID{2, 9} {
		_, err := a.Call(t.Context(), to, ask(1))
		if !errors.Is(err, shard.ErrUnavailable) || errors.Is(err, shard.ErrAmbiguous) {
			t.Errorf("node %v: %v", to, err)
		}
	}
	b := start(t, net, 3, Config{Handler: echo})
	net.Serve(t, 3, nil, b, nil)
	stranger := startWith(t, net.DialerAs(t, peer.Identity{ClusterID: 0xbad, Node: 1}), 1, Config{})
	_, err := stranger.Call(t.Context(), 3, ask(1))
	if !errors.Is(err, shard.ErrUnavailable) || !strings.Contains(err.Error(), "cluster id mismatch") {
		t.Errorf("another cluster: %v", err)
	}
}

func TestBrokenConnectionIsAmbiguousAtOnce(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	arrived := make(chan struct{}, 1)
	b := start(t, net, 2, Config{Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) { arrived <- struct{}{} }})
	srv := net.Serve(t, 2, nil, b, nil)
	errs := make(chan error, 1)
	a.CallFunc(context.Background(), 2, ask(1), func(_ *pb.PeerResponse, err error) { errs <- err })
	<-arrived
	begin := time.Now()
	srv.Stop()
	if err := <-errs; !errors.Is(err, shard.ErrAmbiguousConnection) || errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("in flight: %v", err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("noticed only after %v", d)
	}
	if _, err := a.Call(t.Context(), 2, ask(1)); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("afterwards: %v", err)
	}
	net.Serve(t, 2, nil, start(t, net, 2, Config{Handler: echo}), nil)
	begin = time.Now()
	peertest.Eventually(t, "calls after the restart", func() bool {
		_, err := a.Call(t.Context(), 2, ask(1))
		return err == nil
	})
	if d := time.Since(begin); d > time.Second {
		t.Errorf("found again only after %v", d)
	}
}

// TestFarewell: of a node that stops cleanly everybody knows what it has done: what it has begun is answered, and what it has not
// begun is certain not to have been.
func TestFarewell(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	var begun sync.Map
	var n atomic.Int64
	b := start(t, net, 2, Config{Handler: func(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		begun.Store(req.Oracle.Count, true)
		n.Add(1)
		time.AfterFunc(time.Duration(req.Oracle.Count%20)*time.Millisecond, func() { reply(&pb.PeerResponse{Oracle: &pb.OracleResponse{Revision: int64(req.Oracle.Count)}}) })
	}})
	srv := net.Serve(t, 2, nil, b, nil)
	var wg sync.WaitGroup
	var answered, refused atomic.Int64
	stop, room := make(chan struct{}), make(chan struct{}, 200)
	for w := range uint32(8) {
		wg.Go(func() {
			for i := uint32(0); ; i++ {
				select {
				case <-stop:
					return
				case room <- struct{}{}:
				}
				id := i*8 + w
				wg.Add(1)
				a.CallFunc(t.Context(), 2, ask(id), func(_ *pb.PeerResponse, err error) {
					defer wg.Done()
					<-room
					_, there := begun.Load(id)
					switch {
					case err == nil:
						answered.Add(1)
					case !errors.Is(err, shard.ErrUnavailable) || there:
						t.Errorf("call %d: begun %v, %v", id, there, err)
					default:
						refused.Add(1)
					}
				})
			}
		})
	}
	peertest.Eventually(t, "it is busy", func() bool { return n.Load() > 500 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b.Farewell(ctx)
	srv.Stop()
	peertest.Eventually(t, "some hear of it", func() bool { return refused.Load() > 100 })
	close(stop)
	wg.Wait()
	if answered.Load() != n.Load() || refused.Load() == 0 {
		t.Errorf("%d begun, %d answered, %d refused", n.Load(), answered.Load(), refused.Load())
	}
}

// TestFarewellHasAnEnd: what is never answered is in doubt then, as with any connection that breaks.
func TestFarewellHasAnEnd(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	arrived := make(chan struct{}, 1)
	b := start(t, net, 2, Config{Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) { arrived <- struct{}{} }})
	net.Serve(t, 2, nil, b, nil)
	errs := make(chan error, 1)
	a.CallFunc(context.Background(), 2, ask(1), func(_ *pb.PeerResponse, err error) { errs <- err })
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	b.Farewell(ctx)
	if err := <-errs; !errors.Is(err, shard.ErrAmbiguousConnection) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := a.Call(t.Context(), 2, ask(2)); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCancelledCalls(t *testing.T) {
	net := peertest.NewNet()
	var handler context.Context
	arrived := make(chan struct{}, 1)
	mute := func(ctx context.Context, _ shard.NodeID, _ *pb.PeerRequest, _ func(*pb.PeerResponse)) {
		handler = ctx
		arrived <- struct{}{}
	}
	a, b := start(t, net, 1, Config{Handler: mute}), start(t, net, 2, Config{Handler: mute})
	net.Serve(t, 2, nil, b, nil)
	for _, to := range []shard.NodeID{1, 2} {
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		a.CallFunc(ctx, to, ask(1), func(_ *pb.PeerResponse, err error) { errs <- err })
		<-arrived
		cancel()
		if err := <-errs; !errors.Is(err, shard.ErrAmbiguous) || !errors.Is(err, context.Canceled) {
			t.Errorf("node %v, cancelled: %v", to, err)
		}
		_, err := a.Call(ctx, to, ask(1))
		if !errors.Is(err, shard.ErrTimeout) || errors.Is(err, shard.ErrAmbiguous) {
			t.Errorf("node %v, cancelled before: %v", to, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.Call(ctx, 2, ask(1)); !errors.Is(err, shard.ErrAmbiguousTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timed out: %v", err)
	}
	<-arrived
	<-handler.Done() // the deadline has travelled
	if err := handler.Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the handler's context ended with %v", err)
	}
}

// TestCallsEndByTheirDeadline: a context that tells nobody of its end ends its calls all the same,
// those that were sent and those that wait.
func TestCallsEndByTheirDeadline(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{SilenceTick: 10 * time.Millisecond, OpenTimeout: time.Minute})
	asked := make(chan struct{}, 20)
	b := start(t, net, 2, Config{Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) { asked <- struct{}{} }})
	net.Serve(t, 2, nil, b, nil)
	net.Set(3, silentListener(t))
	ends := func(node shard.NodeID, after time.Duration) (sent bool, err error) {
		wait, cancel := context.WithTimeout(t.Context(), after)
		defer cancel()
		until := patience.UntilEndOf(wait)
		got := make(chan error, 1)
		a.CallFunc(&until, node, ask(1), func(_ *pb.PeerResponse, err error) { got <- err })
		select {
		case err = <-got:
		case <-asked:
			sent, err = true, <-got
		}
		if wait.Err() == nil {
			t.Errorf("node %v: it ended before its time: %v", node, err)
		}
		return sent, err
	}
	if _, err := ends(3, 50*time.Millisecond); !errors.Is(err, shard.ErrTimeout) {
		t.Errorf("one that waits: %v", err)
	}
	after := 50 * time.Millisecond
	sent, err := ends(2, after)
	for ; !sent && after < time.Minute; sent, err = ends(2, after) { // a busy machine had no time to send it
		after *= 2
	}
	if !sent || !errors.Is(err, shard.ErrAmbiguous) {
		t.Errorf("one that was sent (%v): %v", sent, err)
	}
}

func TestCallWaitingForAPeerThatDoesNotAnswer(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{OpenTimeout: time.Minute})
	net.Set(2, silentListener(t))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Call(ctx, 2, ask(1)); !errors.Is(err, shard.ErrTimeout) || errors.Is(err, shard.ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
	b := start(t, net, 3, Config{OpenTimeout: 50 * time.Millisecond})
	if _, err := b.Call(t.Context(), 2, ask(1)); !errors.Is(err, shard.ErrUnavailable) || errors.Is(err, shard.ErrAmbiguous) {
		t.Errorf("got %v", err)
	}
}

// While a peer does not answer, one call waits for it and the others may go elsewhere.
func TestOneCallWaitsForASuspect(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{OpenTimeout: time.Minute})
	net.Set(2, silentListener(t))
	a.conn(2).setState(true, false)
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	a.CallFunc(ctx, 2, ask(1), func(_ *pb.PeerResponse, err error) { waits <- err })
	if _, err := a.Call(t.Context(), 2, ask(1)); !errors.Is(err, shard.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("the second call: %v", err)
	}
	select {
	case err := <-waits:
		t.Errorf("the first call did not wait: %v", err)
	default:
	}
	cancel()
	if err := <-waits; !errors.Is(err, context.Canceled) {
		t.Errorf("the first call, given up: %v", err)
	}
}

func TestLimits(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{CallsMax: 3, BytesMax: 1000})
	b := start(t, net, 2, Config{Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) {}})
	net.Serve(t, 2, nil, b, nil)
	errs := make(chan error, 10)
	send := func(size int) {
		req := &pb.PeerRequest{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Value: make([]byte, size)}}}}
		a.CallFunc(context.Background(), 2, req, func(_ *pb.PeerResponse, err error) { errs <- err })
	}
	send(5000) // alone, any size is let in
	send(1)
	if err := <-errs; !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("bytes: %v", err)
	}
	c := start(t, net, 3, Config{CallsMax: 3})
	for range 4 {
		c.CallFunc(context.Background(), 2, ask(1), func(_ *pb.PeerResponse, err error) { errs <- err })
	}
	if err := <-errs; !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("calls: %v", err)
	}
	_ = a.Close()
	if err := <-errs; !errors.Is(err, shard.ErrAmbiguous) && !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("close: %v", err)
	}
	send(1)
	if err := <-errs; !errors.Is(err, shard.ErrUnavailable) || !errors.Is(err, shard.ErrStopped) {
		t.Errorf("closed: %v", err)
	}
}

// TestUnknownNodes: a call to a node of which nobody has heard fails at once, and leaves nothing behind.
func TestUnknownNodes(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	for id := shard.NodeID(100); id < 200; id++ {
		a.Tell(id, ask(1))
		if _, err := a.Call(t.Context(), id, ask(1)); !errors.Is(err, shard.ErrUnavailable) || !errors.Is(err, peer.ErrUnknownNode) {
			t.Fatalf("node %v: %v", id, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.mu.conns); n != 0 {
		t.Errorf("%d connections to nobody", n)
	}
}

// TestTellIsBounded: what is told to a node that takes nothing holds no more bytes than calls may.
func TestTellIsBounded(t *testing.T) {
	net := peertest.NewNet()
	net.Set(2, silentListener(t))
	a := start(t, net, 1, Config{BytesMax: 10_000, OpenTimeout: time.Minute})
	for range 100 {
		a.Tell(2, &pb.PeerRequest{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Value: make([]byte, 1000)}}}})
	}
	if n := a.Stats().CallsRefused; n < 90 || n > 92 {
		t.Errorf("%d of 100 were refused, want those beyond 10 000 bytes", n)
	}
	a.CallFunc(t.Context(), 2, ask(1), func(*pb.PeerResponse, error) {}) // calls have their own bound
	if n := a.Stats().CallsRefused; n > 92 {
		t.Error("a call was refused for what is told")
	}
}

func TestServerLimitsAndMissingHandler(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	net.Serve(t, 3, nil, start(t, net, 3, Config{}), nil)
	if _, err := a.Call(t.Context(), 3, ask(1)); !errors.Is(err, shard.ErrUnavailable) {
		t.Errorf("no handler: %v", err)
	}
	b := start(t, net, 2, Config{CallsMax: 2, Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) {}})
	net.Serve(t, 2, nil, b, nil)
	errs := make(chan error, 3)
	for range 3 {
		a.CallFunc(context.Background(), 2, ask(1), func(_ *pb.PeerResponse, err error) { errs <- err })
	}
	if err := <-errs; !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("third call: %v", err)
	}
}

// TestServerBytesMax: the requests of one peer that are being served hold no more bytes than they may, whatever the
// peer itself takes for its bound; what has been answered counts no more.
func TestServerBytesMax(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{})
	replies := make(chan func(*pb.PeerResponse), 10)
	b := start(t, net, 2, Config{BytesMax: 10_000, Handler: func(_ context.Context, _ shard.NodeID, _ *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		replies <- reply
	}})
	net.Serve(t, 2, nil, b, nil)
	errs := make(chan error, 10)
	send := func(size int) {
		req := &pb.PeerRequest{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Value: make([]byte, size)}}}}
		a.CallFunc(context.Background(), 2, req, func(_ *pb.PeerResponse, err error) { errs <- err })
	}
	send(50_000) // alone, any size is let in
	first := <-replies
	send(1)
	if err := <-errs; !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("behind a large one: %v", err)
	}
	first(&pb.PeerResponse{Empty: &pb.Empty{}})
	if err := <-errs; err != nil {
		t.Error(err)
	}
	for range 3 {
		send(4000)
	}
	if err := <-errs; !errors.Is(err, shard.ErrTooManyRequests) {
		t.Errorf("the third of three: %v", err)
	}
	for range 2 {
		(<-replies)(&pb.PeerResponse{Empty: &pb.Empty{}})
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := b.Stats().ServedRefused; n != 2 {
		t.Errorf("%d calls were refused", n)
	}
	for range 2 { // nothing is counted for ever
		send(4000)
		<-replies
	}
}

func TestLargeMessages(t *testing.T) {
	net := peertest.NewNet()
	a := start(t, net, 1, Config{BytesMax: 64 << 20, SilenceTick: time.Minute})
	b := start(t, net, 2, Config{BytesMax: 1 << 20, SilenceTick: time.Minute, Handler: func(_ context.Context, _ shard.NodeID, req *pb.PeerRequest, reply func(*pb.PeerResponse)) {
		reply(&pb.PeerResponse{Read: &pb.ReadResponse{Resume: req.Write.Op.Put.Value}})
	}})
	net.Serve(t, 2, nil, b, nil)
	peertest.Eventually(t, "a connection", func() bool {
		_, err := a.Call(t.Context(), 2, &pb.PeerRequest{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{}}}})
		return err == nil
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			v := make([]byte, 9<<20)
			v[len(v)-1] = 1
			resp, err := a.Call(t.Context(), 2, &pb.PeerRequest{Write: &pb.WriteRequest{Op: &pb.Op{Put: &pb.PutOp{Value: v}}}})
			if err != nil || len(resp.Read.Resume) != len(v) || resp.Read.Resume[len(v)-1] != 1 {
				t.Errorf("large call: %v", err)
			}
		})
	}
	wg.Wait()
}

// frozen is a connection that stops to deliver what the peer says, as if it had been stopped.
type frozen struct {
	grpc.ClientConnInterface
	stop chan struct{}
}

func (f frozen) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := f.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	return frozenStream{s, f.stop}, err
}

type frozenStream struct {
	grpc.ClientStream
	stop chan struct{}
}

func (s frozenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	select {
	case <-s.stop:
		<-s.Context().Done()
		return s.Context().Err()
	default:
		return err
	}
}

func TestSilentPeerIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		name         string
		acknowledged func(asked int) (time.Duration, bool)
		asked        int // how often before it is given up
	}{
		{"nobody knows", func(int) (time.Duration, bool) { return 0, false }, 1},
		{"its system is silent too", func(int) (time.Duration, bool) { return time.Hour, true }, 1},
		{"its system is there", func(int) (time.Duration, bool) { return 0, true }, busyTicks - deadTicks},
		{"its system was there", func(n int) (time.Duration, bool) { return time.Duration(n/3) * time.Hour, true }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			if asked := silentPeer(t, c.acknowledged); asked != c.asked {
				t.Errorf("given up at the %d. look, want the %d.", asked, c.asked)
			}
		})
	}
}

func silentPeer(t *testing.T, acknowledged func(int) (time.Duration, bool)) (asked int) {
	net := peertest.NewNet()
	d := net.Dialer(t, 1)
	stop := make(chan struct{})
	var looks atomic.Int32
	a := New(Config{Node: 1, SilenceTick: 20 * time.Millisecond, Dial: func(n shard.NodeID) (grpc.ClientConnInterface, error) {
		cc, err := d.Conn(n, peer.ClassCalls)
		return frozen{cc, stop}, err
	}, Acknowledged: func(shard.NodeID) (time.Duration, bool) { return acknowledged(int(looks.Add(1))) }})
	t.Cleanup(func() { _ = a.Close() })
	b := start(t, net, 2, Config{Handler: func(context.Context, shard.NodeID, *pb.PeerRequest, func(*pb.PeerResponse)) {}})
	net.Serve(t, 2, nil, b, nil)

	// A peer that is alive and slow answers the probes: nothing is given up.
	ctx, cancel := context.WithTimeout(t.Context(), 20*20*time.Millisecond)
	defer cancel()
	if _, err := a.Call(ctx, 2, ask(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow peer: %v", err)
	}
	close(stop)
	if _, err := a.Call(t.Context(), 2, ask(1)); !errors.Is(err, shard.ErrAmbiguousConnection) || !errors.Is(err, errSilent) {
		t.Errorf("a silent peer: %v", err)
	}
	return int(looks.Load())
}

// TestLink: what either end says reaches the other in order, and each hears when the other ends the link.
func TestLink(t *testing.T) {
	net := peertest.NewNet()
	over := make(chan error, 10)
	serve := func(ctx context.Context, from shard.NodeID, l LinkSource) error {
		for {
			req, err := l.Recv()
			if err != nil {
				over <- err
				return err
			}
			if from != 1 || req.Subscribe[0] == 0 {
				return errors.New("refused")
			}
			for i := range req.Subscribe[0] {
				if err := l.Send(&pb.LinkFrame{Messages: []*pb.LinkMessage{{Ended: i + 1}}}); err != nil {
					return err
				}
			}
		}
	}
	a, b := start(t, net, 1, Config{}), start(t, net, 2, Config{Link: serve})
	net.Serve(t, 2, nil, b, nil)
	net.Serve(t, 3, nil, start(t, net, 3, Config{}), nil)
	enough := errors.New("enough")
	ask := func(n uint64) func(context.Context, Link) error {
		return func(_ context.Context, l Link) error {
			if err := l.Send(&pb.LinkRequest{Subscribe: []uint64{n}}); err != nil {
				return err
			}
			for i := range max(n, 1) {
				fr, err := l.Recv()
				if err != nil {
					return err
				}
				if fr.Messages[0].Ended != i+1 {
					return fmt.Errorf("frame %d is %d", i, fr.Messages[0].Ended)
				}
			}
			return enough
		}
	}
	if err := a.OpenLink(t.Context(), 2, ask(100)); !errors.Is(err, enough) {
		t.Errorf("used: %v", err)
	}
	if err := <-over; status.Code(err) != codes.Canceled {
		t.Errorf("the source hears %v", err)
	}
	if err := a.OpenLink(t.Context(), 2, ask(0)); !errors.Is(err, shard.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("ended by the source: %v", err)
	}
	for _, to := range []shard.NodeID{1, 3, 9} {
		if err := a.OpenLink(t.Context(), to, ask(1)); !errors.Is(err, shard.ErrUnavailable) {
			t.Errorf("node %v has no links: %v", to, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err := a.OpenLink(ctx, 2, func(ctx context.Context, l Link) error {
		cancel(enough)
		_, err := l.Recv()
		return err
	})
	if !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkCallFunc(b *testing.B) {
	net := peertest.NewNet()
	client := start(b, net, 1, Config{})
	srv := start(b, net, 2, Config{Handler: echo})
	net.Serve(b, 2, nil, srv, nil)
	b.ReportAllocs()
	window := make(chan struct{}, 512)
	for b.Loop() {
		window <- struct{}{}
		client.CallFunc(context.Background(), 2, ask(1), func(*pb.PeerResponse, error) { <-window })
	}
	for range cap(window) {
		window <- struct{}{}
	}
	st := client.Stats()
	b.ReportMetric(float64(st.CallsSent)/float64(st.FramesSent), "calls/frame")
}
