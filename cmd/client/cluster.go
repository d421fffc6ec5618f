package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"

	"pontoon/internal/exitcode"
)

// nodeStatus is the status of one endpoint.
type nodeStatus struct {
	Endpoint string                   `json:"Endpoint"`
	Status   *clientv3.StatusResponse `json:"Status"`
}

func (a *app) statusCommand() *cobra.Command {
	var cluster bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows the status of every endpoint",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *clientv3.Client) error {
				endpoints, err := a.endpoints(cmd.Context(), c, cluster)
				if err != nil {
					return err
				}
				var list []nodeStatus
				var failed error
				for _, ep := range endpoints {
					st, err := a.status(cmd.Context(), ep)
					if err != nil {
						fmt.Fprintf(a.err, "Failed to get the status of endpoint %s (%v)\n", ep, err)
						failed = err
						continue
					}
					list = append(list, nodeStatus{Endpoint: ep, Status: st})
				}
				return errors.Join(a.print.cluster.status(list), failed)
			})
		},
	}
	cmd.Flags().BoolVar(&cluster, "cluster", false, "all members' client addresses instead of --endpoints")
	return cmd
}

// status asks one endpoint over a connection of its own, so that one that is down does not
// delay the others.
func (a *app) status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	c, err := a.newConn([]string{endpoint})
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // the answer counts, not the parting
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	return c.Status(ctx, endpoint)
}

// endpoints are those given, or all of the cluster's.
func (a *app) endpoints(ctx context.Context, c *clientv3.Client, cluster bool) ([]string, error) {
	if !cluster {
		return a.flags.endpoints, nil
	}
	ctx, cancel := a.briefly(ctx)
	defer cancel()
	resp, err := c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch endpoints from the member list: %w", err)
	}
	var eps []string
	for _, m := range resp.Members {
		eps = append(eps, m.ClientURLs...)
	}
	return eps, nil
}

func (a *app) membersCommand() *cobra.Command {
	var consistency string
	cmd := &cobra.Command{
		Use:     "members",
		Aliases: []string{"member-list"},
		Short:   "Lists the members of the cluster",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var opts []clientv3.OpOption
			if consistency == "s" {
				opts = append(opts, clientv3.WithSerializable())
			}
			return a.with(func(c *clientv3.Client) error {
				ctx, cancel := a.briefly(cmd.Context())
				defer cancel()
				resp, err := c.MemberList(ctx, opts...)
				if err != nil {
					return err
				}
				return a.print.cluster.members(resp)
			})
		},
	}
	cmd.Flags().StringVar(&consistency, "consistency", "l", "linearizable (l) or serializable (s)")
	return cmd
}

// rangesPath is where a node lists the ranges of the cluster as JSON, on its client port.
const rangesPath = "/pontoon/v1/ranges"

// rangesBytesMax bounds the list; a range takes some 400 bytes.
const rangesBytesMax = 256 << 20

// rangeInfo is one range as rangesPath shows it.
type rangeInfo struct {
	ID         uint64        `json:"id"`
	Start      []byte        `json:"start"`
	End        []byte        `json:"end"` // empty: to the last key
	StartText  string        `json:"start_text"`
	EndText    string        `json:"end_text"`
	Generation uint64        `json:"generation"`
	Leader     uint64        `json:"leader"` // member id; 0: unknown
	Term       uint64        `json:"term"`
	Replicas   []replicaInfo `json:"replicas"`
	Keys       int64         `json:"keys"`
	Size       int64         `json:"size"`        // bytes of the file
	SizeInUse  int64         `json:"size_in_use"` // bytes
	Revision   int64         `json:"revision"`
	Applied    uint64        `json:"applied"`
	Quiescent  bool          `json:"quiescent"`
	// Sticky: the border at Start is to stay, until StickyUntil, or where that is zero until it is taken back.
	Sticky      bool      `json:"sticky"`
	StickyUntil time.Time `json:"sticky_until,omitzero"`
}

type replicaInfo struct {
	Replica uint64 `json:"replica"`
	Node    uint64 `json:"node"`
	Name    string `json:"name"`
}

func (a *app) rangesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ranges",
		Args:  cobra.NoArgs,
		Short: "Shows how the key space is cut: each range's span, leader, replicas and size",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.briefly(cmd.Context())
			defer cancel()
			var failed error
			for _, ep := range a.flags.endpoints {
				ranges, err := a.fetchRanges(ctx, ep)
				if err == nil {
					return a.print.cluster.ranges(ranges)
				}
				failed = errors.Join(failed, fmt.Errorf("%s: %w", ep, err))
			}
			return exitcode.With(exitBadConnection, failed)
		},
	}
	cmd.AddCommand(a.leadCommand(), a.splitCommand(), a.moveCommand(), a.mergeCommand(), a.unstickCommand())
	return cmd
}

// do sends a request to the HTTP side of a node's client port. The caller closes the answer's body.
func (a *app) do(ctx context.Context, method, endpoint, path string, body io.Reader) (*http.Response, error) {
	url, err := a.flags.httpURL(endpoint, path)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := a.flags.tlsConfig(endpoint)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch token, err := a.token(ctx, endpoint); {
	case err != nil:
		return nil, err
	case token != "":
		req.Header.Set("Authorization", token)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}
	if path, ok := socket(endpoint); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	return (&http.Client{Transport: transport}).Do(req)
}

func (a *app) fetchRanges(ctx context.Context, endpoint string) ([]rangeInfo, error) {
	resp, err := a.do(ctx, http.MethodGet, endpoint, rangesPath, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the node answered %s", resp.Status)
	}
	var ranges []rangeInfo
	if err := json.NewDecoder(io.LimitReader(resp.Body, rangesBytesMax)).Decode(&ranges); err != nil {
		return nil, fmt.Errorf("the node's list of ranges: %w", err)
	}
	return ranges, nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.out, "pontoon client, for etcd API %s\nAPI version: %s\nGo version: %s\n", version.Version, version.APIVersion, runtime.Version())
			return err
		},
	}
}
