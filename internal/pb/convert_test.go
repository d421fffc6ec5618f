package pb

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"pontoon/shard"
)

func overTheWire(t *testing.T, err error) error {
	t.Helper()
	raw, e := ErrorToPB(err).MarshalVT()
	if e != nil {
		t.Fatal(e)
	}
	var got Error
	if e := got.UnmarshalVT(raw); e != nil {
		t.Fatal(e)
	}
	return ErrorFromPB(&got)
}

func TestPlainErrorsKeepTheirIdentity(t *testing.T) {
	for _, s := range sentinels {
		if got := overTheWire(t, s.err); got != s.err {
			t.Errorf("%v became %v", s.err, got)
		}
		wrapped := fmt.Errorf("put of three keys: %w", s.err)
		got := overTheWire(t, wrapped)
		if !errors.Is(got, s.err) || got.Error() != wrapped.Error() {
			t.Errorf("%v became %v", wrapped, got)
		}
		if shard.Retryable(got) != shard.Retryable(s.err) {
			t.Errorf("%v changed its fate", s.err)
		}
	}
}

func TestTypedErrorsKeepTheirFields(t *testing.T) {
	known := []shard.Descriptor{{ID: 7, Span: shard.Span{Start: []byte("a"), End: []byte("b")}, Generation: 3,
		Replicas: []shard.Replica{{ID: 1, Node: 9}, {ID: 2, Node: 8, Role: shard.Learner}}}}
	for _, err := range []error{
		&shard.NotLeaderError{Range: 4, Leader: 77, Term: 5},
		&shard.WrongRangeError{Range: 4, Known: known},
		&shard.CompactedError{Revision: 42},
	} {
		if got := overTheWire(t, fmt.Errorf("wrapped: %w", err)); !reflect.DeepEqual(got, err) {
			t.Errorf("%#v became %#v", err, got)
		}
	}
}

func TestErrorFates(t *testing.T) {
	if ErrorToPB(nil) != nil || ErrorFromPB(nil) != nil {
		t.Error("no error must stay no error")
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		if got := overTheWire(t, err); got != shard.ErrTimeout {
			t.Errorf("%v became %v", err, got)
		}
	}
	both := fmt.Errorf("%w: %w", shard.ErrUnavailable, shard.ErrAmbiguous)
	if got := overTheWire(t, both); !errors.Is(got, shard.ErrAmbiguous) || shard.Retryable(got) {
		t.Errorf("an ambiguous error became %v", got)
	}
	stopped := fmt.Errorf("%w: %w", shard.ErrAmbiguous, context.Canceled)
	if got := overTheWire(t, stopped); !errors.Is(got, shard.ErrAmbiguous) {
		t.Errorf("an ambiguous error became %v", got)
	}
	for _, e := range []*Error{ErrorToPB(errors.New("disk on fire")), {Code: 9999, Message: "disk on fire"}} {
		if got := ErrorFromPB(e); got.Error() != "disk on fire" || shard.Retryable(got) {
			t.Errorf("an unknown error became %v", got)
		}
	}
}

// The numbers are a wire format: a change here breaks clusters of mixed versions.
func TestCodesAreStable(t *testing.T) {
	want := map[Code]uint32{CodeUnknown: 0, CodeNotLeader: 1, CodeWrongRange: 2, CodeCompacted: 3, CodeAmbiguous: 4,
		CodeUnavailable: 5, CodeStaleEpoch: 6, CodeTooManyRequests: 7, CodeFutureRevision: 8, CodeLeaseNotFound: 9,
		CodeLeaseExists: 10, CodeLeaseTTLTooLarge: 11, CodeKeyNotFound: 12, CodeTimeout: 13, CodeNoSpace: 14,
		CodeCorrupt: 15, CodeUnimplemented: 16, CodeInvalid: 17, CodeStopped: 18, CodeConflict: 19,
		CodeAmbiguousTimeout: 20, CodeAmbiguousConnection: 21, CodeOpInWay: 22, CodeMemberNotFound: 60, CodeMemberExists: 61,
		CodePeerURLExists: 62, CodeMemberBadURLs: 63, CodeNotEnoughStarted: 64, CodeUnhealthy: 65, CodeNotLearner: 66, CodeLearnerNotReady: 67,
		CodeTooManyLearners: 68, CodeRootUserNotExist: 100, CodeRootRoleNotExist: 101, CodeUserExists: 102, CodeUserEmpty: 103, CodeUserNotFound: 104,
		CodeRoleExists: 105, CodeRoleNotFound: 106, CodeRoleEmpty: 107, CodePermissionNotGiven: 108, CodeAuthFailed: 109, CodeNoPasswordUser: 110,
		CodePermissionDenied: 111, CodeRoleNotGranted: 112, CodePermissionNotGranted: 113, CodeAuthNotEnabled: 114, CodeAuthOldRevision: 115,
		CodeInvalidAuthToken: 116, CodeInvalidAuthMgmt: 117, CodeClusterCorrupt: 80}
	for c, n := range want {
		if uint32(c) != n {
			t.Errorf("code %d moved to %d", n, c)
		}
	}
	if len(sentinels)+4 != len(want) {
		t.Errorf("%d codes, but %d are checked", len(sentinels)+4, len(want))
	}
}

