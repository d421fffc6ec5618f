package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"pontoon/bench/load"
)

var (
	optMirrored = Option{
		Name: "mirrored", Usage: "have the gateways mirror what is listed, and begin once they do; 9 of 10 lists must then come from there",
		Field: func(s *Spec) any { return &s.Mirrored }, In: func(s Spec) (any, bool) { return true, s.Mirrored },
	}
	optRounds = Option{
		Name: "rounds", Usage: "how often all clients list at once, at most; 0: until --total or --duration says that it is over",
		Field: func(s *Spec) any { return &s.Rounds }, In: func(s Spec) (any, bool) { return s.Rounds, s.Rounds > 0 },
	}
)

// What a gateway mirrors at most unless it is told, and what a key takes there besides its own bytes and its value's.
const (
	mirrorSizeUsual = 1 << 30
	mirroredKeyMore = 64
)

// hitsMin is the share of lists of what is mirrored that must have come from memory: else the figures are those of something else.
const hitsMin = 0.9

func herdWorkload() Definition {
	defaults := common("list-herd", func(s *Spec) {
		s.Prefix, s.KeySpace, s.KeySize, s.ValueSize = "herd/", 100_000, 32, 1024
		s.Clients, s.Conns, s.Operations, s.Rounds = 10, 10, 0, 5
		s.Timeout = 2 * time.Minute
	})
	small := func(s *Spec) {
		s.Prefix, s.Clients, s.Conns, s.Rounds, s.Duration, s.WarmUp = "herd/", 8, 4, 3, 0, 0
	}
	ten := func(s *Spec) { s.Clients, s.Conns, s.ValueSize, s.Rounds = 10, 10, 1024, 0 }
	return Definition{
		Name:  "list-herd",
		Short: "Lists of everything by many clients at once, as after a blip of the network",
		Long: `Writes --key-space-size objects; then, --rounds times, one of them is put anew, and when that is acknowledged all --clients
list all of them at the same moment, linearizably and whole; the next round begins when the last one has its list. Latency is that
of a list, all-listed is the time until the last of a round. Every list is checked: all objects, in order, with their values, at one
revision that is not below the put's. --gateways has clients go through gateways, --mirrored has those answer from memory; what nodes
and gateways use is then told apart.

  bench list-herd --nodes 3                              # by the nodes
  bench list-herd --nodes 3 --gateways 1                 # through a gateway that reads of the nodes
  bench list-herd --nodes 3 --gateways 1 --mirrored      # through one that has all in memory
  bench list-herd --nodes 3 --gateways 1 --mirrored --vs etcd

A client holds the bytes of its list while that comes in: with the defaults 110 MB each. Processor time is known to 10 ms of each server:
few lists of few objects tell little of it.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optRounds, optGateways, optMirrored},
		Defaults: defaults,
		Brief: brief(defaults, small,
			func(s *Spec) { small(s); s.Gateways = 1 },
			func(s *Spec) { small(s); s.Gateways, s.Mirrored = 2, true }),
		Standard: standard(defaults, ten,
			func(s *Spec) { ten(s); s.Gateways = 1 },
			func(s *Spec) { ten(s); s.Gateways, s.Mirrored = 1, true }),
		check:    checkHerd,
		gateways: herdGateways,
		open:     func(e *env) workload { return &herd{base: newBase(e), known: map[int]entry{}} },
	}
}

func checkHerd(s Spec) error {
	switch {
	case s.Rounds < 0:
		return errors.New("--rounds must not be negative")
	case s.Rate > 0:
		return errors.New("--rate must be 0: all list at once")
	case s.Mirrored && s.Gateways == 0:
		return errors.New("--mirrored needs --gateways")
	case s.Mirrored && s.Prefix == "":
		return errors.New("--prefix must not be empty: it is what is mirrored")
	}
	return checkGateways(s)
}

// herdGateways are the gateways that a spec asks for.
func herdGateways(s Spec) (n int, args []string) {
	args = []string{"--mirror-auto-size=0"} // what is listed so often would be mirrored
	if s.Mirrored {
		size := max(mirrorSizeUsual, 2*s.KeySpace*(len(s.Prefix)+s.KeySize+s.ValueSize+mirroredKeyMore))
		args = []string{"--mirror-prefixes=" + s.Prefix, fmt.Sprintf("--mirror-size=%d", size)}
	}
	return s.Gateways, args
}

type herd struct {
	base
	known map[int]entry // what was acknowledged of the keys that were put between rounds
	rev   int64         // of the last of these puts

	rounds         int64
	objects, bytes atomic.Int64
	slowest        time.Duration // of each round the last list, together
	lists, hits    float64       // of what is mirrored: how many were measured, and came from memory
}

func (w *herd) kinds() []string { return []string{"list"} }

func (w *herd) prepare(ctx context.Context) error {
	if c := w.sys.info.Client; c != "" && c != "clientv3" {
		return fmt.Errorf("lists are read off connections of clientv3, and not of %s", c)
	}
	if err := w.fill(ctx); err != nil {
		return err
	}
	if !w.mirrors() {
		return nil
	}
	w.say("waiting for mirrors")
	return w.sys.awaitMirrors(ctx, w.spec.KeySpace)
}

// mirrors reports whether there are mirrors: of the kinds of servers one has them.
func (w *herd) mirrors() bool {
	return w.spec.Mirrored && w.sys.cluster != nil && len(w.sys.cluster.Gateways) > 0
}

func (w *herd) run(ctx context.Context, plan load.Plan) load.Outcome {
	w.objects.Store(0) // what came while the servers warmed up
	w.bytes.Store(0)
	before, err := w.memoryHits(ctx)
	out := load.Outcome{Began: time.Now(), Errors: map[string]int64{}}
	fail := func(err error) {
		out.Failed++
		out.Errors[err.Error()]++
	}
	if err != nil {
		fail(err)
	}
	var latency load.Stopwatch
	for w.more(ctx, plan, &out) {
		w.say(fmt.Sprintf("round %d", w.rounds+1))
		if err := w.change(ctx, plan); err != nil {
			fail(fmt.Errorf("put between rounds: %w", err))
			break
		}
		began := time.Now()
		for _, err := range w.round(ctx, plan, &latency) {
			if err != nil {
				fail(err)
				continue
			}
			out.Done++
		}
		w.slowest += time.Since(began)
	}
	out.Elapsed, out.Latency = time.Since(out.Began), latency.Summary()
	out.Next, out.Interrupted = plan.First+out.Done, ctx.Err() != nil
	after, err := w.memoryHits(ctx)
	if err != nil {
		fail(err)
	}
	w.lists, w.hits = float64(out.Done), after-before
	return out
}

// more reports whether there is another round. The first one that fails is the last.
func (w *herd) more(ctx context.Context, plan load.Plan, out *load.Outcome) bool {
	return ctx.Err() == nil && out.Failed == 0 && (w.spec.Rounds == 0 || w.rounds < int64(w.spec.Rounds)) &&
		(plan.Operations == 0 || out.Done < plan.Operations) && (plan.Duration == 0 || time.Since(out.Began) < plan.Duration)
}

func (w *herd) memoryHits(ctx context.Context) (float64, error) {
	if !w.mirrors() {
		return 0, nil
	}
	return w.sys.mirrorHits(ctx)
}

// change puts a key, which every list of the round must have.
func (w *herd) change(ctx context.Context, plan load.Plan) error {
	ctx, cancel := within(ctx, plan.Timeout)
	defer cancel()
	if err := w.put(ctx, 0, w.rounds); err != nil {
		return err
	}
	i := w.ledger.keys.pick(w.rounds)
	w.known[i] = w.ledger.at(i)
	w.rev = w.known[i].rev
	w.rounds++
	return nil
}

// within bounds a context; 0: it does not.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// round has all clients list at the same moment, and returns what came of each.
func (w *herd) round(ctx context.Context, plan load.Plan, latency *load.Stopwatch) []error {
	errs := make([]error, plan.Workers)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			<-begin
			ctx, cancel := within(ctx, plan.Timeout)
			defer cancel()
			began := time.Now()
			if _, errs[i] = w.do(ctx, i, 0); errs[i] == nil {
				latency.Add(time.Since(began))
			}
		})
	}
	close(begin)
	all.Wait()
	return errs
}

// do is one list. It is called by itself while the servers warm up.
func (w *herd) do(ctx context.Context, worker int, _ int64) (int, error) {
	keys := w.ledger.keys
	req := &etcdserverpb.RangeRequest{Key: []byte(keys.at(0)), RangeEnd: []byte(keys.end(keys.space - 1))}
	in := &herdList{w: w}
	conn := w.clients[worker%len(w.clients)].ActiveConnection()
	err := conn.Invoke(ctx, "/etcdserverpb.KV/Range", req, in, grpc.ForceCodecV2(listCodec{}), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err == nil {
		err = in.check()
	}
	if err != nil {
		return 0, err
	}
	w.objects.Add(int64(in.next))
	w.bytes.Add(in.bytes)
	return 0, nil
}

func (w *herd) report(r *Run) {
	if w.rounds == 0 || r.Operations == 0 {
		return
	}
	r.figure("objects/s", float64(w.objects.Load())/r.Elapsed.Seconds())
	r.figure("B/s", float64(w.bytes.Load())/r.Elapsed.Seconds())
	r.figure("list-B", float64(w.bytes.Load())/float64(r.Operations))
	r.figure("all-listed-µs", float64(w.slowest.Microseconds())/float64(w.rounds))
	if w.mirrors() {
		r.figure("lists-of-ranges/op", max(0, w.lists-w.hits)/w.lists)
	}
}

func (w *herd) verify(ctx context.Context) ([]string, error) {
	wrong, err := w.base.verify(ctx)
	if w.mirrors() && w.hits < hitsMin*w.lists {
		wrong = append(wrong, fmt.Sprintf("only %.0f of %.0f lists came from the memory of gateways", w.hits, w.lists))
	}
	return wrong, err
}

// herdList is one list on its way in. It is read off the message as it comes and never held as objects: what is measured are the servers, on the same
// processors.
type herdList struct {
	w      *herd
	header etcdserverpb.ResponseHeader
	kv     mvccpb.KeyValue // the one that is looked at
	buf    []byte
	next   int   // index of the object that comes next
	newest int64 // revision of an object
	bytes  int64
	count  int64
	more   bool
}

// check looks at a list that is there, whole.
func (l *herdList) check() error {
	switch {
	case l.next != l.w.spec.KeySpace:
		return wrongCount(l.next, l.w.spec.KeySpace)
	case l.count != int64(l.w.spec.KeySpace) || l.more:
		return fmt.Errorf("wrong answer: all of %d keys, and it says that there are %d, more: %v", l.next, l.count, l.more)
	case l.header.Revision < l.w.rev:
		return fmt.Errorf("wrong answer: a list at revision %d after revision %d was acknowledged", l.header.Revision, l.w.rev)
	case l.header.Revision < l.newest:
		return fmt.Errorf("wrong answer: a list at revision %d has a key of revision %d", l.header.Revision, l.newest)
	}
	return nil
}

// Fields of a RangeResponse and of a KeyValue.
const (
	fieldHeader, fieldKvs, fieldMore, fieldCount = 1, 2, 3, 4
	fieldKey, fieldModRevision, fieldValue       = 1, 3, 5
)

// listReader is a message that came.
type listReader interface {
	io.Reader
	io.ByteReader
	Remaining() int
}

// read takes an encoded RangeResponse.
func (l *herdList) read(in listReader) error {
	l.bytes = int64(in.Remaining())
	for in.Remaining() > 0 {
		tag, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		v, err := binary.ReadUvarint(in)
		if err != nil {
			return err
		}
		switch num, kind := protowire.DecodeTag(tag); {
		case kind == protowire.VarintType && num == fieldMore:
			l.more = v != 0
		case kind == protowire.VarintType && num == fieldCount:
			l.count = int64(v)
		case kind == protowire.BytesType && v <= uint64(in.Remaining()):
			if err := l.field(in, num, int(v)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("field %d of an answer is malformed", num)
		}
	}
	return nil
}

func (l *herdList) field(in io.Reader, num protowire.Number, size int) error {
	if cap(l.buf) < size {
		l.buf = make([]byte, size)
	}
	l.buf = l.buf[:size]
	if _, err := io.ReadFull(in, l.buf); err != nil {
		return err
	}
	switch num {
	case fieldHeader:
		return proto.Unmarshal(l.buf, &l.header)
	case fieldKvs:
		return l.object(l.buf)
	}
	return fmt.Errorf("an answer has a field %d", num)
}

// object takes the next encoded KeyValue.
func (l *herdList) object(b []byte) error {
	l.kv.Key, l.kv.Value, l.kv.ModRevision = nil, nil, 0
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, kind, b); n < 0 {
			return protowire.ParseError(n)
		}
		switch {
		case num == fieldKey && kind == protowire.BytesType:
			l.kv.Key, _ = protowire.ConsumeBytes(b)
		case num == fieldValue && kind == protowire.BytesType:
			l.kv.Value, _ = protowire.ConsumeBytes(b)
		case num == fieldModRevision && kind == protowire.VarintType:
			rev, _ := protowire.ConsumeVarint(b)
			l.kv.ModRevision = int64(rev)
		}
		b = b[n:]
	}
	if err := l.w.ledger.vet(&l.kv, l.next, l.w.known[l.next], false); err != nil {
		return fmt.Errorf("wrong answer: %w", err)
	}
	l.newest = max(l.newest, l.kv.ModRevision)
	l.next++
	return nil
}

// listCodec sends messages as they always are, and hands an answer to a herdList.
type listCodec struct{}

// Marshal implements encoding.CodecV2.
func (listCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal implements encoding.CodecV2.
func (listCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in := data.Reader()
	defer func() { _ = in.Close() }() // never fails
	return v.(*herdList).read(in)
}

// Name implements encoding.CodecV2.
func (listCodec) Name() string { return "proto" }
