package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The ways to list.
const (
	WayWhole  = "whole"
	WayPaged  = "paged"
	WayCount  = "count"
	WayStream = "stream"
)

var (
	optWay = Option{
		Name: "way", Usage: "how to list: whole, paged, count or stream",
		Values: []string{WayWhole, WayPaged, WayCount, WayStream},
		Field:  func(s *Spec) any { return &s.Way }, In: always(func(s Spec) string { return s.Way }),
	}
	optPage = Option{
		Name: "page-size", Usage: "objects in a page, with --way paged",
		Field: func(s *Spec) any { return &s.Page }, In: func(s Spec) (any, bool) { return s.Page, s.Way == WayPaged },
	}
)

func listWorkload() Definition {
	defaults := common("list", func(s *Spec) {
		s.Operations, s.KeySpace, s.KeySize, s.ValueSize, s.Way, s.Page = 20, 100_000, 32, 1024, WayWhole, 500
	})
	return Definition{
		Name:  "list",
		Short: "Reads of all objects",
		Long: `Writes --key-space-size objects, then every operation reads all of them: in one answer (whole), in pages
of --page-size at the revision of the first (paged), only their number (count), or as a stream (stream, which
needs etcd 3.7's RangeStream). Every list is checked: all objects, in order, with their values.`,
		Options:  []Option{optKeySize, optValueSize, optKeySpace, optWay, optPage, optConsistency},
		Defaults: defaults,
		Brief: brief(defaults,
			func(s *Spec) { s.Way, s.Clients, s.Conns = WayWhole, 2, 2 },
			func(s *Spec) { s.Way, s.Clients, s.Conns = WayPaged, 2, 2 },
			func(s *Spec) { s.Way, s.Clients, s.Conns = WayCount, 2, 2 },
			func(s *Spec) { s.Way, s.Clients, s.Conns = WayStream, 2, 2 }),
		Standard: standard(defaults,
			func(s *Spec) { s.Way, s.Clients, s.Conns, s.ValueSize = WayWhole, 2, 2, 1024 },
			func(s *Spec) { s.Way, s.Clients, s.Conns, s.ValueSize = WayPaged, 2, 2, 1024 },
			func(s *Spec) { s.Way, s.Clients, s.Conns, s.ValueSize = WayCount, 2, 2, 1024 },
			func(s *Spec) { s.Way, s.Clients, s.Conns, s.ValueSize = WayStream, 2, 2, 1024 }),
		check: func(s Spec) error {
			if s.Page < 1 {
				return errors.New("--page-size must be at least 1")
			}
			return nil
		},
		open: func(e *env) workload { return &lists{base: newBase(e)} },
	}
}

type lists struct {
	base
	objects, bytes atomic.Int64
}

func (w *lists) kinds() []string                   { return []string{"list"} }
func (w *lists) prepare(ctx context.Context) error { return w.fill(ctx) }

func (w *lists) report(r *Run) {
	if w.spec.Way == WayCount {
		return
	}
	r.figure("objects/s", float64(w.objects.Load())/r.Elapsed.Seconds())
	r.figure("B/s", float64(w.bytes.Load())/r.Elapsed.Seconds())
}

func (w *lists) do(ctx context.Context, worker int, _ int64) (int, error) {
	l := &listing{w: w}
	err := w.list(ctx, w.kv(worker), l)
	if err == nil && l.next != w.spec.KeySpace {
		err = wrongCount(l.next, w.spec.KeySpace)
	}
	if err != nil {
		return 0, err
	}
	if w.spec.Way != WayCount {
		w.objects.Add(int64(l.next))
		w.bytes.Add(l.bytes)
	}
	return 0, nil
}

// list reads all objects in the way that was asked for.
func (w *lists) list(ctx context.Context, kv clientv3.KV, l *listing) error {
	opts := []clientv3.OpOption{clientv3.WithRange(w.ledger.keys.end(w.spec.KeySpace - 1))}
	if w.spec.serializable() {
		opts = append(opts, clientv3.WithSerializable())
	}
	from := w.ledger.keys.at(0)
	switch w.spec.Way {
	case WayCount:
		resp, err := kv.Get(ctx, from, append(opts, clientv3.WithCountOnly())...)
		if err != nil {
			return err
		}
		l.next = int(resp.Count)
		return nil
	case WayPaged:
		return w.pages(ctx, kv, l, append(opts, clientv3.WithLimit(int64(w.spec.Page))))
	case WayStream:
		return w.stream(ctx, kv, l, opts)
	}
	resp, err := kv.Get(ctx, from, opts...)
	if err != nil {
		return err
	}
	return l.take(resp.Kvs)
}

func (w *lists) pages(ctx context.Context, kv clientv3.KV, l *listing, opts []clientv3.OpOption) error {
	from := w.ledger.keys.at(0)
	for {
		resp, err := kv.Get(ctx, from, opts...)
		if err != nil {
			return err
		}
		if err := l.take(resp.Kvs); err != nil {
			return err
		}
		if !resp.More {
			return nil
		}
		if len(resp.Kvs) == 0 {
			return errors.New("wrong answer: an empty page says that there is more")
		}
		if from == w.ledger.keys.at(0) {
			opts = append(opts, clientv3.WithRev(resp.Header.Revision))
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (w *lists) stream(ctx context.Context, kv clientv3.KV, l *listing, opts []clientv3.OpOption) error {
	ch, err := kv.GetStream(ctx, w.ledger.keys.at(0), opts...)
	if err != nil {
		return err
	}
	for chunk := range ch {
		if err == nil {
			err = chunk.Err()
		}
		if err == nil && chunk.RangeResponse != nil {
			err = l.take(chunk.Kvs)
		}
	}
	return err
}

// listing is one list on its way in.
type listing struct {
	w     *lists
	next  int // index of the object that comes next
	bytes int64
}

func (l *listing) take(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if err := l.w.ledger.vet(kv, l.next, entry{}, true); err != nil {
			return fmt.Errorf("wrong answer: %w", err)
		}
		l.next++
		l.bytes += int64(len(kv.Key) + len(kv.Value))
	}
	return nil
}
