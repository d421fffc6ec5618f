package placement

import "pontoon/internal/pb"

// What a request is counted with before it is carried out, as etcd counts it.
const putOverhead = 256 // bytes of a version beside its key and value

// Cost is by how many bytes an op may make the store larger: of a transaction the dearer branch counts, with those within it.
func Cost(op *pb.Op) int64 {
	switch {
	case op.GetPut() != nil:
		return putOverhead + int64(len(op.Put.Key)+len(op.Put.Value))
	case op.GetTxn() != nil:
		return max(costOf(op.Txn.Success), costOf(op.Txn.Failure))
	}
	return 0
}

func costOf(ops []*pb.Op) (sum int64) {
	for _, op := range ops {
		sum += Cost(op)
	}
	return sum
}

// NoQuota is the quota of a node that may fill its disk.
const NoQuota int64 = -1

// Of a node without a quota of its own a part of the disk stays free: a share of it, at least spareBytes, and never more than spareMost.
const (
	spareShare = 20 // a twentieth
	spareBytes = 1 << 30
	spareMost  = 10 // a tenth
)

// Quota is how many bytes the ranges of a node may take: stated, which is NoQuota where it is below zero; where it is 0, what the disk allows
// beside what they take already. free and used are the disk's, by whomever; both 0: nobody knows, and there is no quota.
func Quota(stated, taken, free, used int64) int64 {
	switch {
	case stated < 0:
		return NoQuota
	case stated > 0:
		return stated
	case free <= 0 && used <= 0:
		return NoQuota
	}
	size := free + used
	return max(taken+free-min(max(size/spareShare, spareBytes), size/spareMost), 0)
}
