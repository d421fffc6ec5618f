package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pontoon/internal/config"
	"pontoon/test/nameserver"
)

// ask lets the process look names up in a zone while the test runs.
func ask(t *testing.T, z *nameserver.Zone) {
	t.Helper()
	s, err := nameserver.Listen("127.0.0.1:0", z)
	if err != nil {
		t.Fatal(err)
	}
	resolveBy(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", s.Addr())
	})
	t.Cleanup(func() { _ = s.Close() })
}

func resolveBy(t *testing.T, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dial}
	t.Cleanup(func() { net.DefaultResolver = before })
}

func urls(t *testing.T, texts ...string) (out []url.URL) {
	t.Helper()
	for _, s := range texts {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, *u)
	}
	return out
}

func TestRecords(t *testing.T) {
	ask(t, &nameserver.Zone{
		Services: []nameserver.Service{
			{Name: "_etcd-server._tcp.plain.test.", Target: "a.test.", Port: 2380},
			{Name: "_etcd-server._tcp.plain.test.", Target: "b.test.", Port: 2380},
			{Name: "_etcd-server._tcp.plain.test.", Target: "c.test.", Port: 2381},
			{Name: "_etcd-server-ssl._tcp.secure.test.", Target: "a.test.", Port: 2380},
			{Name: "_etcd-server-ssl._tcp.secure.test.", Target: "b.test.", Port: 2380},
			{Name: "_etcd-server-ssl._tcp.mixed.test.", Target: "a.test.", Port: 2380},
			{Name: "_etcd-server-ssl._tcp.mixed.test.", Target: "d.test.", Port: 2380},
			{Name: "_etcd-server._tcp.mixed.test.", Target: "b.test.", Port: 2380},
			{Name: "_etcd-server._tcp.mixed.test.", Target: "c.test.", Port: 2380},
			{Name: "_etcd-server-blue._tcp.plain.test.", Target: "c.test.", Port: 99},
			{Name: "_etcd-server-ssl-blue._tcp.secure.test.", Target: "c.test.", Port: 98},
			{Name: "_etcd-server._tcp.partial.test.", Target: "a.test.", Port: 2380},
			{Name: "_etcd-server._tcp.partial.test.", Target: "gone.test.", Port: 2380},
			{Name: "_etcd-server._tcp.allgone.test.", Target: "gone.test.", Port: 2380},
			{Name: "_etcd-server-ssl._tcp.otherscheme.test.", Target: "a.test.", Port: 2380},
			{Name: "_etcd-server._tcp.withoutself.test.", Target: "b.test.", Port: 2380},
		},
		Hosts: map[string]netip.Addr{"a.test.": netip.MustParseAddr("10.1.0.1"), "b.test.": netip.MustParseAddr("10.1.0.2"),
			"c.test.": netip.MustParseAddr("10.1.0.3"), "d.test.": netip.MustParseAddr("10.1.0.4")},
	})
	for _, c := range []struct {
		name, domain, service, own, as string
		self, others                   string // URLs, sorted
		err                            string
	}{
		{"plain", "plain.test", "", "http://10.1.0.1:2380", "n1", "http://a.test:2380", "http://b.test:2380 http://c.test:2381", ""},
		{"by name", "plain.test", "", "http://b.test:2380", "n1", "http://b.test:2380", "http://a.test:2380 http://c.test:2381", ""},
		{"a number as a name", "plain.test", "", "http://10.1.0.2:2380", "1", "http://b.test:2380", "http://a.test:2380 http://c.test:2381", ""},
		{"secure", "secure.test", "", "https://a.test:2380", "n1", "https://a.test:2380", "https://b.test:2380", ""},
		{"both kinds", "mixed.test", "", "https://a.test:2380", "n1", "https://a.test:2380", "http://b.test:2380 http://c.test:2380 https://d.test:2380", ""},
		{"a service of a name", "plain.test", "blue", "http://c.test:99", "n1", "http://c.test:99", "", ""},
		{"the same, secure", "secure.test", "blue", "https://c.test:98", "n1", "https://c.test:98", "", ""},
		{"a host that is unknown", "partial.test", "", "http://a.test:2380", "n1", "http://a.test:2380", "", ""},
		{"without the node", "withoutself.test", "", "http://a.test:2380", "n1", "", "http://b.test:2380", ""},
		{"nothing", "empty.test", "", "http://a.test:2380", "n1", "", "", "error querying DNS SRV records for _etcd-server"},
		{"no host is known", "allgone.test", "", "http://a.test:2380", "n1", "", "", "gone.test"},
		{"scheme of the own URL", "otherscheme.test", "", "http://a.test:2380", "n1", "", "", "has scheme mismatch with expected peer http://a.test:2380"},
		{"own host unknown", "plain.test", "", "http://gone.test:2380", "n1", "", "", "gone.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Records(t.Context(), &config.Discovery{Domain: c.domain, Service: c.service}, c.as, urls(t, c.own), slog.New(slog.DiscardHandler))
			var self, others, names []string
			for _, m := range strings.FieldsFunc(got, func(r rune) bool { return r == ',' }) {
				name, u, _ := strings.Cut(m, "=")
				names = append(names, name)
				if name == c.as {
					self = append(self, u)
				} else {
					others = append(others, u)
				}
			}
			slices.Sort(others)
			slices.Sort(names)
			if strings.Join(self, " ") != c.self || strings.Join(others, " ") != c.others || len(slices.Compact(names)) != len(self)+len(others) {
				t.Errorf("found %q", got)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

// TestRecordsGiveUp: a name server that is silent holds nobody up who wants to stop.
func TestRecordsGiveUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked, let := make(chan struct{}, 1), make(chan struct{})
	resolveBy(t, func(context.Context, string, string) (net.Conn, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-let
		return nil, errors.New("no network")
	})
	got := make(chan error, 1)
	go func() {
		_, err := Records(ctx, &config.Discovery{Domain: "plain.test"}, "n1", urls(t, "http://10.1.0.1:2380"), slog.New(slog.DiscardHandler))
		got <- err
	}()
	<-asked
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(let)
}
