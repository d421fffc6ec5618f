package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ledger holds what the store has acknowledged of each key, so that it can be looked for
// afterwards, and so that reads can be held against it.
type ledger struct {
	keys    keys
	values  values
	stripes [64]sync.Mutex
	entries []entry

	preparedAgain atomic.Int64 // how often a transaction of the preparation was tried again
}

// entry is what is known of one key.
type entry struct {
	rev    int64  // of the latest write that was acknowledged
	op     uint64 // that wrote it
	writes int64  // how many were acknowledged
}

func newLedger(s Spec) *ledger {
	return &ledger{keys: keysOf(s), values: newValues(s), entries: make([]entry, s.KeySpace)}
}

func (l *ledger) lock(i int) *sync.Mutex {
	m := &l.stripes[i%len(l.stripes)]
	m.Lock()
	return m
}

// acked notes that a write of key i succeeded.
func (l *ledger) acked(i int, rev int64, op uint64) {
	defer l.lock(i).Unlock()
	e := &l.entries[i]
	e.writes++
	if rev > e.rev {
		e.rev, e.op = rev, op
	}
}

// at is what is known of key i now.
func (l *ledger) at(i int) entry {
	defer l.lock(i).Unlock()
	return l.entries[i]
}

// vet checks a key that was read: that its value was written to it, and, unless the read was allowed
// to be stale, that it is no older than known, which was acknowledged before the read began.
func (l *ledger) vet(kv *mvccpb.KeyValue, i int, known entry, stale bool) error {
	if j, ok := l.keys.index(kv.Key); !ok || j != i {
		return fmt.Errorf("asked for key %q, got %q", l.keys.at(i), kv.Key)
	}
	op, err := l.values.writer(kv.Value)
	if err != nil {
		return fmt.Errorf("key %q: %w", kv.Key, err)
	}
	if !l.wrote(op, i) {
		return fmt.Errorf("key %q holds a value that was written to another key", kv.Key)
	}
	if !stale && kv.ModRevision < known.rev {
		return fmt.Errorf("key %q was read at revision %d after revision %d was acknowledged", kv.Key, kv.ModRevision, known.rev)
	}
	return nil
}

// wrote tells whether operation op writes key i.
func (l *ledger) wrote(op uint64, i int) bool {
	if op&preparedBit != 0 {
		return op == preparedBit|uint64(i)
	}
	return l.keys.pick(int64(op)) == i
}

// problemsMax bounds how many problems of one kind are told.
const problemsMax = 5

// problems collects what is wrong.
type problems struct {
	list []string
	more int
}

func (p *problems) add(format string, args ...any) {
	if len(p.list) >= problemsMax {
		p.more++
		return
	}
	p.list = append(p.list, fmt.Sprintf(format, args...))
}

func (p *problems) all() []string {
	if p.more == 0 {
		return p.list
	}
	return append(p.list, fmt.Sprintf("and %d more like these", p.more))
}

// compare looks for everything that was acknowledged: each key must hold the value of its latest
// write, at that revision, and its version must be the number of writes.
func (l *ledger) compare(ctx context.Context, kv clientv3.KV) ([]string, error) {
	var p problems
	next := 0 // the first index that was not looked at
	unseen := func(until int) {
		for ; next < until; next++ {
			if e := l.at(next); e.writes > 0 {
				p.add("key %q is gone, which was written at revision %d", l.keys.at(next), e.rev)
			}
		}
	}
	err := l.scan(ctx, kv, func(kv *mvccpb.KeyValue) {
		i, ok := l.keys.index(kv.Key)
		if !ok || i < next {
			p.add("key %q is there and was never written, or comes out of order", kv.Key)
			return
		}
		unseen(i)
		next = i + 1
		l.judge(&p, kv, i)
	})
	if err != nil {
		return p.all(), err
	}
	unseen(l.keys.space)
	return p.all(), nil
}

func (l *ledger) judge(p *problems, kv *mvccpb.KeyValue, i int) {
	e := l.at(i)
	op, err := l.values.writer(kv.Value)
	switch {
	case err != nil:
		p.add("key %q: %v", kv.Key, err)
	case kv.Version != e.writes:
		p.add("key %q has version %d after %d acknowledged writes", kv.Key, kv.Version, e.writes)
	case kv.ModRevision != e.rev:
		p.add("key %q was last written at revision %d, the latest acknowledged is %d", kv.Key, kv.ModRevision, e.rev)
	case op != e.op:
		p.add("key %q holds the value of operation %d, not of %d", kv.Key, op, e.op)
	}
}

// scan reads all keys of the workload, page by page, at one revision.
func (l *ledger) scan(ctx context.Context, kv clientv3.KV, visit func(*mvccpb.KeyValue)) error {
	page := int64(max(1, min(1000, (1<<20)/(l.values.size+l.keys.size))))
	from, end := l.keys.at(0), l.keys.end(l.keys.space-1)
	var rev int64
	for {
		resp, err := kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(rev))
		if err != nil {
			return fmt.Errorf("read what was written: %w", err)
		}
		for _, kv := range resp.Kvs {
			visit(kv)
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		rev = resp.Header.Revision
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}
