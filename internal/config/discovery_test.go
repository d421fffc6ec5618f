package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const manyWays = `multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`

func parsed(t *testing.T, args ...string) *Config {
	t.Helper()
	c, err := Parse(args, Environment{Stdout: os.Stderr, Stderr: os.Stderr})
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return c
}

// TestDiscoveryFlags: every flag goes where it belongs, by the command line and by etcd's configuration file alike.
func TestDiscoveryFlags(t *testing.T) {
	want := Discovery{
		Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}, Token: "t", DialTimeout: time.Second, RequestTimeout: 2 * time.Second,
		KeepAliveTime: 3 * time.Second, KeepAliveTimeout: 4 * time.Second, SkipVerify: true, Cert: "c", Key: "k", CACert: "a", User: "u", Password: "p",
	}
	c := parsed(t, "--name=n1", "--discovery-token=t", "--discovery-endpoints=http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:1", "--discovery-dial-timeout=1s",
		"--discovery-request-timeout=2s", "--discovery-keepalive-time=3s", "--discovery-keepalive-timeout=4s", "--discovery-insecure-transport=false",
		"--discovery-insecure-skip-tls-verify", "--discovery-cert=c", "--discovery-key=k", "--discovery-cacert=a", "--discovery-user=u", "--discovery-password=p", "--discovery-fallback=exit")
	if !reflect.DeepEqual(c.Discovery, want) {
		t.Errorf("flags gave %+v", c.Discovery)
	}
	file := filepath.Join(t.TempDir(), "conf")
	text := `
name: n1
discovery-config:
  token: t
  client:
    endpoints: ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    dial-timeout: 1000000000
    request-timeout: 2000000000
    keepalive-time: 3000000000
    keepalive-timeout: 4000000000
    secure: {cert: c, key: k, cacert: a, insecure-transport: false, insecure-skip-tls-verify: true}
    auth: {username: u, password: p}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := parsed(t, "--config-file="+file); !reflect.DeepEqual(c.Discovery, want) {
		t.Errorf("the file gave %+v", c.Discovery)
	}
	if c := parsed(t, "--discovery-srv=example.org", "--discovery-srv-name=x"); c.Discovery.Domain != "example.org" || c.Discovery.Service != "x" || c.InitialCluster != "" {
		t.Errorf("DNS: %+v, and %q", c.Discovery, c.InitialCluster)
	}
}

// TestDiscovered: ids are those that the same members have by --initial-cluster, whatever way they were found.
func TestDiscovered(t *testing.T) {
	const cluster = "n2=http://127.0.0.1:2,n1=http://127.0.0.1:1"
	static := parsed(t, "--name=n1", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--initial-cluster-token=t", "--initial-cluster="+cluster)
	byService := parsed(t, "--name=n1", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--discovery-token=t", "--discovery-endpoints=http://127.0.0.1:9")
	if byService.NodeID != static.NodeID || OwnEntry(byService) != "n1=http://127.0.0.1:1" {
		t.Errorf("before the others are known: %v registers as %q, want %v", byService.NodeID, OwnEntry(byService), static.NodeID)
	}
	if err := byService.Discovered(cluster); err != nil {
		t.Fatal(err)
	}
	byDNS := parsed(t, "--name=n1", "--initial-advertise-peer-urls=http://127.0.0.1:1", "--initial-cluster-token=t", "--discovery-srv=example.org")
	if err := byDNS.Discovered("0=http://127.0.0.1:2,n1=http://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	for way, c := range map[string]*Config{"service": byService, "DNS": byDNS} {
		if c.ClusterID != static.ClusterID || c.NodeID != static.NodeID || len(c.Members) != 2 {
			t.Errorf("%s: cluster %x, node %v of %v; want %x, %v", way, c.ClusterID, c.NodeID, c.Members, static.ClusterID, static.NodeID)
		}
	}
}

func TestDiscoveredRefused(t *testing.T) {
	const (
		dns     = "--discovery-srv=example.org"
		service = "--discovery-endpoints=http://127.0.0.1:9"
	)
	for _, c := range []struct{ name, way, found, want string }{
		{"others alone", dns, "0=http://127.0.0.1:2", `error setting up initial cluster: cannot find local etcd member "n1" in SRV records`},
		{"twice", service, "n1=http://127.0.0.1:1,n2=http://127.0.0.1:1", "discovery cluster n1=http://127.0.0.1:1,n2=http://127.0.0.1:1 has duplicate url"},
		{"twice in DNS", dns, "n1=http://127.0.0.1:1,0=http://127.0.0.1:1", "has duplicate url"},
		{"a name that two have", service, "n1=http://127.0.0.1:1,n1=http://127.0.0.1:2", "missing from --initial-advertise-peer-urls"},
		{"another of the name", service, "n1=http://127.0.0.1:2,n2=http://127.0.0.1:3", "missing from --initial-advertise-peer-urls"},
		{"no URL", dns, "n1=127.0.0.1:1", "error setting up initial cluster: "},
	} {
		args := []string{"--name=n1", "--initial-advertise-peer-urls=http://127.0.0.1:1", c.way}
		if c.way == service {
			args = append(args, "--discovery-token=t")
		}
		if err := parsed(t, args...).Discovered(c.found); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestVerify: peers of a domain are held to its name where nothing else says whom to believe.
func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		found string
		want  string
	}{
		{"https", nil, "n1=https://127.0.0.1:1", "example.org"},
		{"authorities are named", []string{"--peer-trusted-ca-file=ca"}, "n1=https://127.0.0.1:1", ""},
		{"http", nil, "n1=http://127.0.0.1:1", ""},
	} {
		_, u, _ := strings.Cut(c.found, "=")
		got := parsed(t, append(c.args, "--name=n1", "--initial-advertise-peer-urls="+u, "--discovery-srv=example.org")...)
		if err := got.Discovered(c.found); err != nil {
			t.Fatal(err)
		}
		got.Discovery.Verify(got.Members, &got.PeerTLS)
		if got.PeerTLS.ServerName != c.want {
			t.Errorf("%s: verified as %q, want %q", c.name, got.PeerTLS.ServerName, c.want)
		}
	}
	static := parsed(t, "--name=n1", "--initial-advertise-peer-urls=https://127.0.0.1:1", "--initial-cluster=n1=https://127.0.0.1:1")
	if static.Discovery.Verify(static.Members, &static.PeerTLS); static.PeerTLS.ServerName != "" {
		t.Errorf("without a domain verified as %q", static.PeerTLS.ServerName)
	}
}

// TestHide: what a log shows of a command line has no password in it.
func TestHide(t *testing.T) {
	args := []string{"--discovery-password=p=q", "-discovery-password", "secret", "--name", "discovery-password", "--discovery-user=u", "--discovery-password"}
	want := []string{"--discovery-password=***", "-discovery-password", "***", "--name", "discovery-password", "--discovery-user=u", "--discovery-password"}
	if got := Hide(args); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	c, err := Parse([]string{"--discovery-token=t", "--discovery-endpoints=http://127.0.0.1:1"}, Environment{Environ: []string{"ETCD_DISCOVERY_PASSWORD=secret"}, Stdout: os.Stderr, Stderr: os.Stderr})
	if err != nil || c.Discovery.Password != "secret" || strings.Contains(fmt.Sprint(c.Notices), "secret") {
		t.Errorf("%v; logged: %v", err, c.Notices)
	}
}
