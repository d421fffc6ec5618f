package httpapi

import (
	"context"
	"net/http"
)

// Gateway is a process without replicas that serves clients, as /pontoon/v1/gateways shows it: as it has told the leader of the meta group last.
type Gateway struct {
	Gateway    uint64   `json:"gateway"`
	Name       string   `json:"name"`
	ClientURLs []string `json:"client_urls"`
	Version    string   `json:"version"`
	Watchers   int64    `json:"watchers"`
	Streams    int64    `json:"streams"` // of watches
	// MirrorKeys is how many keys it has in memory to answer lists, MirrorBytes what these and their values take.
	MirrorKeys  int64 `json:"mirror_keys"`
	MirrorBytes int64 `json:"mirror_bytes"`
	AgeMillis   int64 `json:"age_ms"` // since it has told
}

// GatewayLister lists the gateways that live, by id. An error that is no StatusError is one of a service that is not available.
type GatewayLister interface {
	Gateways(ctx context.Context) ([]Gateway, error)
}

func (cfg *Config) serveGateways(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), cfg.RequestTimeout)
	defer cancel()
	all, err := cfg.Gateways.Gateways(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, all)
}
