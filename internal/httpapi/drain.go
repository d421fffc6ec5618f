package httpapi

import (
	"context"
	"net/http"
)

// Drainer tells how much is on a member, and marks those that are to be emptied. node is a name, or an id in hexadecimal digits. An error that is no
// StatusError is one of a service that is not available.
type Drainer interface {
	Placement(ctx context.Context, node string) (Placement, error)
	// Drain begins to empty a member of leaders and replicas, or lets it take some again, and returns when that is decided.
	Drain(ctx context.Context, node string, drain bool) (Placement, error)
}

// Placement is what /pontoon/v1/nodes/NODE tells of a member.
type Placement struct {
	Node     uint64 `json:"node"`
	Name     string `json:"name"`
	State    string `json:"state"`    // present, draining or leaving
	Replicas int    `json:"replicas"` // that are placed on it, that of the meta group too
	// Leads is how many of them lead, but for that, and Bytes what is in use in them; absent where nobody has told.
	Leads *int64 `json:"leads,omitempty"`
	Bytes *int64 `json:"bytes,omitempty"`
}

func (cfg *Config) servePlacement(w http.ResponseWriter, r *http.Request) {
	cfg.answerPlacement(w, r, func(ctx context.Context) (Placement, error) { return cfg.Drains.Placement(ctx, r.PathValue("node")) })
}

func (cfg *Config) serveDrain(w http.ResponseWriter, r *http.Request)   { cfg.drain(w, r, true) }
func (cfg *Config) serveUndrain(w http.ResponseWriter, r *http.Request) { cfg.drain(w, r, false) }

func (cfg *Config) drain(w http.ResponseWriter, r *http.Request, drain bool) {
	if !onlyJSON(w, r) {
		return
	}
	cfg.answerPlacement(w, r, func(ctx context.Context) (Placement, error) { return cfg.Drains.Drain(ctx, r.PathValue("node"), drain) })
}

func (cfg *Config) answerPlacement(w http.ResponseWriter, r *http.Request, ask func(context.Context) (Placement, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	p, err := ask(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, p)
}
