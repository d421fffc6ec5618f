package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"pontoon/internal/etcdapi"
	"pontoon/internal/etcdapi/apitest"
	"pontoon/shard"
)

func TestHeader(t *testing.T) {
	f := start(t, nil)
	resp, err := f.cli.Get(f.ctx, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	h := resp.Header
	if h.ClusterId != apitest.ClusterIDValue || h.MemberId != apitest.MemberIDValue || h.Revision != 1 || h.RaftTerm != apitest.TermValue {
		t.Errorf("header of a fresh cluster: %v", h)
	}
	if rev := f.put(t, "a", "1"); rev != 2 {
		t.Errorf("the first write has revision %d, want 2", rev)
	}
	f.put(t, "a", "2")
	old, err := f.cli.Get(f.ctx, "a", clientv3.WithRev(2))
	if err != nil {
		t.Fatal(err)
	}
	if old.Header.Revision != 3 || string(old.Kvs[0].Value) != "1" {
		t.Errorf("read at 2: header %d value %s, want the current 3 and 1", old.Header.Revision, old.Kvs[0].Value)
	}
}

func TestRangeOptions(t *testing.T) {
	f := start(t, nil)
	for _, kv := range [][2]string{{"k/a", "3"}, {"k/b", "2"}, {"k/c", "1"}, {"z", "0"}, {"k/b", "4"}} {
		f.put(t, kv[0], kv[1])
	}
	for _, tc := range []struct {
		name string
		key  string
		opts []clientv3.OpOption
		want string
	}{
		{"one", "k/b", nil, "k/b=4 count=1"},
		{"prefix", "k/", []clientv3.OpOption{clientv3.WithPrefix()}, "k/a=3 k/b=4 k/c=1 count=3"},
		{"from", "k/c", []clientv3.OpOption{clientv3.WithFromKey()}, "k/c=1 z=0 count=2"},
		{"all", "", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(1)}, "k/a=3 count=4 more"},
		{"limit", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithLimit(2)}, "k/a=3 k/b=4 count=3 more"},
		{"descending", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)}, "k/c=1 k/b=4 k/a=3 count=3"},
		{"by value", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)}, "k/c=1 k/a=3 k/b=4 count=3"},
		{"by mod, order not named", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortNone)}, "k/a=3 k/c=1 k/b=4 count=3"},
		{"keys only", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithKeysOnly()}, "k/a= k/b= k/c= count=3"},
		{"count only", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCountOnly()}, "count=3"},
		{"min mod", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithMinModRev(4)}, "k/b=4 k/c=1 count=3"},
		{"at", "k/", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(3)}, "k/a=3 k/b=2 count=2"},
		{"serializable", "k/a", []clientv3.OpOption{clientv3.WithSerializable()}, "k/a=3 count=1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, err := f.cli.Get(f.ctx, tc.key, tc.opts...)
			if err != nil {
				t.Fatal(err)
			}
			if got := render(resp); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func render(r *clientv3.GetResponse) string {
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s=%s ", kv.Key, kv.Value)
	}
	fmt.Fprintf(&b, "count=%d", r.Count)
	if r.More {
		b.WriteString(" more")
	}
	return b.String()
}

