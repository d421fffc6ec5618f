package tlsport

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
)

type fakeDNS struct{ names, addrs map[string][]string }

var errNoSuchHost = errors.New("no such host")

func (d fakeDNS) LookupAddr(_ context.Context, addr string) ([]string, error) {
	if ns := d.names[addr]; ns != nil {
		return ns, nil
	}
	return nil, errNoSuchHost
}

func (d fakeDNS) LookupHost(_ context.Context, host string) ([]string, error) {
	if as := d.addrs[host]; as != nil {
		return as, nil
	}
	return nil, errNoSuchHost
}

func TestNamesAddress(t *testing.T) {
	dns := fakeDNS{
		names: map[string][]string{"10.0.0.1": {"n1.example."}, "10.0.0.3": {"n3.sub.example."}},
		addrs: map[string][]string{"n2.example": {"10.0.0.9", "10.0.0.2"}},
	}
	for _, tt := range []struct {
		ips, names []string
		remote     string
		want       string // in the error; "": let in
	}{
		{nil, nil, "10.0.0.1:99", ""},
		{[]string{"10.0.0.1"}, nil, "10.0.0.1:99", ""},
		{[]string{"10.0.0.1"}, nil, "10.0.0.2:99", "not 10.0.0.2"},
		{nil, []string{"n1.example"}, "10.0.0.1:99", ""},
		{nil, []string{"*.example"}, "10.0.0.1:99", ""},
		{nil, []string{"*example"}, "10.0.0.1:99", "does not match any of DNSNames"},
		{nil, []string{"*.sub.example"}, "10.0.0.3:99", ""},
		{[]string{"10.0.0.7"}, []string{"n2.example"}, "10.0.0.2:99", ""},
		{nil, []string{"n2.example"}, "10.0.0.1:99", `tls: "10.0.0.1" does not match any of DNSNames ["n2.example"]`},
		{nil, []string{"*.example"}, "10.0.0.2:99", `(no such host)`},
		{nil, []string{"n1.example"}, "@", "missing port"},
	} {
		cert := &x509.Certificate{DNSNames: tt.names}
		for _, ip := range tt.ips {
			cert.IPAddresses = append(cert.IPAddresses, net.ParseIP(ip))
		}
		err := namesAddress(t.Context(), dns, cert, tt.remote)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v from %s: %v", tt, tt.remote, err)
		}
	}
}
