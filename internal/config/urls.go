package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// parseURLs reads a comma-separated list. Empty text is an empty list; duplicates are dropped,
// the order is kept.
func parseURLs(text string) ([]url.URL, error) {
	if text == "" {
		return nil, nil
	}
	var out []url.URL
	seen := map[string]bool{}
	for _, part := range strings.Split(text, ",") {
		u, err := parseURL(part)
		if err != nil {
			return nil, err
		}
		if !seen[u.String()] {
			seen[u.String()] = true
			out = append(out, *u)
		}
	}
	return out, nil
}

func parseURL(text string) (*url.URL, error) {
	text = strings.TrimSpace(text)
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http", "https":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return nil, fmt.Errorf(`URL address does not have the form "host:port": %s`, text)
		}
		if u.Path != "" {
			return nil, fmt.Errorf("URL must not contain a path: %s", text)
		}
	case "unix", "unixs":
	default:
		return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
	}
	return u, nil
}

func mustURLs(text string) []url.URL {
	us, err := parseURLs(text)
	if err != nil {
		panic(fmt.Sprintf("config: built-in URL %q: %v", text, err))
	}
	return us
}

// URLStrings renders a list.
func URLStrings(us []url.URL) []string {
	out := make([]string, len(us))
	for i := range us {
		out[i] = us[i].String()
	}
	return out
}

func joinURLs(us []url.URL) string { return strings.Join(URLStrings(us), ",") }

func isUnix(u *url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

// ListenAddress tells net.Listen where a URL points.
func ListenAddress(u *url.URL) (network, address string) {
	if isUnix(u) {
		// unix://host:port is a file of that name in the working directory, as in etcd.
		return "unix", u.Host + u.Path
	}
	return "tcp", u.Host
}

// checkBind refuses names: what a name resolves to may change, a socket does not.
func checkBind(us []url.URL) error {
	for i := range us {
		u := &us[i]
		if isUnix(u) {
			continue
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil {
			return err
		}
		if host != "localhost" && net.ParseIP(host) == nil {
			return fmt.Errorf("expected IP in URL for binding (%s)", u.String())
		}
	}
	return nil
}

func checkHost(us []url.URL) error {
	for i := range us {
		u := &us[i]
		if isUnix(u) {
			continue
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil {
			return err
		}
		if host == "" {
			return fmt.Errorf("unexpected empty host (%s)", u.String())
		}
	}
	return nil
}

// resolver finds the addresses of a host name.
type resolver func(host string) ([]string, error)

// sameURLs tells whether two lists point to the same places, resolving names only where the
// texts differ.
func sameURLs(a, b []string, lookup resolver) error {
	if len(a) != len(b) {
		return fmt.Errorf("len(%q) != len(%q)", a, b)
	}
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	if slices.Equal(a, b) {
		return nil
	}
	ra, err := resolveAll(a, lookup)
	if err != nil {
		return err
	}
	rb, err := resolveAll(b, lookup)
	if err != nil {
		return err
	}
	for i := range ra {
		if ra[i] != rb[i] {
			return fmt.Errorf("resolved urls: %q != %q", ra, rb)
		}
	}
	return nil
}

func resolveAll(urls []string, lookup resolver) ([]string, error) {
	out := make([]string, len(urls))
	for i, text := range urls {
		u, err := parseURL(text)
		if err != nil {
			return nil, err
		}
		out[i] = text
		host, port, err := net.SplitHostPort(u.Host)
		if isUnix(u) || err != nil || net.ParseIP(host) != nil {
			continue
		}
		addrs, err := lookup(host)
		if err != nil || len(addrs) == 0 {
			return nil, fmt.Errorf("failed to resolve %q: %w", host, err)
		}
		slices.SortFunc(addrs, func(x, y string) int { // IPv4 first: the form most are written in
			if d := strings.Count(x, ":") - strings.Count(y, ":"); d != 0 {
				return d
			}
			return strings.Compare(x, y)
		})
		out[i] = u.Scheme + "://" + net.JoinHostPort(addrs[0], port)
	}
	slices.Sort(out)
	return out, nil
}
