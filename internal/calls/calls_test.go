package calls

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"pontoon/internal/pb"
)

// TestTable: every body of a request is a call that the table has under its name, and every row is decided.
func TestTable(t *testing.T) {
	seen := map[Kind]bool{None: true}
	fields := (&pb.PeerRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil {
			continue // of the envelope
		}
		req := &pb.PeerRequest{}
		body := req.ProtoReflect().Mutable(f).Message()
		named := body.Descriptor().Fields().ByName("range_id")
		if named != nil {
			body.Set(named, protoreflect.ValueOfUint64(7))
		}
		kind, id := Of(req)
		row := Table[kind]
		if row.Name != string(f.Name()) {
			t.Errorf("%s is taken for %q", f.Name(), row.Name)
		}
		if seen[kind] {
			t.Errorf("%s is a kind that there is already", f.Name())
		}
		seen[kind] = true
		if (named != nil) != (row.At == AtRange) || (id == 7) != (row.At == AtRange) {
			t.Errorf("%s names a range: %v; it is served by one: %v; it is range %v", f.Name(), named != nil, row.At == AtRange, id)
		}
	}
	for kind := range Kinds {
		row := Table[kind]
		if !seen[kind] {
			t.Errorf("%q is no body of a request", row.Name)
		}
		if row.Client == Undecided {
			t.Errorf("nobody has decided whether a client may call %q", row.Name)
		}
		if row.At == Nowhere && kind != None {
			t.Errorf("nobody serves %q", row.Name)
		}
	}
	if kind, id := Of(&pb.PeerRequest{Id: 3}); kind != None || id != 0 {
		t.Errorf("a request without a body is %q of range %v", Table[kind].Name, id)
	}
}

// TestClientsMayNot: a client may do what routing a request of etcd's KV service takes, let a range's leader hand over, as etcd's
// MoveLeader does, and have ranges cut, moved and merged. Whoever lengthens this list has
// written a check of what such a call says.
func TestClientsMayNot(t *testing.T) {
	want := []Kind{Write, Fence, Read, Transfer, Oracle, Descriptors, Compact, BeginOp, Ops, Plan, Unstick, Borders}
	var got []Kind
	for kind, row := range Table {
		if row.Client == Vetted {
			got = append(got, Kind(kind))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("clients may make calls %v, want %v", got, want)
	}
}
