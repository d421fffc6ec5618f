package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// This file writes keys before a run, as somebody would who loads a new cluster: so many transactions at once, and what the servers
// did not get to is tried again after a pause.

const (
	// prepareWorkers is how many transactions are on the way at once.
	prepareWorkers = 32
	// preparePause is before a second try. It doubles up to preparePauseMax, and preparePatience bounds all tries together.
	preparePause, preparePauseMax, preparePatience = retryPause, 2 * time.Second, 2 * time.Minute
)

// prepare writes every key once, in transactions of consecutive keys.
func (l *ledger) prepare(ctx context.Context, kvs []clientv3.KV) error {
	return l.prepareBy(ctx, kvs, max(1, min(100, (512<<10)/(l.values.size+l.keys.size))))
}

// prepareBy is prepare with so many keys each. They are written from as many places at once as there are workers, for all
// servers to take part: keys in a row would be in one range or two.
func (l *ledger) prepareBy(ctx context.Context, kvs []clientv3.KV, batch int) error {
	stretch := ((l.keys.space+batch-1)/batch + prepareWorkers - 1) / prepareWorkers
	err := forEach(ctx, prepareWorkers, prepareWorkers*stretch, func(ctx context.Context, worker, i int) error {
		first := (i%prepareWorkers*stretch + i/prepareWorkers) * batch
		if first >= l.keys.space { // the last place has fewer
			return nil
		}
		return l.prepareBatch(ctx, kvs[worker%len(kvs)], first, min(first+batch, l.keys.space))
	})
	if err != nil {
		return fmt.Errorf("prepare keys: %w", err)
	}
	return nil
}

func (l *ledger) prepareBatch(ctx context.Context, kv clientv3.KV, first, end int) error {
	began := time.Now()
	for pause := preparePause; ; pause = min(2*pause, preparePauseMax) {
		rev, err := l.prepareOnce(ctx, kv, first, end)
		if err == nil {
			for i := first; i < end; i++ {
				l.acked(i, rev, preparedBit|uint64(i))
			}
			return nil
		}
		if !notServed(err) || time.Since(began) > preparePatience {
			return err
		}
		l.preparedAgain.Add(1)
		if wait(ctx, pause); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// prepareOnce tells the revision at which the keys were written: by it, or by a try before that was not answered. Of
// all tries only one can pass, because each asks that the first key is not there.
func (l *ledger) prepareOnce(ctx context.Context, kv clientv3.KV, first, end int) (rev int64, err error) {
	key := l.keys.at(first)
	var puts []clientv3.Op
	for i := first; i < end; i++ {
		puts = append(puts, clientv3.OpPut(l.keys.at(i), l.values.of(preparedBit|uint64(i))))
	}
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(puts...).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return 0, err
	case resp.Succeeded:
		return resp.Header.Revision, nil
	}
	there := resp.Responses[0].GetResponseRange().GetKvs()
	if len(there) == 0 {
		return 0, fmt.Errorf("key %q was said to be there, and is not", key)
	}
	if op, err := l.values.writer(there[0].Value); err != nil || op != preparedBit|uint64(first) {
		return 0, fmt.Errorf("key %q is there already", key)
	}
	return there[0].ModRevision, nil
}

// notServed tells whether a request may be tried again because servers had no time for it, or were not there.
func notServed(err error) bool {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code() == codes.Unavailable || errors.Is(err, rpctypes.ErrTooManyRequests)
	}
	return status.Code(err) == codes.Unavailable
}