// TestRefusals sends what etcd refuses, and expects etcd's own errors to be recognised.
func TestRefusals(t *testing.T) {
	f := start(t, func(c *etcdapi.Config) { c.MaxTxnOps = 3; c.MaxRequestBytes = 1024 })
	f.put(t, "a", "1")
	f.put(t, "a", "2")
	if _, err := f.cli.Compact(f.ctx, 3); err != nil {
		t.Fatal(err)
	}
	kv := etcdserverpb.NewKVClient(f.conn(t))
	get := func(r *etcdserverpb.RangeRequest) error { _, err := kv.Range(f.ctx, r); return err }
	put := func(r *etcdserverpb.PutRequest) error { _, err := kv.Put(f.ctx, r); return err }
	key := []byte("a")
	for _, tc := range []struct {
		name string
		got  error
		want error
	}{
		{"range without key", get(&etcdserverpb.RangeRequest{}), rpctypes.ErrEmptyKey},
		{"range, unknown order", get(&etcdserverpb.RangeRequest{Key: key, SortOrder: 9}), rpctypes.ErrInvalidSortOption},
		{"range, unknown target", get(&etcdserverpb.RangeRequest{Key: key, SortTarget: 9}), rpctypes.ErrInvalidSortOption},
		{"range of the future", get(&etcdserverpb.RangeRequest{Key: key, Revision: 99}), rpctypes.ErrFutureRev},
		{"range of what was compacted", get(&etcdserverpb.RangeRequest{Key: key, Revision: 2}), rpctypes.ErrCompacted},
		{"range at the compaction revision", get(&etcdserverpb.RangeRequest{Key: key, Revision: 3}), nil},
		{"range at a negative revision", get(&etcdserverpb.RangeRequest{Key: key, Revision: -3}), nil},
		{"put without key", put(&etcdserverpb.PutRequest{}), rpctypes.ErrEmptyKey},
		{"put, value given and ignored", put(&etcdserverpb.PutRequest{Key: key, Value: key, IgnoreValue: true}), rpctypes.ErrValueProvided},
		{"put, lease given and ignored", put(&etcdserverpb.PutRequest{Key: key, Lease: 1, IgnoreLease: true}), rpctypes.ErrLeaseProvided},
		{"put, nothing to keep", put(&etcdserverpb.PutRequest{Key: []byte("new"), IgnoreValue: true}), rpctypes.ErrKeyNotFound},
		{"put with a lease that is not", put(&etcdserverpb.PutRequest{Key: key, Lease: 5}), rpctypes.ErrLeaseNotFound},
		{"put, too large", put(&etcdserverpb.PutRequest{Key: key, Value: make([]byte, 1100)}), rpctypes.ErrRequestTooLarge},
		{"compact again", second(f.cli.Compact(f.ctx, 3)), rpctypes.ErrCompacted},
		{"compact the future", second(f.cli.Compact(f.ctx, 99)), rpctypes.ErrFutureRev},
		{"delete without key", second(kv.DeleteRange(f.ctx, &etcdserverpb.DeleteRangeRequest{})), rpctypes.ErrEmptyKey},
	} {
		if !errors.Is(rpctypes.Error(tc.got), tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, tc.got, tc.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestTxnChecks(t *testing.T) {
	f := start(t, func(c *etcdapi.Config) { c.MaxTxnOps = 3 })
	put := func(k string) clientv3.Op { return clientv3.OpPut(k, "v") }
	del := func(k, end string) clientv3.Op { return clientv3.OpDelete(k, clientv3.WithRange(end)) }
	txn := func(then, otherwise []clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, then, otherwise) }
	ops := func(o ...clientv3.Op) []clientv3.Op { return o }
	for _, tc := range []struct {
		name      string
		cmps      int
		then, els []clientv3.Op
		want      error
	}{
		{name: "put once", then: ops(put("a"), put("b"))},
		{name: "the same key in both branches", then: ops(put("a")), els: ops(put("a"))},
		{name: "put twice", then: ops(put("a"), put("a")), want: rpctypes.ErrDuplicateKey},
		{name: "put twice in the branch not taken", els: ops(put("a"), put("a")), want: rpctypes.ErrDuplicateKey},
		{name: "put and delete", then: ops(put("b"), del("a", "c")), want: rpctypes.ErrDuplicateKey},
		{name: "put at the end of a delete", then: ops(put("c"), del("a", "c"))},
		{name: "put and delete of everything", then: ops(put("x"), clientv3.OpDelete("a", clientv3.WithFromKey())), want: rpctypes.ErrDuplicateKey},
		{name: "deletes overlap", then: ops(del("a", "c"), del("b", "d"))},
		{name: "get and put", then: ops(clientv3.OpGet("a"), put("a"))},
		{name: "nested put twice", then: ops(put("a"), txn(ops(put("a")), nil)), want: rpctypes.ErrDuplicateKey},
		{name: "nested in both branches", then: ops(txn(ops(put("a")), ops(put("a"))))},
		{name: "nested in the other branch and outside", then: ops(txn(nil, ops(put("a"))), put("a")), want: rpctypes.ErrDuplicateKey},
		{name: "two nested", then: ops(txn(ops(put("a")), nil), txn(nil, ops(put("a")))), want: rpctypes.ErrDuplicateKey},
		{name: "nested delete, then put", then: ops(txn(ops(del("a", "b")), nil), put("a")), want: rpctypes.ErrDuplicateKey},
		{name: "nested put, deleted outside", then: ops(txn(ops(put("a")), nil), del("a", "b")), want: rpctypes.ErrDuplicateKey},
		{name: "as many as allowed", then: ops(put("a"), put("b"), put("c"))},
		{name: "too many", then: ops(put("a"), put("b"), put("c"), put("d")), want: rpctypes.ErrTooManyOps},
		{name: "too many compares", cmps: 4, want: rpctypes.ErrTooManyOps},
		{name: "too many with what is nested", then: ops(put("a"), put("b"), txn(ops(put("c"), put("d")), nil)), want: rpctypes.ErrTooManyOps},
		{name: "empty key", then: ops(put("")), want: rpctypes.ErrEmptyKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var cmps []clientv3.Cmp
			for range tc.cmps {
				cmps = append(cmps, clientv3.Compare(clientv3.Version("a"), ">", -1))
			}
			before := f.store.Revision()
			_, err := f.cli.Txn(f.ctx).If(cmps...).Then(tc.then...).Else(tc.els...).Commit()
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if tc.want != nil && f.store.Revision() != before {
				t.Error("a refused transaction has changed something")
			}
		})
	}
}

func TestTxnResults(t *testing.T) {
	f := start(t, nil)
	f.put(t, "a", "1")
	resp, err := f.cli.Txn(f.ctx).
		If(clientv3.Compare(clientv3.Value("a"), "=", "1"), clientv3.Compare(clientv3.LeaseValue("a"), "=", 0)).
		Then(clientv3.OpGet("a"), clientv3.OpPut("b", "2", clientv3.WithPrevKV()), clientv3.OpGet("b"),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision("b"), "=", 0)}, // as before the whole
				[]clientv3.Op{clientv3.OpDelete("a", clientv3.WithPrevKV())}, nil)).
		Commit()
	if err != nil {
		t.Fatal(err)
	}
	if !resp.Succeeded || resp.Header.Revision != 3 || len(resp.Responses) != 4 {
		t.Fatalf("got %v", resp)
	}
	r := resp.Responses
	if h := r[0].GetResponseRange().Header; h.Revision != 2 || h.ClusterId != 0 {
		t.Errorf("header before the first effect: %v", h)
	}
	if h := r[1].GetResponsePut().Header; h.Revision != 3 {
		t.Errorf("header of the first effect: %v", h)
	}
	if v := r[2].GetResponseRange().Kvs; len(v) != 1 || string(v[0].Value) != "2" {
		t.Errorf("a read after the put: %v", v)
	}
	nested := r[3].GetResponseTxn()
	if !nested.Succeeded || nested.Responses[0].GetResponseDeleteRange().Deleted != 1 ||
		string(nested.Responses[0].GetResponseDeleteRange().PrevKvs[0].Value) != "1" {
		t.Errorf("nested: %v", nested)
	}
	// No effect: no revision.
	none, err := f.cli.Txn(f.ctx).If(clientv3.Compare(clientv3.ModRevision("b"), "=", 99)).Then(clientv3.OpPut("b", "3")).Commit()
	if err != nil || none.Succeeded || none.Header.Revision != 3 {
		t.Errorf("a transaction without effect: %v, %v", none, err)
	}
}

