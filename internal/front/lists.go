package front

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/peer"

	"pontoon/internal/pb"
	"pontoon/internal/token"
	"pontoon/internal/underway"
	"pontoon/shard"
	"pontoon/shard/router"
)

// What a list is taken to need, where nothing is known of it.
const (
	unknownListBytes = 16 << 20
	unknownKeyBytes  = 2 << 10
)

// smallListBytes is up to where a list is no large one: it waits for nobody.
const smallListBytes = 64 << 10

// lists lets large lists begin as there is room for them, whoever puts them together.
type lists struct {
	room  *underway.Lists
	who   func(ctx context.Context) string
	sizes listSizes
}

// read puts a list together with read, when there is room for it.
func (l *lists) read(ctx context.Context, op *pb.RangeOp, read func(ctx context.Context) (*router.RangeResult, error)) (*router.RangeResult, error) {
	if op.CountOnly || shard.FromEtcd(op.Key, op.RangeEnd).IsPoint() {
		return read(ctx)
	}
	key := listKey(op)
	about := l.estimate(op, key)
	if about <= smallListBytes {
		var small tally
		res, err := read(router.WithMeter(ctx, &small))
		if err == nil {
			l.sizes.note(key, small.Load()) // it may have grown
		}
		return res, err
	}
	in, err := l.room.Enter(ctx, l.who(ctx), about)
	if err != nil {
		return nil, err
	}
	defer in.Leave()
	res, err := read(router.WithMeter(ctx, in))
	if err == nil {
		l.sizes.note(key, in.Taken())
	}
	return res, err
}

// tally is a meter that only counts.
type tally struct{ atomic.Int64 }

// Took implements router.Meter.
func (t *tally) Took(_ context.Context, bytes int64) error {
	t.Add(bytes)
	return nil
}

// estimate is what an answer takes: as much as the last one to the same request, else what its limit bounds, else a guess.
func (l *lists) estimate(op *pb.RangeOp, key string) int64 {
	if bytes, ok := l.sizes.of(key); ok {
		return bytes
	}
	if op.Limit > 0 {
		return min(op.Limit*unknownKeyBytes, unknownListBytes)
	}
	return unknownListBytes
}

// listKey tells requests apart by what makes their answers large or small.
func listKey(op *pb.RangeOp) string {
	return strconv.Itoa(len(op.Key)) + ":" + string(op.Key) + string(op.RangeEnd) + ":" + strconv.FormatInt(op.Limit, 10) + ":" + strconv.FormatBool(op.KeysOnly)
}

// listSizesMax and listSizeKeyMax bound what is remembered of lists.
const (
	listSizesMax   = 512
	listSizeKeyMax = 1 << 10
)

// listSizes remembers what lists have taken: the latest, and as many before them. The zero value is ready.
type listSizes struct {
	mu          sync.Mutex
	now, before map[string]int64
}

func (s *listSizes) of(key string) (bytes int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bytes, ok = s.now[key]; !ok {
		bytes, ok = s.before[key]
	}
	return bytes, ok
}

func (s *listSizes) note(key string, bytes int64) {
	if len(key) > listSizeKeyMax {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.now) >= listSizesMax {
		s.before, s.now = s.now, nil
	}
	if s.now == nil {
		s.now = make(map[string]int64)
	}
	s.now[key] = bytes
}

// asks tells who a request is from: its user, where there are any, else its connection.
func asks(access access, tokens *token.Tokens) func(ctx context.Context) string {
	return func(ctx context.Context) string {
		if v := access.View(); v.Enabled() {
			if w, err := tokens.Who(ctx, v); err == nil && w.Name != "" {
				return "user " + w.Name
			}
		}
		if p, ok := peer.FromContext(ctx); ok {
			return p.Addr.String()
		}
		return ""
	}
}
