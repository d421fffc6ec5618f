package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Op is a change of the ranges as /pontoon/v1/ops shows it.
type Op struct {
	ID         uint64 `json:"id"`
	Kind       string `json:"kind"`
	Range      uint64 `json:"range"`
	Generation uint64 `json:"generation"` // that the range had when it began
	Key        []byte `json:"key"`        // a split: the first key of the right part
	KeyText    string `json:"key_text"`
	Child      uint64 `json:"child"`          // a split: the right part's id
	From       string `json:"from,omitempty"` // a move: the node that gives its replica up, in hexadecimal digits
	To         string `json:"to,omitempty"`   // a move: the node that gets one
	Reason     string `json:"reason"`
	Outcome    string `json:"outcome"`           // under way, done or given up
	Waiting    string `json:"waiting,omitempty"` // why it has not got on lately, while it is under way
	Failure    string `json:"failure,omitempty"` // why it was given up
	Began      string `json:"began"`             // RFC 3339
	Ended      string `json:"ended,omitempty"`
	// StoodMicros is how long requests to the range had to wait, in microseconds; 0 where nobody knows.
	StoodMicros int64 `json:"stood_us"`
}

// Ops changes the ranges. BeginSplit returns when a split at key is decided, up to the context's end; what becomes of it Op tells. List has
// those that are under way, and the last that are over. An error that is no StatusError is one of a service that is not available.
type Ops interface {
	// sticky is for how long the border is to stay, 0: it need not, below 0: until that is taken back.
	BeginSplit(ctx context.Context, key []byte, sticky time.Duration, reason string) (Op, error)
	// BeginMerge is the same for a merge: key is the border that goes.
	BeginMerge(ctx context.Context, key []byte, reason string) (Op, error)
	// BeginMove is the same for a move. from and to are names of nodes or their ids in hexadecimal digits; empty: none.
	BeginMove(ctx context.Context, id uint64, from, to, reason string) (Op, error)
	Op(ctx context.Context, id uint64) (Op, error)
	List(ctx context.Context) ([]Op, error)
}

// Borders takes back that the border at key is to stay. An error is as one of Ops.
type Borders interface {
	Unstick(ctx context.Context, key []byte) (Border, error)
}

// Border is a border that need not stay any more.
type Border struct {
	Key     []byte `json:"key"`
	KeyText string `json:"key_text"`
}

// beginOpBody is what POST /pontoon/v1/ops takes. Bytes are in base64, as in all of etcd's JSON; a key that is text may be
// given as that.
type beginOpBody struct {
	Split *splitBody  `json:"split"`
	Merge *borderBody `json:"merge"`
	Move  *struct {
		Range uint64 `json:"range"`
		From  string `json:"from"`
		To    string `json:"to"`
	} `json:"move"`
	Reason string `json:"reason"`
	// TimeoutMs is the client's patience; 0: the server's.
	TimeoutMs int64 `json:"timeout_ms"`
}

// splitBody is where a range is to be cut, and whether the border is to stay: until that is taken back unless something else is said.
type splitBody struct {
	borderBody
	Sticky  *bool `json:"sticky"`
	StickyS int64 `json:"sticky_s"` // for how many seconds; 0: not for a time
}

// sticky is for how long it is to stay; false: that makes no sense.
func (b *splitBody) sticky() (time.Duration, bool) {
	switch {
	case b.StickyS < 0 || b.StickyS > int64(math.MaxInt64/time.Second) || b.StickyS > 0 && b.Sticky != nil && !*b.Sticky:
		return 0, false
	case b.StickyS > 0:
		return time.Duration(b.StickyS) * time.Second, true
	case b.Sticky != nil && !*b.Sticky:
		return 0, true
	}
	return -1, true
}

// borderBody is a border: where a range is to be cut, or one that is to go.
type borderBody struct {
	Key     []byte  `json:"key"`
	KeyText *string `json:"key_text"`
}

// key is it; false: it is said twice.
func (b *borderBody) key() ([]byte, bool) {
	if b.KeyText == nil {
		return b.Key, true
	}
	return []byte(*b.KeyText), b.Key == nil
}

// beginOpBytesMax bounds the body.
const beginOpBytesMax = 16 << 10

// serveBeginOp decides an op, and answers when that is done: 202, for it has only begun.
func (cfg *Config) serveBeginOp(w http.ResponseWriter, r *http.Request) {
	if !onlyJSON(w, r) {
		return
	}
	var body beginOpBody
	err := json.NewDecoder(io.LimitReader(r.Body, beginOpBytesMax)).Decode(&body)
	begin := body.begin()
	if err != nil || begin == nil {
		http.Error(w, `the body must say what is to be done: {"split": {"key_text": "m"}}, {"split": {"key": "bQ==", "sticky_s": 3600}} with the key in base64 and a border that stays for an hour, {"split": {"key_text": "m", "sticky": false}}, {"merge": {"key_text": "m"}}, or {"move": {"range": 2, "from": "n1", "to": "n4"}}`, http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cfg.patience(body.TimeoutMs))
	defer cancel()
	op, err := begin(ctx, cfg.Ops)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", "/pontoon/v1/ops/"+strconv.FormatUint(op.ID, 10))
	w.WriteHeader(http.StatusAccepted)
	writeJSON(w, op)
}

// serveUnstick takes back that a border is to stay.
func (cfg *Config) serveUnstick(w http.ResponseWriter, r *http.Request) {
	if !onlyJSON(w, r) {
		return
	}
	var body borderBody
	err := json.NewDecoder(io.LimitReader(r.Body, beginOpBytesMax)).Decode(&body)
	key, once := body.key()
	if err != nil || !once {
		http.Error(w, `the body must name a border: {"key_text": "m"}, or {"key": "bQ=="} with the key in base64`, http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	border, err := cfg.Borders.Unstick(ctx, key)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, border)
}

// begin is what begins the one op that is asked for; nil: it is not one.
func (b *beginOpBody) begin() func(context.Context, Ops) (Op, error) {
	switch {
	case b.Split != nil && b.Merge == nil && b.Move == nil:
		key, once := b.Split.key()
		if sticky, ok := b.Split.sticky(); once && ok {
			return func(ctx context.Context, ops Ops) (Op, error) { return ops.BeginSplit(ctx, key, sticky, b.Reason) }
		}
	case b.Merge != nil && b.Split == nil && b.Move == nil:
		if key, once := b.Merge.key(); once {
			return func(ctx context.Context, ops Ops) (Op, error) { return ops.BeginMerge(ctx, key, b.Reason) }
		}
	case b.Move != nil && b.Split == nil && b.Merge == nil:
		return func(ctx context.Context, ops Ops) (Op, error) {
			return ops.BeginMove(ctx, b.Move.Range, b.Move.From, b.Move.To, b.Reason)
		}
	}
	return nil
}

func (cfg *Config) serveOps(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	list, err := cfg.Ops.List(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, append([]Op{}, list...)) // not null
}

func (cfg *Config) serveOp(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		http.Error(w, "no op has the id "+strconv.Quote(r.PathValue("id")), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	op, err := cfg.Ops.Op(ctx, id)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, op)
}

// patience is what a client asks for, if that is less than the server's.
func (cfg *Config) patience(ms int64) time.Duration {
	if ms > 0 && ms < cfg.RequestTimeout.Milliseconds() {
		return time.Duration(ms) * time.Millisecond
	}
	return cfg.RequestTimeout
}
