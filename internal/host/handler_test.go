package host

import (
	"testing"
	"testing/synctest"

	"pontoon/internal/calls"
	"pontoon/internal/pb"
)

// TestDispatchServesTheTable: exactly what the table of calls gives to the node itself is served here.
func TestDispatchServesTheTable(t *testing.T) {
	for kind, row := range calls.Table {
		if want := row.At == calls.AtNode; (atNode[kind] != nil) != want {
			t.Errorf("a node serves %q: %v", row.Name, !want)
		}
	}
}

// TestAStatusOfTheNodeHoldsNobody: it reads the sizes of every store here, and calls come on a goroutine that receives
// for a whole peer.
func TestAStatusOfTheNodeHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := &dispatch{scans: newPool(1, 1), status: func(*pb.NodeStatusRequest) *pb.NodeStatusResponse {
			<-release
			return &pb.NodeStatusResponse{}
		}}
		var returned, answered bool
		go func() {
			d.handle(t.Context(), 2, &pb.PeerRequest{NodeStatus: &pb.NodeStatusRequest{Ranges: true}}, func(*pb.PeerResponse) { answered = true })
			returned = true
		}()
		synctest.Wait()
		if !returned || answered {
			t.Errorf("returned %v, answered %v, while the stores do not answer", returned, answered)
		}
		close(release)
		synctest.Wait()
		if !answered {
			t.Error("no answer")
		}
	})
}
