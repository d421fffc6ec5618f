package harness

import (
	"context"
	"net/http"
)

// RangeInfo is a range as a node tells it.
type RangeInfo struct {
	ID         uint64        `json:"id"`
	Generation uint64        `json:"generation"`
	StartText  string        `json:"start_text"`
	Start      []byte        `json:"start"`
	End        []byte        `json:"end"`
	Leader     uint64        `json:"leader"`
	Term       uint64        `json:"term"`
	InUse      int64         `json:"size_in_use"`
	Replicas   []ReplicaInfo `json:"replicas"`
	// Sticky: the border at Start stays, until StickyUntil if that is told.
	Sticky      bool   `json:"sticky"`
	StickyUntil string `json:"sticky_until"`
}

// ReplicaInfo is where a replica is.
type ReplicaInfo struct {
	Node  uint64 `json:"node"`
	Name  string `json:"name"`
	State string `json:"state"`
}

// Ranges lists the ranges.
func (o Ops) Ranges(ctx context.Context) (list []RangeInfo, err error) {
	err = o.call(ctx, http.MethodGet, "/pontoon/v1/ranges", nil, &list)
	return list, err
}

// MetaID is the meta group where ranges are named.
const MetaID = 1

// Meta is where the meta group is, as the node has heard.
func (o Ops) Meta(ctx context.Context) (r RangeInfo, err error) {
	err = o.call(ctx, http.MethodGet, "/pontoon/v1/meta", nil, &r)
	return r, err
}
