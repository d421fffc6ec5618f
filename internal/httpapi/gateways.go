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
	// Level is how many gateways stand one behind the other on the way of its feeds, with it; 0: it has not told.
	Level     uint32     `json:"level,omitempty"`
	Upstreams []Upstream `json:"upstreams,omitempty"`
}

// Upstream is where a gateway was told to have feeds from.
type Upstream struct {
	URL     string `json:"url"`
	Gateway uint64 `json:"gateway"`           // who is there; 0: nobody that is reached
	Feeds   int64  `json:"feeds"`             // of ranges, that come from there
	Refused string `json:"refused,omitempty"` // why none does
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
