package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Op is a change of the ranges as a node tells it.
type Op struct {
	ID          uint64 `json:"id"`
	Kind        string `json:"kind"`
	Range       uint64 `json:"range"`
	Key         []byte `json:"key"`
	Child       uint64 `json:"child"`
	Reason      string `json:"reason"`
	Outcome     string `json:"outcome"`
	Failure     string `json:"failure"`
	Waiting     string `json:"waiting"`
	StoodMicros int64  `json:"stood_us"`
}

// Over reports whether the op has come to its end.
func (o *Op) Over() bool { return o.Outcome != "" && o.Outcome != "under way" }

// Stood is for how long requests to the range had to wait; 0 where nobody knows.
func (o *Op) Stood() time.Duration { return time.Duration(o.StoodMicros) * time.Microsecond }

// Refusal is an answer of a node that says what is wrong.
type Refusal struct {
	Status int
	Text   string
}

func (e *Refusal) Error() string { return fmt.Sprintf("%d %s", e.Status, e.Text) }

// Ops begins and lists changes of the ranges, by way of a node. Errors of its methods are *Refusal where the node has answered.
type Ops struct {
	ClientURL string
	HTTP      *http.Client // nil: the default one
}

// BeginSplit has the range that holds a key cut there; it returns when that is decided, not when it is done.
func (o Ops) BeginSplit(ctx context.Context, key, reason string) (op Op, err error) {
	return o.begin(ctx, map[string]any{"split": map[string]any{"key": []byte(key)}, "reason": reason})
}

// BeginLooseSplit is BeginSplit at a border that need not stay.
func (o Ops) BeginLooseSplit(ctx context.Context, key, reason string) (op Op, err error) {
	return o.begin(ctx, map[string]any{"split": map[string]any{"key": []byte(key), "sticky": false}, "reason": reason})
}

// BeginMerge has the range that begins at key become part of its left neighbour.
func (o Ops) BeginMerge(ctx context.Context, key, reason string) (op Op, err error) {
	return o.begin(ctx, map[string]any{"merge": map[string]any{"key": []byte(key)}, "reason": reason})
}

// BeginMove has a range's replica moved from a node to another; empty: none.
func (o Ops) BeginMove(ctx context.Context, id uint64, from, to, reason string) (op Op, err error) {
	return o.begin(ctx, map[string]any{"move": map[string]any{"range": id, "from": from, "to": to}, "reason": reason})
}

func (o Ops) begin(ctx context.Context, what map[string]any) (op Op, err error) {
	body, err := json.Marshal(what)
	if err != nil {
		return op, err
	}
	err = o.ask(ctx, http.MethodPost, "", body, &op)
	return op, err
}

// Drain moves everything off a node and lets nothing come to it, or ends that.
func (o Ops) Drain(ctx context.Context, node string, drain bool) error {
	how := map[bool]string{true: "drain", false: "undrain"}[drain]
	return o.call(ctx, http.MethodPost, "/pontoon/v1/nodes/"+node+"/"+how, []byte("{}"), &struct{}{})
}

// Moved is the answer to a leader transfer.
type Moved struct {
	Leader uint64 `json:"leader"`
	Name   string `json:"name"`
	Term   uint64 `json:"term"`
	Stood  int64  `json:"stood_us"` // how long requests had to wait
}

// Lead lets the replica on a node lead a range.
func (o Ops) Lead(ctx context.Context, id uint64, node string) (m Moved, err error) {
	body, err := json.Marshal(map[string]string{"node": node})
	if err != nil {
		return m, err
	}
	err = o.call(ctx, http.MethodPost, fmt.Sprintf("/pontoon/v1/ranges/%d/leader", id), body, &m)
	return m, err
}

// Placed is how much is placed on a node.
type Placed struct {
	Replicas int   `json:"replicas"`
	Bytes    int64 `json:"bytes"` // in use
}

// Placement tells how much is on a node.
func (o Ops) Placement(ctx context.Context, node string) (p Placed, err error) {
	err = o.call(ctx, http.MethodGet, "/pontoon/v1/nodes/"+node, nil, &p)
	return p, err
}

// Unstick takes back that the border at key stays.
func (o Ops) Unstick(ctx context.Context, key string) error {
	body, err := json.Marshal(map[string]any{"key": []byte(key)})
	if err != nil {
		return err
	}
	return o.call(ctx, http.MethodPost, "/pontoon/v1/ranges/unstick", body, &struct{}{})
}

// Op tells what has become of an op.
func (o Ops) Op(ctx context.Context, id uint64) (op Op, err error) {
	err = o.ask(ctx, http.MethodGet, fmt.Sprintf("/%d", id), nil, &op)
	return op, err
}

// List has the ops that are under way, and the last that are over.
func (o Ops) List(ctx context.Context) (list []Op, err error) {
	err = o.ask(ctx, http.MethodGet, "", nil, &list)
	return list, err
}

// AllOver lists the ops; one that is not over is an error.
func (o Ops) AllOver(ctx context.Context) ([]Op, error) {
	list, err := o.List(ctx)
	for i := range list {
		if op := &list[i]; err == nil && !op.Over() {
			err = fmt.Errorf("op %d, the %s of range %d, is not over: %s", op.ID, op.Kind, op.Range, op.Waiting)
		}
	}
	return list, err
}

func (o Ops) ask(ctx context.Context, method, path string, body []byte, into any) error {
	return o.call(ctx, method, "/pontoon/v1/ops"+path, body, into)
}

func (o Ops) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, o.ClientURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	client := o.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return &Refusal{resp.StatusCode, strings.TrimSpace(string(b))}
	}
	return json.Unmarshal(b, into)
}