func TestNounsRoundTrip(t *testing.T) {
	d := shard.Descriptor{ID: 3, Span: shard.All, Generation: 8, Replicas: []shard.Replica{{ID: 1, Node: 2, Role: shard.Learner}}}
	raw, err := FromDescriptor(d).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var back Descriptor
	if err := back.UnmarshalVT(raw); err != nil {
		t.Fatal(err)
	}
	got := ToDescriptor(&back)
	if got.ID != d.ID || got.Generation != 8 || !got.Span.Equal(shard.All) || !reflect.DeepEqual(got.Replicas, d.Replicas) {
		t.Errorf("%+v became %+v", d, got)
	}
	if !ToSpan(nil).Empty() {
		t.Error("an absent span must not hold keys")
	}
	if s := ToSpans(FromSpans([]shard.Span{shard.Point([]byte("k"))})); len(s) != 1 || !s[0].IsPoint() {
		t.Errorf("spans: %v", s)
	}
	if got := ToDescriptor(nil); got.ID != 0 || got.Replicas != nil {
		t.Errorf("nil descriptor: %+v", got)
	}
	m := shard.Member{ID: 5, Name: "n", PeerURLs: []string{"p"}, ClientURLs: []string{"c"}, Learner: true, Locality: "zone=a", Formats: 2, State: shard.MemberDraining}
	if got := ToMembers(FromMembers([]shard.Member{m})); !reflect.DeepEqual(got, []shard.Member{m}) {
		t.Errorf("%+v became %+v", m, got)
	}
	ds := []shard.Descriptor{d}
	if got := ToDescriptors(FromDescriptors(ds)); !reflect.DeepEqual(got, ds) {
		t.Errorf("%+v became %+v", ds, got)
	}
}

// TestEventsCross: what is sent of an event is all of it but the bytes that were made for clients.
func TestEventsCross(t *testing.T) {
	evs := shard.NewEvents(3)
	evs[0].KV = shard.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 3, ModRevision: 9, Version: 4, Lease: -7}
	evs[0].Prev = &shard.KeyValue{Key: []byte("a"), Value: []byte("0"), CreateRevision: 3, ModRevision: 8, Version: 3, Lease: 5}
	evs[1].KV, evs[1].Delete, evs[1].Sub = shard.KeyValue{Key: []byte("b"), ModRevision: 9}, true, 1
	evs[2].KV, evs[2].Sub = shard.KeyValue{Key: []byte("c"), CreateRevision: 9, ModRevision: 9, Version: 1}, 2
	got := ToEvents(FromEvents(evs))
	if len(got) != len(evs) {
		t.Fatalf("%d events", len(got))
	}
	for i, g := range got {
		w := evs[i]
		if !reflect.DeepEqual(g.KV, w.KV) || !reflect.DeepEqual(g.Prev, w.Prev) || g.Delete != w.Delete || g.Sub != w.Sub {
			t.Errorf("event %d: %+v, want %+v", i, g.KV, w.KV)
		}
	}
	if FromEvents(nil) != nil || ToEvents(nil) != nil {
		t.Error("no event is not nothing")
	}
	if kv := ToKeyValue(nil); !reflect.DeepEqual(kv, shard.KeyValue{}) {
		t.Error(kv)
	}
}
