package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// StatusError is an error and how HTTP says it.
type StatusError struct {
	Status int
	Err    error
}

// Error implements error.
func (e *StatusError) Error() string { return e.Err.Error() }

// Unwrap returns the error.
func (e *StatusError) Unwrap() error { return e.Err }

// Transferrer moves the leaders of ranges. to is the name of a node, or its id in hexadecimal digits. It returns when
// the node leads, up to the context's end. An error that is no StatusError is one of a service that is not available.
type Transferrer interface {
	Transfer(ctx context.Context, id uint64, to string) (Transferred, error)
}

// Transferred is the outcome of POST /pontoon/v1/ranges/ID/leader.
type Transferred struct {
	Range  uint64 `json:"range"`
	Leader uint64 `json:"leader"` // node id
	Name   string `json:"name"`
	Term   uint64 `json:"term"`
	// StoodMicros is how long requests to the range had to wait, in microseconds.
	StoodMicros int64 `json:"stood_us"`
}

// transferBody is what POST /pontoon/v1/ranges/ID/leader takes.
type transferBody struct {
	Node string `json:"node"`
	// TimeoutMs is the client's patience; 0: the server's. What takes longer is given up, and the error says why.
	TimeoutMs int64 `json:"timeout_ms"`
}

// transferBytesMax bounds the body.
const transferBytesMax = 4096

// onlyJSON refuses a body that does not say that it is JSON: a page of another origin cannot send that without asking first.
func onlyJSON(w http.ResponseWriter, r *http.Request) bool {
	if typ, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && typ == "application/json" {
		return true
	}
	http.Error(w, "the body must be application/json", http.StatusUnsupportedMediaType)
	return false
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	if se := (*StatusError)(nil); errors.As(err, &se) {
		status = se.Status
	}
	http.Error(w, err.Error(), status)
}

// serveTransfer moves a leader.
func (cfg *Config) serveTransfer(w http.ResponseWriter, r *http.Request) {
	if !onlyJSON(w, r) {
		return
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(r.PathValue("id"), "r"), 10, 64)
	if err != nil {
		http.Error(w, "no range has the id "+strconv.Quote(r.PathValue("id")), http.StatusBadRequest)
		return
	}
	var body transferBody
	if err := json.NewDecoder(io.LimitReader(r.Body, transferBytesMax)).Decode(&body); err != nil || body.Node == "" {
		http.Error(w, `the body must name a node: {"node": "n1"}`, http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cfg.patience(body.TimeoutMs))
	defer cancel()
	out, err := cfg.Transfers.Transfer(ctx, id, body.Node)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, out)
}
