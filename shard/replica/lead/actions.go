package lead

import (
	"pontoon/internal/pb"
	"pontoon/shard"
	"pontoon/shard/replica/apply"
)

// actionKind says what a core wants done.
type actionKind uint8

const (
	ActAllocate  actionKind = iota // ask the oracle for n revisions; answer with allocated(id, …)
	ActBatchTick                   // wait for the next beat; answer with beat()
	ActTook                        // a batch was answered n ns after it was closed
	ActCurrent                     // ask the oracle for Current; answer with current(id, …)
	ActPropose                     // propose entry; if it certainly was not appended: dropped(id)
	ActConfirm                     // start a proof of leadership now; answer with proved(id, …)
	ActEvaluate                    // evaluate item at its revision; answer with evaluated(item, …)
	ActPredict                     // carry out prediction, without the mutex; answer with Predicted(prediction)
	ActAttach                      // attach lease to span in meta; answer with attached(lease, …)
	ActReply                       // answer item
	ActCall                        // call fn
	ActLocate                      // find coord's participants; answer with located(coord, …)
	ActPrepare                     // let participant n of coord lock; answer with prepared(coord, txn, n, …)
	ActPlan                        // evaluate coord on what is locked; answer with planned(coord, txn, …)
	ActResolve                     // tell the participant at key the outcome; if told is set: resolvedAt(txn, key, …)
	ActInquire                     // ask the anchor of prepared; answer with inquired(id, …)
)

// Action is one thing for the driver to do, in order with the others and not under its mutex. Most are
// replies, which come by the hundred: what few others need is kept apart.
type Action struct {
	Kind  actionKind
	Id    uint64
	N     int
	Entry *pb.Entry
	Item  *Item
	Resp  *pb.WriteResponse
	Err   error
	Fn    func()

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
	Rev      int64
	Missing  []int64
	Prepared *apply.Prepared
	Resolve  *pb.Resolve
	Key      []byte
	Epoch    shard.Epoch
	Told     bool
}