func TestRangeStream(t *testing.T) {
	f := start(t, nil)
	for i := range 5 {
		f.put(t, fmt.Sprintf("k%d", i), "v")
	}
	kv := etcdserverpb.NewKVClient(f.conn(t))
	stream, err := kv.RangeStream(f.ctx, &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), KeysOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var chunks []string
	for {
		c, err := stream.Recv()
		if err != nil {
			break
		}
		r := c.RangeResponse
		chunks = append(chunks, fmt.Sprintf("%d keys header=%d count=%d", len(r.Kvs), r.Header.GetRevision(), r.Count))
	}
	want := "2 keys header=0 count=0; 2 keys header=0 count=0; 1 keys header=6 count=5"
	if got := strings.Join(chunks, "; "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, r := range []*etcdserverpb.RangeRequest{
		{Key: []byte("k"), SortOrder: etcdserverpb.RangeRequest_DESCEND},
		{Key: []byte("k"), MinModRevision: 3},
	} {
		stream, err := kv.RangeStream(f.ctx, r)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v: got %v", r, err)
		}
	}
}

// TestErrorIdentity: what the store says reaches the client as the error that etcd has for it.
func TestErrorIdentity(t *testing.T) {
	var fail error
	s := apitest.New()
	s.Fail = func(call string) error {
		if call == "Write" {
			return fail
		}
		return nil
	}
	f := startStore(t, s, nil)
	for _, tc := range []struct{ fail, want error }{
		{shard.ErrAmbiguous, rpctypes.ErrTimeoutDueToLeaderFail},
		{fmt.Errorf("%w: why", shard.ErrAmbiguousTimeout), rpctypes.ErrTimeout},
		{fmt.Errorf("%w: why", shard.ErrAmbiguousConnection), rpctypes.ErrTimeoutDueToConnectionLost},
		{shard.GivenUp(context.DeadlineExceeded), rpctypes.ErrTimeout},
		{fmt.Errorf("%w: %w", shard.ErrTimeout, shard.ErrUnavailable), rpctypes.ErrTimeout},
		{shard.ErrUnavailable, rpctypes.ErrNoLeader},
		{&shard.NotLeaderError{Range: 3}, rpctypes.ErrNoLeader},
		{&shard.CompactedError{Revision: 3}, rpctypes.ErrCompacted},
		{shard.ErrTooManyRequests, rpctypes.ErrTooManyRequests},
		{shard.ErrNoSpace, rpctypes.ErrNoSpace},
		{shard.ErrCorrupt, rpctypes.ErrCorrupt},
		{shard.ErrStopped, rpctypes.ErrStopped},
	} {
		fail = tc.fail
		if _, err := f.cli.Put(f.ctx, "a", "1"); !errors.Is(err, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.fail, err, tc.want)
		}
	}
	for _, tc := range []struct {
		fail error
		want codes.Code
	}{
		{fmt.Errorf("%w: keys in two ranges", shard.ErrUnimplemented), codes.Unimplemented},
		{shard.ErrInvalid, codes.InvalidArgument},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{errors.New("something else"), codes.Unknown},
	} {
		fail = tc.fail
		_, err := etcdserverpb.NewKVClient(f.conn(t)).Put(f.ctx, &etcdserverpb.PutRequest{Key: []byte("a")})
		if status.Code(err) != tc.want {
			t.Errorf("%v: got %v, want %v", tc.fail, err, tc.want)
		}
	}
}
