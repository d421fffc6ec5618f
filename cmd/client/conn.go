package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"pontoon/internal/exitcode"
	"pontoon/shard/router/etcdshim"
)

// The values of --direct.
const (
	directAuto   = "auto"
	directAlways = "always"
	directNever  = "never"
)

var directModes = []string{directAuto, directAlways, directNever}

// globalFlags are those of every command.
type globalFlags struct {
	endpoints          []string
	output             string
	direct             string
	hex, debug         bool
	dialTimeout        time.Duration
	commandTimeout     time.Duration
	keepAliveTime      time.Duration
	keepAliveTimeout   time.Duration
	maxSend, maxRecv   int
	insecureTransport  bool
	insecureSkipVerify bool
	tls                transport.TLSInfo
	user, password     string
}

func (g *globalFlags) bind(fs *pflag.FlagSet) {
	fs.StringSliceVar(&g.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "client addresses of nodes")
	fs.StringVarP(&g.output, "write-out", "w", "simple", "output format: "+strings.Join(outputFormats, ", "))
	fs.StringVar(&g.direct, "direct", directAuto, "send get, put, del, txn and compact straight to the leaders: "+strings.Join(directModes, ", "))
	fs.BoolVar(&g.hex, "hex", false, "print keys and values as hexadecimal escapes")
	fs.BoolVar(&g.debug, "debug", false, "log what the connection does")
	fs.DurationVar(&g.dialTimeout, "dial-timeout", 2*time.Second, "patience for a connection")
	fs.DurationVar(&g.commandTimeout, "command-timeout", 5*time.Second, "patience for a short command, connecting not included")
	fs.DurationVar(&g.keepAliveTime, "keepalive-time", 2*time.Second, "pause between keep-alive probes")
	fs.DurationVar(&g.keepAliveTimeout, "keepalive-timeout", 6*time.Second, "patience for the answer to a probe")
	fs.IntVar(&g.maxSend, "max-request-bytes", 0, "largest request to send; 0: 2 MiB")
	fs.IntVar(&g.maxRecv, "max-recv-bytes", 0, "largest response to take; 0: no limit")
	fs.BoolVar(&g.insecureTransport, "insecure-transport", true, "no TLS, unless certificates are given")
	fs.BoolVar(&g.insecureSkipVerify, "insecure-skip-tls-verify", false, "do not verify the server's certificate (for tests only)")
	fs.StringVar(&g.tls.CertFile, "cert", "", "file of the client's TLS certificate")
	fs.StringVar(&g.tls.KeyFile, "key", "", "file of the client's TLS key")
	fs.StringVar(&g.tls.TrustedCAFile, "cacert", "", "file of the authorities that servers are verified by")
	fs.StringVar(&g.user, "user", "", "user name, or name:password")
	fs.StringVar(&g.password, "password", "", "password of the user")
}

// tlsConfig is nil without TLS.
func (g *globalFlags) tlsConfig(endpoint string) (*tls.Config, error) {
	secure := strings.HasPrefix(endpoint, "https://") || strings.HasPrefix(endpoint, "unixs://")
	if g.tls.Empty() && g.tls.TrustedCAFile == "" && !secure && g.insecureTransport {
		return nil, nil
	}
	cfg, err := g.tls.ClientConfig()
	if err != nil {
		return nil, exitcode.With(exitBadArgs, err)
	}
	cfg.InsecureSkipVerify = g.insecureSkipVerify
	return cfg, nil
}

// config is what a connection to the endpoints is made with.
func (a *app) config(endpoints []string) (clientv3.Config, error) {
	g := &a.flags
	if len(endpoints) == 0 {
		return clientv3.Config{}, badArgs("no endpoints: --endpoints is empty")
	}
	tlsConfig, err := g.tlsConfig(endpoints[0])
	if err != nil {
		return clientv3.Config{}, err
	}
	cfg := clientv3.Config{
		Endpoints: endpoints, TLS: tlsConfig, Logger: zap.NewNop(),
		DialTimeout: g.dialTimeout, DialKeepAliveTime: g.keepAliveTime, DialKeepAliveTimeout: g.keepAliveTimeout,
		MaxCallSendMsgSize: g.maxSend, MaxCallRecvMsgSize: g.maxRecv,
		Username: g.user, Password: g.password,
	}
	if name, pass, ok := strings.Cut(g.user, ":"); ok && g.password == "" {
		cfg.Username, cfg.Password = name, pass
	}
	if g.debug {
		if cfg.Logger, err = zap.NewDevelopment(); err != nil {
			return clientv3.Config{}, fmt.Errorf("client: set up the log: %w", err)
		}
	}
	return cfg, nil
}

// newConn opens a connection to the endpoints.
func (a *app) newConn(endpoints []string) (*clientv3.Client, error) {
	cfg, err := a.config(endpoints)
	if err != nil {
		return nil, err
	}
	c, err := clientv3.New(cfg)
	return c, exitcode.With(exitBadConnection, err)
}

// newKVConn opens a connection for keys: to the leaders as far as --direct says so.
func (a *app) newKVConn(ctx context.Context) (*clientv3.Client, error) {
	if a.flags.direct == directNever {
		return a.newConn(a.flags.endpoints)
	}
	cfg, err := a.config(a.flags.endpoints)
	if err != nil {
		return nil, err
	}
	var c *clientv3.Client
	if a.flags.direct == directAlways {
		c, err = etcdshim.NewDirect(ctx, cfg)
	} else {
		c, err = etcdshim.New(cfg)
	}
	return c, exitcode.With(exitBadConnection, err)
}

// with opens a connection, calls fn with it, and closes it.
func (a *app) with(fn func(*clientv3.Client) error) error {
	c, err := a.newConn(a.flags.endpoints)
	return use(c, err, fn)
}

// withKV is with for the commands on keys.
func (a *app) withKV(ctx context.Context, fn func(*clientv3.Client) error) error {
	c, err := a.newKVConn(ctx)
	return use(c, err, fn)
}

func use(c *clientv3.Client, err error, fn func(*clientv3.Client) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the command's outcome counts, not the parting
	return fn(c)
}

// briefly bounds ctx by --command-timeout.
func (a *app) briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.flags.commandTimeout)
}

// httpURL turns an endpoint into a URL on the same port. That of a socket of the machine has no host to name.
func (g *globalFlags) httpURL(endpoint, path string) (string, error) {
	scheme := "http"
	if secure := !g.tls.Empty() || g.tls.TrustedCAFile != "" || !g.insecureTransport; secure && !strings.Contains(endpoint, "://") || strings.HasPrefix(endpoint, "unixs:") {
		scheme = "https"
	}
	if _, ok := socket(endpoint); ok {
		endpoint = scheme + "://localhost"
	} else if !strings.Contains(endpoint, "://") {
		endpoint = scheme + "://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return "", badArgs("endpoint %q: need http, https, unix, unixs or host:port", endpoint)
	}
	u.Path, u.RawQuery, _ = strings.Cut(path, "?")
	return u.String(), nil
}

// socket is the file of an endpoint that is a socket of the machine.
func socket(endpoint string) (path string, ok bool) {
	scheme, path, _ := strings.Cut(endpoint, ":")
	return strings.TrimPrefix(path, "//"), scheme == "unix" || scheme == "unixs"
}
