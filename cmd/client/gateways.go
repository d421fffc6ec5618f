package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// gatewaysPath is where a node lists the gateways that live, on its client port.
const gatewaysPath = "/pontoon/v1/gateways"

// gatewayInfo is a gateway as gatewaysPath shows it.
type gatewayInfo struct {
	Gateway     uint64   `json:"gateway"`
	Name        string   `json:"name"`
	ClientURLs  []string `json:"client_urls"`
	Version     string   `json:"version"`
	Watchers    int64    `json:"watchers"`
	Streams     int64    `json:"streams"`
	MirrorKeys  int64    `json:"mirror_keys"`
	MirrorBytes int64    `json:"mirror_bytes"`
	AgeMillis   int64    `json:"age_ms"`

	Level     uint32         `json:"level,omitempty"`
	Upstreams []upstreamInfo `json:"upstreams,omitempty"`
}

// upstreamInfo is where a gateway was told to have feeds from.
type upstreamInfo struct {
	URL     string `json:"url"`
	Gateway uint64 `json:"gateway"`
	Feeds   int64  `json:"feeds"`
	Refused string `json:"refused,omitempty"`
}

// upstreams tells in short where a gateway has its feeds from.
func (g *gatewayInfo) upstreams() string {
	if len(g.Upstreams) == 0 {
		return "members"
	}
	var all []string
	for _, u := range g.Upstreams {
		switch {
		case u.Refused != "":
			all = append(all, u.URL+" (refused: "+u.Refused+")")
		case u.Gateway == 0:
			all = append(all, u.URL+" (not reached)")
		default:
			all = append(all, fmt.Sprintf("%s (%d feeds)", u.URL, u.Feeds))
		}
	}
	return strings.Join(all, ", ")
}

func (a *app) gatewaysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "gateways",
		Short: "Lists the gateways: processes without replicas that serve clients and watches",
		Long: "Lists the gateways that the cluster has heard of in the last 15 seconds, with what each has said of itself. After a change of the meta group's\n" +
			"leader it takes five seconds until all are there again. A gateway is `node --role=gateway --join=PEER-URL`.",
		ValidArgsFunction: cobra.NoFileCompletions,
		Args:              takes(0, 0, "gateways takes no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			var all []gatewayInfo
			if err := a.ask(ctx, gatewaysPath, &all); err != nil {
				return err
			}
			return a.print.nodes.gateways(all)
		},
	}
}

func (n nodesPrinter) gateways(all []gatewayInfo) error {
	v := rendering{json: all, header: []string{"ID", "name", "client addrs", "version", "streams", "watchers", "mirrored keys", "mirrored bytes", "feeds from", "heard of"}}
	for _, g := range all {
		v.rows = append(v.rows, []string{fmt.Sprintf("%x", g.Gateway), g.Name, strings.Join(g.ClientURLs, ","), g.Version, fmt.Sprint(g.Streams), fmt.Sprint(g.Watchers),
			fmt.Sprint(g.MirrorKeys), size(g.MirrorBytes), g.upstreams(),
			(time.Duration(g.AgeMillis) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"})
	}
	v.simple = func(w io.Writer) {
		for _, row := range v.rows {
			fmt.Fprintln(w, strings.Join(row, ", "))
		}
	}
	v.fields = func(w *fieldWriter) {
		for _, g := range all {
			w.field("Gateway", g.Gateway)
			w.line("%q : %q", "Name", g.Name)
			for _, u := range g.ClientURLs {
				w.line("%q : %q", "ClientURL", u)
			}
			w.line("%q : %q", "Version", g.Version)
			w.field("Streams", g.Streams)
			w.field("Watchers", g.Watchers)
			w.field("MirrorKeys", g.MirrorKeys)
			w.field("MirrorBytes", g.MirrorBytes)
			w.field("Level", g.Level)
			for _, u := range g.Upstreams {
				w.line("%q : %q", "Upstream", u.URL)
				w.field("UpstreamGateway", u.Gateway)
				w.field("UpstreamFeeds", u.Feeds)
				w.line("%q : %q", "UpstreamRefused", u.Refused)
			}
			w.field("AgeMillis", g.AgeMillis)
		}
	}
	return n.show(v)
}
