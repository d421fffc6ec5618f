package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strconv"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/srv"

	"pontoon/internal/config"
)

const (
	serverService = "etcd-server" // what a member's peer port is called in DNS
	self          = "self"        // what the node is called among numbers
)

// Records lists the members that DNS has for a domain, those with TLS first, as --initial-cluster names them. The one whose address is
// that of an advertised URL is called name, the others by numbers. It is an error if there are none; that records of one of the two kinds are missing
// is not. A lookup that ctx has cut short goes on until its own timeouts.
func Records(ctx context.Context, d *config.Discovery, name string, advertised []url.URL, log *slog.Logger) (string, error) {
	type answer struct {
		members []string
		err     error
	}
	var found []string
	var errs []error
	for _, scheme := range []string{"https", "http"} {
		service := srv.GetSRVService(serverService, d.Service, scheme)
		done := make(chan answer, 1)
		go func() {
			members, err := srv.GetCluster(scheme, service, self, d.Domain, advertised)
			done <- answer{members, err}
		}()
		select {
		case a := <-done:
			log.Info("get cluster for "+service+" SRV", "service-scheme", scheme, "service-name", service, "server-name", name, "discovery-srv", d.Domain,
				"advertise-peer-urls", config.URLStrings(advertised), "found-cluster", a.members, "error", a.err)
			if a.err != nil {
				errs = append(errs, a.err)
			}
			found = append(found, a.members...)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		log.Warn("failed to resolve during SRV discovery", "error", err)
	}
	if len(found) == 0 {
		return "", err
	}
	found = number(found, name)
	for _, m := range found {
		log.Info("got bootstrap from DNS for etcd-server", "node", m)
	}
	return strings.Join(found, ","), nil
}

// number calls the node by its name and gives all others one of their own, which they replace when they start: etcd counts each kind of records from
// 0, and so would make one member of two.
func number(members []string, name string) []string {
	out := make([]string, len(members))
	next := 0
	for i, m := range members {
		as, url, _ := strings.Cut(m, "=")
		if as == self {
			out[i] = name + "=" + url
			continue
		}
		if strconv.Itoa(next) == name {
			next++
		}
		out[i] = strconv.Itoa(next) + "=" + url
		next++
	}
	return out
}
