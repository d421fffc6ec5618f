package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// table is the objects of one resource. Names are scattered, as names with a random end are.
type table struct {
	prefix    string
	scattered bool // in namespaces, by the beginning of the name
	salt      uint64
	values    values

	mu      sync.RWMutex
	objects []*object
	index   map[string]int
}

// object is what is known of one key. Only one request about it is under way at any time, because
// each has one owner, as in Kubernetes.
type object struct {
	mu    sync.Mutex
	rev   int64  // of its present version, 0 if it is not there
	last  int64  // of its last change
	op    uint64 // that wrote the present version
	doubt bool   // a request about it failed: it may have had an effect, or yet have one

	began atomic.Int64 // when the oldest change began that has not been delivered; 0: none

	// Of the watch's receiver.
	delivered int64 // of the last event
	present   bool  // that was a put
}

func newTable(s Spec, prefix string, size int, salt uint64) *table {
	s.ValueSize = max(size, valueSizeMin)
	return &table{prefix: prefix, salt: salt, values: newValues(s), index: map[string]int{}}
}

// nameDigits is how many hexadecimal digits a name has: enough that no two are equal.
const nameDigits = 12

func (t *table) key(i int) string {
	name := fmt.Sprintf("%0*x", nameDigits, mix(uint64(i)^t.salt<<40)>>(64-4*nameDigits))
	if t.scattered {
		return t.prefix + "ns-" + name[:2] + "/pod-" + name
	}
	return t.prefix + name
}

// splits are n keys that cut the table into n+1 parts of about as many objects.
func (t *table) splits(n int) (out []string) {
	for i := 1; i <= n; i++ {
		cut := fmt.Sprintf("%04x", (1<<16)*i/(n+1))
		if t.scattered {
			out = append(out, t.prefix+"ns-"+cut[:2]+"/pod-"+cut)
		} else {
			out = append(out, t.prefix+cut)
		}
	}
	return out
}

// grow adds objects, which nobody has written yet, and returns the number of those before.
func (t *table) grow(n int) (before int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before = len(t.objects)
	for i := before; i < n; i++ {
		t.index[t.key(i)] = i
		t.objects = append(t.objects, &object{})
	}
	return min(before, n)
}

func (t *table) at(i int) *object {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.objects[i]
}

func (t *table) find(key []byte) (*object, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, ok := t.index[string(key)]
	if !ok {
		return nil, false
	}
	return t.objects[i], true
}

// change updates an object if it is as it was seen last, creates it if it is not there, or deletes it.
func (t *table) change(ctx context.Context, w *k8s, kv clientv3.KV, i int, remove bool) error {
	o, key, op := t.at(i), t.key(i), w.writes.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	remove = remove && o.rev > 0
	then := clientv3.OpPut(key, t.values.of(op))
	if remove {
		then = clientv3.OpDelete(key)
	}
	o.began.CompareAndSwap(0, time.Now().UnixNano())
	resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", o.rev)).Then(then).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		o.doubt = true
		return err
	}
	if !resp.Succeeded {
		return t.adopt(o, key, resp)
	}
	o.last, o.rev, o.op = resp.Header.Revision, resp.Header.Revision, op
	if remove {
		o.rev = 0
	}
	w.acknowledged(resp.Header.Revision)
	return nil
}

// adopt takes an object as it is after all, where a request of ours has failed before.
func (t *table) adopt(o *object, key string, resp *clientv3.TxnResponse) error {
	if !o.doubt {
		return wrongf("the compare of %q with revision %d failed, and nobody else writes it", key, o.rev)
	}
	o.began.Store(0) // nothing was written
	if len(resp.Responses) != 1 || resp.Responses[0].GetResponseRange() == nil {
		return wrongf("a transaction with one read has %d answers", len(resp.Responses))
	}
	o.rev, o.op = 0, 0
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		op, err := t.values.writer(kv.Value)
		if err != nil {
			return wrongf("%q: %v", key, err)
		}
		o.rev, o.op = kv.ModRevision, op
	}
	return nil
}

// deliver checks an event against those before, and returns when the change began, if that is known.
func (t *table) deliver(ev *mvccpb.Event) (began time.Time, err error) {
	o, ok := t.find(ev.Kv.Key)
	if !ok {
		return began, fmt.Errorf("an event of key %q, which was never written", ev.Kv.Key)
	}
	if ev.Kv.ModRevision <= o.delivered {
		return began, fmt.Errorf("key %q: an event of revision %d after one of %d", ev.Kv.Key, ev.Kv.ModRevision, o.delivered)
	}
	want := int64(0)
	if o.present {
		want = o.delivered
	}
	if got := ev.PrevKv.GetModRevision(); got != want {
		return began, fmt.Errorf("key %q: the event of revision %d has a previous version of revision %d, the event before was of %d",
			ev.Kv.Key, ev.Kv.ModRevision, got, want)
	}
	if ev.Type == mvccpb.Event_PUT {
		if _, err := t.values.writer(ev.Kv.Value); err != nil {
			return began, fmt.Errorf("key %q: %w", ev.Kv.Key, err)
		}
	}
	o.delivered, o.present = ev.Kv.ModRevision, ev.Type == mvccpb.Event_PUT
	if at := o.began.Swap(0); at > 0 {
		began = time.Unix(0, at)
	}
	return began, nil
}

