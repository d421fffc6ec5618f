package replica

import (
	"pontoon/internal/pb"
	"pontoon/shard"
)

// actionKind says what a core wants done.
type actionKind uint8

const (
	actAllocate actionKind = iota // ask the oracle for n revisions; answer with allocated(id, …)
	actLinger                     // wait for the next beat; answer with beat()
	actTook                       // a batch was answered n ns after it was closed
	actCurrent                    // ask the oracle for Current; answer with current(id, …)
	actPropose                    // propose entry; if it certainly was not appended: dropped(id)
	actConfirm                    // start a proof of leadership now; answer with proved(id, …)
	actEvaluate                   // evaluate item at its revision; answer with evaluated(item, …)
	actAttach                     // attach lease to span in meta; answer with attached(lease, …)
	actReply                      // answer item
	actCall                       // call fn
	actLocate                     // find coord's participants; answer with located(coord, …)
	actPrepare                    // let participant n of coord lock; answer with prepared(coord, txn, n, …)
	actPlan                       // evaluate coord on what is locked; answer with planned(coord, txn, …)
	actResolve                    // tell the participant at key the outcome; if told is set: resolvedAt(txn, key, …)
	actInquire                    // ask the anchor of prepared; answer with inquired(id, …)
)

// action is one thing for the driver to do, in order with the others and not under its mutex. Most are
// replies, which come by the hundred: what few others need is kept apart.
type action struct {
	kind  actionKind
	id    uint64
	n     int
	entry *pb.Entry
	item  *item
	resp  *pb.WriteResponse
	err   error
	fn    func()
	*actionArgs
}

// actionArgs is what actions about leases and transactions over several ranges have besides.
type actionArgs struct {
	lease    int64
	span     shard.Span
	coord    *coordination
	txn      txnID
	parts    []*txnPart
	prepare  *pb.PrepareRequest
	rev      int64
	missing  []int64
	prepared *prepared
	resolve  *pb.Resolve
	key      []byte
	epoch    shard.Epoch
	told     bool
}
