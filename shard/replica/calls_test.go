package replica

import (
	"testing"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
	"pontoon/shard"
)

// TestServersServeTheTable: exactly what the table of calls gives to ranges is served.
func TestServersServeTheTable(t *testing.T) {
	for kind, row := range calls.Table {
		if want := row.At == calls.AtRange; (handlers[kind] != nil) != want {
			t.Errorf("%q is served: %v", row.Name, !want)
		}
	}
	Serve(t.Context(), nil, calls.Oracle, &pb.PeerRequest{}, func(resp *pb.PeerResponse) {
		if resp.Error == nil || pb.Code(resp.Error.Code) != pb.CodeUnimplemented {
			t.Errorf("a call that is no range's: %v, %v", resp, shard.ErrUnimplemented)
		}
	})
}
