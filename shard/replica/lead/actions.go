package lead

import (
	"time"

	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// actionKind is what the driver has to do.
type actionKind uint8

const (
	ActAllocate      actionKind = iota // allocate revisions at the oracle, as Ask says; answer with Allocated(Id, …)
	ActBatchTick                       // wait for the next batch tick; answer with BatchTick()
	ActBatchLatency                    // a batch of Requests was answered N ns after it was closed
	ActCurrent                         // fetch the oracle's current revision; answer with Current(Id, …)
	ActPropose                         // propose Entry; if it certainly was not appended: Dropped(Id, …)
	ActConfirm                         // confirm the leadership, from now on; answer with Confirmed(Id, …)
	ActEvaluate                        // evaluate Item at its revision; answer with Evaluated(Item, …)
	ActPredict                         // run Prediction without the mutex; answer with Predicted(Prediction)
	ActAttach                          // attach Lease to Span in meta; answer with Attached(Lease, …)
	ActReply                           // answer Item
	ActCall                            // call Fn
	ActLocate                          // find Coord's participants; answer with Located(Coord, …)
	ActPrepare                         // let participant N of Coord lock; answer with Prepared(Coord, Txn, N, …)
	ActPlan                            // evaluate Coord on what is locked; answer with Planned(Coord, Txn, …)
	ActResolve                         // send the outcome to the participant at Key; if WantAck: ResolveAcked(Txn, Key, …)
	ActInquire                         // inquire at the anchor of Prepared; answer with Inquired(id, …)
	ActTransfer                        // hand the leadership to replica N, 0: to whoever is level; answer with Barriers.Acted(Id, …)
	ActAbortTransfer                   // end that; ActTransfer is answered with the reason
)

// Action is one thing for the driver to do, in order and not under its mutex. Most actions are replies, so what
// only rare actions need is in actionArgs.
type Action struct {
	Kind     actionKind
	Id       uint64
	N        int
	Requests int
	Ask      shard.Ask
	Entry    *pb.Entry
	Item     *Item
	Resp     *pb.WriteResponse
	Err      error
	Fn       func()

	Prediction *Prediction
	*actionArgs
}

// actionArgs is what actions about leases and transactions over several ranges have besides.
type actionArgs struct {
	Lease    int64
	Span     shard.Span
	Coord    *Coordination
	Txn      apply.TxnID
	Parts    []*TxnPart
	Prepare  *pb.PrepareRequest
	Patience time.Duration // with Prepare: how long it may take to lock
	Rev      int64
	Missing  []int64
	Prepared *apply.Prepared
	Resolve  *pb.Resolve
	Key      []byte
	Epoch    shard.Epoch
	WantAck  bool
}