// compare looks for every object, after the watch has ended: it must be as it was acknowledged, and
// the watch must have delivered its last change.
func (t *table) compare(ctx context.Context, kv clientv3.KV) []string {
	var p problems
	there, err := t.read(ctx, kv)
	if err != nil {
		return []string{fmt.Sprintf("could not look for the objects under %s: %v", t.prefix, err)}
	}
	for i, o := range t.objects {
		key := t.key(i)
		got, ok := there[key]
		delete(there, key)
		switch {
		case o.doubt && ok:
			if o.delivered != got.rev {
				p.add("%q was last changed at revision %d, its last event was of %d", key, got.rev, o.delivered)
			}
		case o.doubt:
			if o.present {
				p.add("%q is not there, but its last event was a put", key)
			}
		case ok != (o.rev > 0) || got.rev != o.rev || ok && got.op != o.op:
			p.add("%q is there: %v, at revision %d by write %d; acknowledged was revision %d by write %d", key, ok, got.rev, got.op, o.rev, o.op)
		case o.delivered != o.last:
			p.add("%q was last changed at revision %d, its last event was of %d", key, o.last, o.delivered)
		}
	}
	for key := range there {
		p.add("%q is there and was never written", key)
	}
	return p.all()
}

// version is one that was read.
type version struct {
	rev int64
	op  uint64
}

// read lists all objects, page by page.
func (t *table) read(ctx context.Context, kv clientv3.KV) (map[string]version, error) {
	out := map[string]version{}
	l := &podList{}
	for {
		done, err := l.page(ctx, t, kv, func(kv *mvccpb.KeyValue, op uint64) { out[string(kv.Key)] = version{kv.ModRevision, op} })
		if done || err != nil {
			return out, err
		}
	}
}

// podList is a list on its way, page by page at the revision of the first.
type podList struct {
	began time.Time
	from  string // empty: at the beginning
	rev   int64
	total int64 // as the first page tells
	seen  int64
}

// listsMax is how many lists are on their way at once.
const listsMax = 8

// list reads the next page of one of the lists.
func (w *k8s) list(ctx context.Context, kv clientv3.KV) error {
	var l *podList
	select {
	case l = <-w.lists:
	case <-ctx.Done():
		return ctx.Err()
	}
	done, err := l.page(ctx, w.tables[onPods], kv, nil)
	if l.outlived(err) {
		err, done = nil, true
	}
	if done || err != nil {
		*l = podList{}
	}
	w.lists <- l
	return err
}

// outlived reports whether what a list began with has been compacted meanwhile, as may happen to one that
// takes longer than history is kept: then it begins anew, as those of Kubernetes do.
func (l *podList) outlived(err error) bool {
	return errors.Is(err, rpctypes.ErrCompacted) && l.rev > 0 && time.Since(l.began) > compactEvery
}

// page reads the next page of a table and says whether it was the last; each object is told, unless
// that is nil.
func (l *podList) page(ctx context.Context, t *table, kv clientv3.KV, tell func(*mvccpb.KeyValue, uint64)) (done bool, err error) {
	if l.from == "" {
		l.from, l.began = t.prefix, time.Now()
	}
	resp, err := kv.Get(ctx, l.from, clientv3.WithRange(prefixEnd(t.prefix)), clientv3.WithLimit(listPage), clientv3.WithRev(l.rev))
	if err != nil {
		return false, err
	}
	if l.rev == 0 {
		l.rev, l.total = resp.Header.Revision, resp.Count
	}
	for _, kv := range resp.Kvs {
		op, err := t.values.writer(kv.Value)
		switch {
		case err != nil:
			return false, wrongf("%q: %v", kv.Key, err)
		case string(kv.Key) < l.from:
			return false, wrongf("a list from %q on has %q", l.from, kv.Key)
		case kv.ModRevision > l.rev:
			return false, wrongf("a list at revision %d has %q of revision %d", l.rev, kv.Key, kv.ModRevision)
		}
		if tell != nil {
			tell(kv, op)
		}
		l.from = string(kv.Key) + "\x00"
	}
	l.seen += int64(len(resp.Kvs))
	switch {
	case resp.More && len(resp.Kvs) != listPage:
		return false, wrongf("a page of %d objects that is not the last", len(resp.Kvs))
	case !resp.More && l.seen != l.total:
		return false, wrongf("a list at revision %d has %d objects, its first page said %d", l.rev, l.seen, l.total)
	}
	return !resp.More, nil
}
