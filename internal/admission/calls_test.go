package admission

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestClientsAreVettedByTheTable: there is a check for exactly what the table lets clients ask, and every other body is
// refused, whatever is in it.
func TestClientsAreVettedByTheTable(t *testing.T) {
	for kind, row := range calls.Table {
		if want := row.Client == calls.Vetted; (callsAdmitted[kind] != nil) != want {
			t.Errorf("there is a check of %q: %v", row.Name, !want)
		}
	}
	fields := (&pb.PeerRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Message() == nil {
			continue
		}
		req := &pb.PeerRequest{}
		body := req.ProtoReflect().Mutable(f).Message()
		if id := body.Descriptor().Fields().ByName("range_id"); id != nil {
			body.Set(id, protoreflect.ValueOfUint64(3))
		}
		kind, _ := calls.Of(req)
		_, err := New(Limits{}).Call(req)
		if refused := errors.Is(err, errRefusedToClient); refused != (calls.Table[kind].Client != calls.Vetted) {
			t.Errorf("%s is refused: %v", f.Name(), err)
		}
	}
	if _, err := New(Limits{}).Call(&pb.PeerRequest{Oracle: &pb.OracleRequest{Count: 1}}); !errors.Is(err, errRefusedToClient) || !errors.Is(err, shard.ErrInvalid) {
		t.Errorf("a client that allocates revisions: %v", err)
	}
}
