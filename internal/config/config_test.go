package config

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// parse runs Parse on a line of flags without blanks in them.
func parse(t *testing.T, env []string, args ...string) (*Config, string, error) {
	t.Helper()
	var out bytes.Buffer
	c, err := Parse(args, Environment{Environ: env, Stdout: &out, Stderr: &out})
	return c, out.String(), err
}

func warnings(c *Config) []string {
	var out []string
	for _, n := range c.Notices {
		if n.Level == slog.LevelWarn {
			line := n.Msg
			for i := 1; i < len(n.Attrs); i += 2 {
				if s, ok := n.Attrs[i].(string); ok {
					line += " " + s
				}
			}
			out = append(out, line)
		}
	}
	return out
}

func TestNoFlags(t *testing.T) {
	c, _, err := parse(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "default.pontoon" || c.Name != "default" || c.InitialRanges != 0 {
		t.Errorf("defaults: %+v", c)
	}
	if joinURLs(c.ListenClientURLs) != "http://localhost:2379" || joinURLs(c.AdvertiseClientURLs) != "http://localhost:2379" {
		t.Errorf("client URLs %v %v", c.ListenClientURLs, c.AdvertiseClientURLs)
	}
	if len(c.Members) != 1 || c.Members[0].Name != "default" || c.NodeID != c.Members[0].ID {
		t.Errorf("members %+v node %v", c.Members, c.NodeID)
	}
}

// The ids are those that etcd 3.7.3 printed for the same flags.
func TestIDsAreEtcds(t *testing.T) {
	c, _, err := parse(t, nil, "--name", "n1", "--listen-peer-urls=http://127.0.0.1:31002",
		"--initial-advertise-peer-urls", "http://127.0.0.1:31002", "--initial-cluster", "n1=http://127.0.0.1:31002")
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID != 0xd040b8b9ac19669 || c.ClusterID != 0x32f37cffa0fb5199 {
		t.Errorf("node %x cluster %x", c.NodeID, c.ClusterID)
	}
}

func TestFlagForms(t *testing.T) {
	c, _, err := parse(t, nil, "-name=a", "--name", "b", "--heartbeat-interval", "50", "--election-timeout=700",
		"--enable-pprof", "--max-txn-ops=7", "--log-outputs=stdout,/tmp/x,stdout", "--metrics=extensive",
		"--oracle-mode=quorum", "--cpu-scheduling=normal", "--batch-linger-max=4ms", "--shutdown-timeout=3s", "--timer-slack=5ms", "--cache-size=8MiB", "--placement=repair", "--dead-after=7s", "--merge-after=8s", "--range-max-bytes=1MiB", "--snapshot-rate=9MiB", "--requests-max=7", "--requests-max-bytes=2MiB", "--replication-factor=5", "--watch-progress-notify-interval=3s", "--ring-size=7MiB", "--lists-max-bytes=18MiB", "--delivery-memory=17MiB", "--orphan-streams=9s", "--drain-period=4s", "--max-connection-age=5s", "--max-connection-age-grace=6s")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "b" || c.HeartbeatInterval != 50*time.Millisecond || c.ElectionTimeout != 700*time.Millisecond ||
		!c.EnablePprof || c.MaxTxnOps != 7 || !c.MetricsExtensive || c.OracleMode != OracleQuorum || c.CPUScheduling != SchedulingNormal ||
		c.BatchLingerMax != 4*time.Millisecond || c.ShutdownTimeout != 3*time.Second || c.TimerSlack != 5*time.Millisecond ||
		c.CacheBytes != 8<<20 || c.Placement != PlacementRepair || c.DeadAfter != 7*time.Second || c.MergeAfter != 8*time.Second || c.RangeMaxBytes != 1<<20 || c.SnapshotRate != 9<<20 || c.RequestsMax != 7 || c.RequestsMaxBytes != 2<<20 || c.ReplicationFactor != 5 || c.WatchProgressNotifyInterval != 3*time.Second ||
		c.RingBytes != 7<<20 || c.ListsMaxBytes != 18<<20 || c.DeliveryMemory.Of(1, 1) != 17<<20 || c.OrphanStreams != 9*time.Second || c.DrainPeriod != 4*time.Second || c.MaxConnectionAge != 5*time.Second || c.MaxConnectionAgeGrace != 6*time.Second {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(c.LogOutputs, []string{"stdout", "/tmp/x"}) {
		t.Errorf("outputs %q", c.LogOutputs)
	}
	if c.InitialCluster != "b=http://localhost:2380" || c.DataDir != "b.pontoon" {
		t.Errorf("a name alone: cluster %s, data %s", c.InitialCluster, c.DataDir)
	}
}

func TestTuning(t *testing.T) {
	for _, c := range []struct {
		args  []string
		class string
		wait  time.Duration
		slack time.Duration
	}{
		{nil, SchedulingBatch, 15 * time.Millisecond, 0},
		{[]string{"--tuning=auto"}, SchedulingBatch, 15 * time.Millisecond, 0},
		{[]string{"--tuning=off"}, SchedulingNormal, 0, 0},
		{[]string{"--cpu-scheduling=batch", "--tuning=off"}, SchedulingBatch, 0, 0},
		{[]string{"--tuning=off", "--batch-linger-max=3ms", "--timer-slack=1ms"}, SchedulingNormal, 3 * time.Millisecond, time.Millisecond},
	} {
		got, _, err := parse(t, nil, c.args...)
		if err != nil || got.CPUScheduling != c.class || got.BatchLingerMax != c.wait || got.TimerSlack != c.slack {
			t.Errorf("%q: %+v, %v", c.args, got, err)
		}
	}
	if _, _, err := parse(t, nil, "--tuning=some"); err == nil {
		t.Error("--tuning=some was taken")
	}
}

func TestWrongFlags(t *testing.T) {
	client := []string{"--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1"}
	own := []string{"--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:31002"}
	tests := []struct {
		name  string
		args  []string
		usage bool // exit code 2 with the usage
		want  string
	}{
		{"unknown", []string{"--nope"}, true, "flag provided but not defined: -nope"},
		{"a store that is gone", []string{"--v2-deprecation=not-yet"}, true, `invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet"`},
		{"no value", []string{"--name"}, true, "flag needs an argument: -name"},
		{"not a number", []string{"--heartbeat-interval=abc"}, true, `invalid value "abc" for flag -heartbeat-interval: parse error`},
		{"not a bool", []string{"--strict-reconfig-check=maybe"}, true, "parse error"},
		{"scheme", []string{"--listen-client-urls=ftp://127.0.0.1:1"}, true, "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"},
		{"no port", []string{"--listen-client-urls=http://127.0.0.1"}, true, `URL address does not have the form "host:port": http://127.0.0.1`},
		{"path", []string{"--listen-client-urls=http://127.0.0.1:1/x"}, true, "URL must not contain a path: http://127.0.0.1:1/x"},
		{"state", []string{"--initial-cluster-state=foo"}, true, "foo"},
		{"gate", []string{"--feature-gates=Foo=true"}, true, "unrecognized feature gate: Foo"},
		{"streams", []string{"--max-concurrent-streams=x"}, true, "parse error"},
		{"ranges", []string{"--initial-ranges=0"}, true, "must be between 1 and 10000"},
		{"split key twice", []string{"--initial-split-keys=a,b,a"}, true, `split key "a" is given twice`},
		{"not a flag", []string{"foo"}, false, `"foo" is not a valid flag`},
		{"host name", []string{"--listen-client-urls=http://example.com:1", "--advertise-client-urls=http://127.0.0.1:1"}, false, "expected IP in URL for binding (http://example.com:1)"},
		{"no advertise", client[:1], false, "--advertise-client-urls is required when --listen-client-urls is set explicitly"},
		{"empty host", append([]string{"--advertise-client-urls=http://:1"}, client[0]), false, `--advertise-client-urls "http://:1" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (http://:1))`},
		{"empty peer host", []string{"--initial-advertise-peer-urls=http://:1"}, false, `--initial-advertise-peer-urls "http://:1" must be "host:port" (unexpected empty host (http://:1))`},
		{"no heartbeat", []string{"--heartbeat-interval=0"}, false, "--heartbeat-interval must be >0 (set to 0ms)"},
		{"no election", []string{"--election-timeout=0"}, false, "--election-timeout must be >0 (set to 0ms)"},
		{"too short", []string{"--election-timeout=400"}, false, "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
		{"too long", []string{"--election-timeout=60000"}, false, "--election-timeout[60000ms] is too long, and should be set less than 50000ms"},
		{"a long drain", []string{"--drain-period=2h"}, false, "--drain-period must be between 0 and 10m0s (set to 2h0m0s)"},
		{"a short age", []string{"--max-connection-age=1ms"}, false, "--max-connection-age must be 0 or at least 1s (set to 1ms)"},
		{"no grace", []string{"--max-connection-age-grace=0"}, false, "--max-connection-age-grace must be at least 1s (set to 0s)"},
		{"a long wait", []string{"--batch-linger-max=2s"}, false, "--batch-linger-max must be between 0 and 1s (set to 2s)"},
		{"small ranges", []string{"--range-max-bytes=1023KiB"}, true, "a range has 1MiB at least"},
		{"no requests", []string{"--requests-max=0"}, true, "must be 1 or more"},
		{"little to wait", []string{"--delivery-memory=15MiB"}, true, "at least"},
		{"no share", []string{"--delivery-memory=0%"}, true, "between 1% and 100%"},
		{"more than all", []string{"--delivery-memory=101%"}, true, "between 1% and 100%"},
		{"small lists", []string{"--lists-max-bytes=15MiB"}, true, "lists have 16MiB at least"},
		{"small requests", []string{"--requests-max-bytes=1023KiB"}, true, "requests have 1MiB at least"},
		{"slow snapshots", []string{"--snapshot-rate=1023KiB"}, true, "not between 1MiB and"},
		{"some placement", []string{"--placement=some"}, true, "some"},
		{"a long slack", []string{"--timer-slack=1s"}, false, "--timer-slack must be between 0 and 100ms (set to 1s)"},
		{"a slack backwards", []string{"--timer-slack=-1ms"}, false, "--timer-slack must be between 0 and 100ms (set to -1ms)"},
		{"merged at once", []string{"--merge-after=999ms"}, false, "--merge-after must be at least 1s (set to 999ms)"},
		{"dead at once", []string{"--dead-after=999ms"}, false, "--dead-after must be at least 1s (set to 999ms)"},
		{"a stop without time", []string{"--shutdown-timeout=0"}, false, "--shutdown-timeout must be between 1ms and 10m0s (set to 0s)"},
		{"a wait backwards", []string{"--batch-linger-max=-1ms"}, false, "--batch-linger-max must be between 0 and 1s (set to -1ms)"},
		{"local name", append([]string{"--initial-cluster=b=http://127.0.0.1:31002"}, own...), false, `couldn't find local name "a" in the initial cluster configuration`},
		{"empty cluster", append([]string{"--initial-cluster="}, own...), false, `couldn't find local name "a" in the initial cluster configuration`},
		{"not advertised", append([]string{"--initial-cluster=a=http://127.0.0.1:31003"}, own...), false, "--initial-cluster has a=http://127.0.0.1:31003 but missing from --initial-advertise-peer-urls=http://127.0.0.1:31002 ("},
		{"one not advertised", append([]string{"--initial-cluster=a=http://127.0.0.1:31002,a=http://127.0.0.1:31003"}, own...), false, `--initial-cluster has a=http://127.0.0.1:31003 but missing from --initial-advertise-peer-urls=http://127.0.0.1:31002 (len(["http://127.0.0.1:31002"]) != len(["http://127.0.0.1:31002" "http://127.0.0.1:31003"]))`},
		{"advertised only", []string{"--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2", "--initial-cluster=a=http://127.0.0.1:1"}, false, "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from --initial-cluster=a=http://127.0.0.1:1"},
		{"duplicate", append([]string{"--initial-cluster=a=http://127.0.0.1:31002,b=http://127.0.0.1:31002"}, own...), false, "initial cluster a=http://127.0.0.1:31002,b=http://127.0.0.1:31002 has duplicate url"},
		{"cluster form", append([]string{"--initial-cluster=a"}, own...), false, "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "},
		{"log format", []string{"--log-format=xml"}, false, "unknown log format: xml, supported values json, console"},
		{"log level", []string{"--log-level=loud"}, false, `unrecognized level: "loud"`},
		{"logger", []string{"--logger=foo"}, false, `unknown logger option "foo"`},
		{"log outputs", []string{"--log-outputs=stdout,default"}, false, `multi logoutput for "default" is not supported yet`},
		{"compaction mode", []string{"--auto-compaction-mode=x"}, false, `unknown auto-compaction-mode "x"`},
		{"retention", []string{"--auto-compaction-retention=soon"}, false, `error parsing CompactionRetention: time: invalid duration "soon"`},
		{"negative retention", []string{"--auto-compaction-retention=-1h"}, false, "--auto-compaction-retention must be >=0 (set to -1h)"},
		{"endless retention", []string{"--auto-compaction-retention=2562048"}, false, "--auto-compaction-retention must be less than 292 years (set to 2562048 hours)"},
		{"no retention", []string{"--auto-compaction-retention=9ms"}, false, "--auto-compaction-retention must be 0 or at least 10ms (set to 9ms)"},
		{"hash check", []string{"--compact-hash-check-time=0s"}, false, "--compact-hash-check-time must be >0 (set to 0s)"},
		{"no file", []string{"--config-file=/nope"}, false, "open /nope: no such file or directory"},
		{"half a discovery", []string{"--discovery-token=x"}, false, "both --discovery-token and --discovery-endpoints must be set"},
		{"the other half", []string{"--discovery-endpoints=http://127.0.0.1:1"}, false, "both --discovery-token and --discovery-endpoints must be set"},
		{"no endpoint", []string{"--discovery-token=x", "--discovery-endpoints=http://127.0.0.1:1,,"}, false, "--discovery-endpoints must not contain empty endpoints"},
		{"two ways", []string{"--discovery-token=x", "--discovery-endpoints=http://127.0.0.1:1", "--initial-cluster=default=http://localhost:2380"}, false, manyWays},
		{"two other ways", []string{"--discovery-srv=example.org", "--initial-cluster=default=http://localhost:2380"}, false, manyWays},
		{"two more", []string{"--discovery-srv=example.org", "--discovery-token=x", "--discovery-endpoints=http://127.0.0.1:1"}, false, manyWays},
		{"a service of no domain", []string{"--discovery-srv-name=x"}, false, `couldn't find local name "default" in the initial cluster configuration`},
		{"proxy", []string{"--discovery-fallback=proxy"}, false, `v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy"`},
		{"fallback", []string{"--discovery-fallback=hope"}, true, "invalid value"},
		{"v2", []string{"--discovery=http://127.0.0.1:1"}, true, "not defined"},
		{"v2 proxy", []string{"--discovery-proxy=http://127.0.0.1:1"}, true, "not defined"},
		{"peer https", []string{"--listen-peer-urls=https://127.0.0.1:1", "--peer-client-cert-auth"}, false, "cannot listen on TLS for 127.0.0.1:1: KeyFile and CertFile are not presented"},
		{"nobody can verify", []string{"--peer-auto-tls", "--peer-trusted-ca-file=ca"}, false, "--peer-auto-tls makes certificates that no peer can verify"},
		{"https", []string{"--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"}, false, "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme"},
		{"unixs", []string{"--listen-client-http-urls=unixs://x:1"}, false, "TLS key/cert (--cert-file, --key-file) must be provided for client url unixs://x:1 with HTTPS scheme"},
		{"metrics", []string{"--listen-metrics-urls=https://127.0.0.1:1"}, false, "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"},
		{"one socket", []string{"--cert-file=x", "--listen-client-http-urls=https://localhost:2379"}, false, "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url https://localhost:2379"},
		{"suite", []string{"--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA,NOPE"}, false, `unexpected TLS cipher suite "NOPE"`},
		{"suites of 1.3", []string{"--tls-min-version=TLS1.3", "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"}, false, "cipher suites cannot be configured when only TLS1.3 is enabled"},
		{"versions", []string{"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"}, false, "min version (TLS1.3) is greater than max version (TLS1.2)"},
		{"version", []string{"--tls-max-version=TLS1.1"}, false, `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`},
		{"force", []string{"--force-new-cluster"}, false, "not supported"},
		{"both cuts", []string{"--initial-ranges=2", "--initial-split-keys=a"}, false, "exclude each other"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, out, err := parse(t, nil, tt.args...)
			if err == nil {
				t.Fatal("accepted")
			}
			var usage *UsageError
			if got := errors.As(err, &usage); got != tt.usage {
				t.Errorf("usage error: %v, want %v (%v)", got, tt.usage, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			if tt.usage && (!strings.Contains(out, tt.want) || !strings.Contains(out, "Usage:")) {
				t.Errorf("output: %s", out)
			}
		})
	}
}

// TestCompactionRetention: a bare number is hours, or revisions.
func TestCompactionRetention(t *testing.T) {
	for _, tt := range []struct {
		mode, retention string
		period          time.Duration
		keep            int64
	}{
		{"periodic", "0", 0, 0}, {"periodic", "2", 2 * time.Hour, 0}, {"periodic", "90m", 90 * time.Minute, 0},
		{"revision", "0", 0, 0}, {"revision", "1000", 0, 1000}, {"revision", "1us", 0, 1000}, {"revision", "9223372036854775807", 0, math.MaxInt64},
	} {
		c, _, err := parse(t, nil, "--name=a", "--data-dir=d", "--auto-compaction-mode="+tt.mode, "--auto-compaction-retention="+tt.retention)
		if err != nil || c.CompactPeriod != tt.period || c.CompactKeep != tt.keep || len(warnings(c)) > 0 {
			t.Errorf("%s %s: %v, %d, %v, %q", tt.mode, tt.retention, c.CompactPeriod, c.CompactKeep, err, warnings(c))
		}
	}
}

func TestEquivalentHostNames(t *testing.T) {
	if _, _, err := parse(t, nil, "--name=a", "--initial-advertise-peer-urls=http://127.0.0.1:1",
		"--initial-cluster=a=http://localhost:1"); err != nil {
		t.Error(err)
	}
}

func TestEveryForeignFlagWarnsOnce(t *testing.T) {
	for _, g := range append(groups(), flagGroup{flags: oldFlags()}) {
		for _, s := range g.flags {
			if s.fate != fateIgnored {
				continue
			}
			v := s.def
			if v == "" {
				v = "x"
			}
			c, _, err := parse(t, nil, "--name=a", "--data-dir=d", "--"+s.name+"="+v, "--"+s.name+"="+v)
			if err != nil {
				t.Errorf("%s: %v", s.name, err)
				continue
			}
			if w := warnings(c); len(w) != 1 || !strings.Contains(w[0], "--"+s.name) {
				t.Errorf("%s: warnings %q", s.name, w)
			}
		}
	}
}

func TestRefusedFlagsAtTheirDefault(t *testing.T) {
	for _, g := range groups() {
		for _, s := range g.flags {
			if s.fate != fateRefused {
				continue
			}
			if _, _, err := parse(t, nil, "--"+s.name+"="+s.def); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	env := []string{"ETCD_NAME=fromenv", "ETCD_HEARTBEAT_INTERVAL=20", "ETCD_NO_SUCH=1", "ETCDCTL_API=3", "ETCD_ENABLE_PPROF=true", "ETCD_INITIAL_RANGES=4", "ETCD_DATA_DIR=d"}
	c, _, err := parse(t, env, "--name=fromflag")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "fromflag" || c.HeartbeatInterval != 20*time.Millisecond || !c.EnablePprof || c.InitialRanges != 4 || c.DataDir != "d" {
		t.Errorf("%+v", c)
	}
	w := strings.Join(warnings(c), "\n")
	if !strings.Contains(w, "ETCD_NO_SUCH=1") || !strings.Contains(w, "ETCD_NAME") || strings.Contains(w, "ETCDCTL") {
		t.Errorf("warnings:\n%s", w)
	}
	if _, _, err := parse(t, []string{"ETCD_HEARTBEAT_INTERVAL=x"}); err == nil ||
		err.Error() != `invalid value "x" for ETCD_HEARTBEAT_INTERVAL: parse error` {
		t.Errorf("got %v", err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	text := `
name: fromfile
data-dir: /x
heartbeat-interval: 30
listen-client-urls: http://127.0.0.1:7,http://127.0.0.1:8
advertise-client-urls: http://127.0.0.1:7
log-outputs: [stdout, stderr]
watch-progress-notify-interval: 2000000000
initial-split-keys: 'a,b'
enable-pprof: true
quota-backend-bytes: 0
auto-compaction-mode: revision
auto-compaction-retention: "1000"
auto-tls: null
client-transport-security:
  cert-file: ""
  client-cert-auth: false
what-is-this: 1
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := parse(t, []string{"ETCD_CONFIG_FILE=" + path, "ETCD_NAME=env"}, "--name=flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "fromfile" || c.DataDir != "/x" || c.HeartbeatInterval != 30*time.Millisecond ||
		len(c.ListenClientURLs) != 2 || !slices.Equal(c.LogOutputs, []string{"stdout", "stderr"}) ||
		c.WatchProgressNotifyInterval != 2*time.Second || len(c.InitialSplitKeys) != 2 || !c.EnablePprof || c.CompactKeep != 1000 {
		t.Errorf("%+v", c)
	}
	w := strings.Join(warnings(c), "\n")
	if !strings.Contains(w, "what-is-this") || !strings.Contains(w, "will be ignored") {
		t.Errorf("warnings:\n%s", w)
	}
}

func TestTLS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	text := `
listen-client-urls: https://127.0.0.1:7,http://127.0.0.1:8
advertise-client-urls: https://127.0.0.1:7
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]
tls-max-version: TLS1.2
self-signed-cert-validity: 3
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-file: cc
  client-key-file: ck
  client-cert-auth: true
  trusted-ca-file: ca
  auto-tls: true
  allowed-hostname: [a, b]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile, _, err := parse(t, nil, "--config-file", path)
	if err != nil {
		t.Fatal(err)
	}
	fromFlags, _, err := parse(t, []string{"ETCD_CLIENT_CRL_FILE="}, "--listen-client-urls=https://127.0.0.1:7,http://127.0.0.1:8", "--advertise-client-urls=https://127.0.0.1:7",
		"--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "--tls-max-version=TLS1.2", "--self-signed-cert-validity=3",
		"--cert-file=c", "--key-file=k", "--client-cert-file=cc", "--client-key-file=ck", "--client-cert-auth", "--trusted-ca-file=ca", "--auto-tls", "--client-cert-allowed-hostname=a,b")
	if err != nil {
		t.Fatal(err)
	}
	want := transport.TLSInfo{CertFile: "c", KeyFile: "k", ClientCertFile: "cc", ClientKeyFile: "ck", ClientCertAuth: true, TrustedCAFile: "ca",
		AllowedHostnames: []string{"a", "b"}, CipherSuites: []uint16{0xc02f, 0xcca8}, MinVersion: 0x0303, MaxVersion: 0x0303}
	for _, c := range []*Config{fromFile, fromFlags} {
		if !reflect.DeepEqual(c.ClientTLS, want) || !c.ClientAutoTLS || c.SelfSignedCertValidity != 3 {
			t.Errorf("%+v", c)
		}
		w := strings.Join(warnings(c), "\n")
		for _, line := range []string{
			"scheme is http or unix while key and cert files are present; ignoring key and cert files http://127.0.0.1:8",
			"scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL http://127.0.0.1:8",
		} {
			if strings.Count(w, line) != 1 {
				t.Errorf("%q is not there once:\n%s", line, w)
			}
		}
	}
	peers := "peer-transport-security: {cert-file: c, key-file: k, client-cert-file: cc, client-key-file: ck, client-cert-auth: true, trusted-ca-file: ca, auto-tls: true, allowed-cn: [a, b], skip-client-san-verification: true}"
	if err := os.WriteFile(path, []byte(peers), 0o600); err != nil {
		t.Fatal(err)
	}
	want.AllowedHostnames, want.AllowedCNs, want.SkipClientSANVerify, want.CipherSuites, want.MaxVersion = nil, []string{"a", "b"}, true, nil, 0
	got, _, err := parse(t, nil, "--config-file", path)
	if err != nil || !reflect.DeepEqual(got.PeerTLS, want) || !got.PeerAutoTLS {
		t.Errorf("%+v, %v", got, err)
	}
	if w := strings.Join(warnings(got), "\n"); !strings.Contains(w, "scheme is HTTP while key and cert files are present; ignoring key and cert files http://localhost:2380") {
		t.Errorf("warnings:\n%s", w)
	}
	named, _, err := parse(t, nil, "--peer-cert-allowed-hostname=x,y", "--peer-crl-file=z")
	if err != nil || !slices.Equal(named.PeerTLS.AllowedHostnames, []string{"x", "y"}) || named.PeerTLS.CRLFile != "z" {
		t.Errorf("%+v, %v", named, err)
	}
	crl, _, err := parse(t, nil, "--client-crl-file=x")
	if err != nil || crl.ClientTLS.CRLFile != "x" {
		t.Errorf("%+v, %v", crl, err)
	}
}

func TestSplitKeys(t *testing.T) {
	c, _, err := parse(t, nil, `--initial-split-keys=z,/奥特曼,\x00\xff,"q\x2cr",it's`)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]byte{{0, 0xff}, []byte("/奥特曼"), []byte("it's"), []byte("q,r"), []byte("z")}
	if !reflect.DeepEqual(c.InitialSplitKeys, want) {
		t.Errorf("%q", c.InitialSplitKeys)
	}
}

func TestHelpAndVersion(t *testing.T) {
	_, out, err := parse(t, nil, "--help")
	if !errors.Is(err, ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"Member:", "Clustering:", "--initial-cluster-token 'etcd-cluster'", "--initial-ranges", "Unsafe feature:"} {
		if !strings.Contains(out, want) {
			t.Errorf("help lacks %q", want)
		}
	}
	for _, g := range groups() {
		for _, f := range g.flags {
			if f.fate != fateRefused {
				continue
			}
			_, instead, _ := strings.Cut(f.why, ": ")
			if at := strings.Index(out, "--"+f.name+" '"+f.def+"'\n    Refused: "+f.why); at < 0 || instead == "" {
				t.Errorf("help of --%s does not say what to use instead: %q", f.name, f.why)
			}
		}
	}
	if _, _, err := parse(t, nil, "--version", "--name=x"); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v", err)
	}
}

func TestListenAddress(t *testing.T) {
	for text, want := range map[string][2]string{
		"http://127.0.0.1:1":  {"tcp", "127.0.0.1:1"},
		"unix:///run/p.sock":  {"unix", "/run/p.sock"},
		"unix://localhost:12": {"unix", "localhost:12"},
	} {
		network, address := ListenAddress(&mustURLs(text)[0])
		if network != want[0] || address != want[1] {
			t.Errorf("%s: %s %s", text, network, address)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--initial-split-keys", `a,\x00`)
	f.Add("--initial-cluster", "default=http://localhost:2380,b=http://1.2.3.4:5")
	f.Add("--listen-client-urls", "unix://x,http://[::1]:3")
	f.Fuzz(func(t *testing.T, name, value string) {
		if strings.Contains(name, "config-file") || strings.Contains(value, "://") && !strings.Contains(value, "127.0.0.1") {
			return // neither files nor name servers
		}
		_, _, _ = parse(t, nil, name, value)
	})
}

// FuzzFile: a configuration file is refused or read, and what was read is checked like flags are.
func FuzzFile(f *testing.F) {
	f.Add("name: n1\ninitial-split-keys: a,m\nheartbeat-interval: 100\n")
	f.Add("client-transport-security:\n  cert-file: x\nsocket-options: {reuse-port: true}\n")
	f.Add("election-timeout: 99999999999999999999\nlog-outputs: [default, {a: 1}]\n")
	f.Add("a: &a [*a]\n")
	f.Add("discovery-config: 7\n? [x]\n: y\n")
	f.Add("discovery-config: {token: t, client: {endpoints: [http://127.0.0.1:1], secure: {cert: c}, auth: [1]}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "://") && !strings.Contains(text, "127.0.0.1") {
			return // no name servers
		}
		path := filepath.Join(t.TempDir(), "node.yml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := parse(t, nil, "--config-file", path)
		if err == nil && c.Validate() != nil {
			t.Fatalf("%q passed, and is not valid: %v", text, c.Validate())
		}
	})
}

// FuzzEnvironment: variables are read as flags are.
func FuzzEnvironment(f *testing.F) {
	f.Add("ETCD_NAME", "n1")
	f.Add("ETCD_HEARTBEAT_INTERVAL", "-1")
	f.Add("ETCD_INITIAL_CLUSTER", "a=,=b,")
	f.Fuzz(func(t *testing.T, name, value string) {
		if strings.Contains(name, "CONFIG_FILE") || strings.Contains(value, "://") && !strings.Contains(value, "127.0.0.1") {
			return
		}
		if c, _, err := parse(t, []string{name + "=" + value}); err == nil && c.Validate() != nil {
			t.Fatalf("%s=%q passed, and is not valid: %v", name, value, c.Validate())
		}
	})
}

// TestMirrorAutoSize: a share, bytes, or nothing; of gateways alone.
func TestMirrorAutoSize(t *testing.T) {
	for flag, want := range map[string]int64{"": 1 << 30 / 10, "50%": 1 << 29, "3MiB": 3 << 20, "0": 0} {
		args := []string{"--role=gateway", "--join=http://127.0.0.1:1"}
		if flag != "" {
			args = append(args, "--mirror-auto-size="+flag)
		}
		c, _, err := parse(t, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.MirrorAutoSize.Of(1<<30, 7); got/100 != want/100 {
			t.Errorf("%q of 1 GiB: %d, want %d", flag, got, want)
		}
	}
	for _, args := range [][]string{{"--mirror-auto-size=1MiB"}, {"--role=gateway", "--join=http://127.0.0.1:1", "--mirror-auto-size=0%"}} {
		if _, _, err := parse(t, nil, args...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

// TestDeliveryMemory: a share is of what the process may use, and 16 MiB at least.
func TestDeliveryMemory(t *testing.T) {
	for _, c := range []struct {
		flag  string
		limit int64
		want  int64
	}{
		{"25%", 1 << 30, 1 << 28}, {"25%", 1 << 20, 16 << 20}, {"100%", 1 << 30, 1 << 30}, {"25%", 0, 7}, {"20MiB", 1 << 30, 20 << 20},
	} {
		var cfg Config
		if err := setDeliveryMemory(&cfg, c.flag); err != nil {
			t.Fatal(err)
		}
		if got := cfg.DeliveryMemory.Of(c.limit, 7); got/100 != c.want/100 {
			t.Errorf("%s of %d: %d, want %d", c.flag, c.limit, got, c.want)
		}
	}
}
