package httpapi

import (
	"context"
	"net/http"
)

// Plan is what the planner would do now, as /pontoon/v1/plan shows it.
type Plan struct {
	Mode      string      `json:"mode"`   // for which it is: on, repair or off
	Acts      string      `json:"acts"`   // the mode in which the cluster acts
	AgeMillis int64       `json:"age_ms"` // since the nodes were asked
	Ops       []PlannedOp `json:"ops"`    // first those that may begin
	Nodes     []PlanNode  `json:"nodes"`
}

// PlannedOp is one step of it. Nodes are named.
type PlannedOp struct {
	Kind       string `json:"kind"`  // split, merge, move, transfer (of the lead), give-up or back-off
	Rule       string `json:"rule"`  // of the planner's
	Range      uint64 `json:"range"` // 0: any
	Generation uint64 `json:"generation"`
	Right      uint64 `json:"right,omitempty"` // a merge: the one that becomes part of it
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
	Leader     string `json:"leader,omitempty"` // who is to lead after it
	Key        []byte `json:"key,omitempty"`    // a split at a key
	KeyText    string `json:"key_text,omitempty"`
	Why        string `json:"why"`
	Blocked    string `json:"blocked,omitempty"` // why it may not begin now
	Text       string `json:"text"`              // all of it in one line
}

// PlanNode is a member as the planner sees it.
type PlanNode struct {
	Node         uint64 `json:"node"`
	Name         string `json:"name"`
	State        string `json:"state"` // up, suspect or dead
	SinceSeconds int64  `json:"since_s"`
	Leaves       string `json:"leaves,omitempty"` // draining or removed
	Ranges       int64  `json:"ranges"`           // replicas of them on it
	Leads        int64  `json:"leads"`            // how many of them lead
	Bytes        int64  `json:"bytes"`            // in use in them
}

// Planner tells what would be done in a mode; empty: in the one in which the cluster acts. An error that is no StatusError is one of a
// service that is not available.
type Planner interface {
	Plan(ctx context.Context, mode string) (Plan, error)
}

// servePlan changes nothing.
func (cfg *Config) servePlan(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	plan, err := cfg.Plans.Plan(ctx, r.URL.Query().Get("mode"))
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, plan)
}
